"""The `webuiapi` client, unmodified, against a live server with the shipped model: every method that the core answers.

Methods for extensions other than ControlNet (rembg, …) have no server here; webuiapi asks for them only when told to.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from PIL import Image

from modules.frontends import serve
from modules.imaging.metadata import read_infotext
from modules.nets.unet import UNetConfig
from modules.pipeline.run import Engine
from modules.schema.folders import Folders
from modules.service.generation import GenerationService
from modules.service.worker import ThreadWorker
from modules.weights.recognise import recognise
from tests.weights.tiny import write_control

webuiapi = pytest.importorskip("webuiapi")
SHIPPED = Path(__file__).parents[2] / "models" / "Stable-diffusion"
SMALL = {"steps": 4, "width": 64, "height": 64, "cfg_scale": 5}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folders = Folders.under(tmp_path_factory.mktemp("webuiapi"))
    return Engine(Folders(**{**vars(folders), "checkpoint_dirs": (*folders.checkpoint_dirs, SHIPPED)}))


@pytest.fixture(scope="module")
def service(engine: Engine) -> Iterator[GenerationService]:
    service = GenerationService(engine.folders, lambda _: ThreadWorker(lambda: engine))
    yield service
    service.close()


@pytest.fixture(scope="module")
def api(service: GenerationService) -> Iterator[Any]:
    bound = serve.open_port("127.0.0.1", 0)
    app = serve.build_app(service, page=False, flags={"api": True})
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, args=([bound],), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield webuiapi.WebUIApi(port=bound.getsockname()[1], sampler="Euler a", steps=4)
    server.should_exit = True
    thread.join(10)
    bound.close()


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB")).astype(int)


def test_it_draws(api, test_seed):
    seed = test_seed % 10_000
    first = api.txt2img(prompt="a red house", seed=seed, batch_size=2, **SMALL)
    alone = api.txt2img(prompt="a red house", seed=seed + 1, **SMALL)
    assert [image.size for image in first.images] == [(64, 64)] * 2
    assert np.array_equal(pixels(first.images[1]), pixels(alone.image))
    assert not np.array_equal(pixels(first.images[0]), pixels(first.images[1]))
    assert pixels(alone.image).std() > 10
    assert first.info["all_seeds"] == [seed, seed + 1]
    assert read_infotext(first.images[0]) == first.info["infotexts"][0]
    assert "Sampler: Euler a" in first.info["infotexts"][0]
    assert first.parameters["steps"] == 4


def test_it_draws_from_a_picture_and_within_a_mask(api, test_seed):
    seed = test_seed % 10_000
    start = api.txt2img(prompt="a red house, night", seed=seed, **SMALL).image
    little = api.img2img(images=[start], prompt="a red house, night", seed=seed, denoising_strength=0.3, **SMALL).image
    much = api.img2img(images=[start], prompt="a blue boat, day", seed=seed, denoising_strength=0.9, **SMALL).image
    change = [np.abs(pixels(image) - pixels(start)).mean() for image in (little, much)]
    assert change[0] < change[1]
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 64, 24))
    half = api.img2img(
        images=[start], mask_image=mask, mask_blur=0, inpainting_fill=1, inpaint_full_res=False,
        prompt="a blue boat, day", seed=seed, denoising_strength=0.9, **SMALL,
    ).image  # fmt: skip
    assert np.abs(pixels(half)[32:] - pixels(start)[32:]).max() <= 1
    assert np.abs(pixels(half)[:24] - pixels(start)[:24]).mean() > 2


def test_it_works_on_pictures(api, test_seed):
    picture = api.txt2img(prompt="a red house", seed=test_seed % 10_000, **SMALL).image
    larger = api.extra_single_image(image=picture, upscaler_1="Lanczos", upscaling_resize=2).image
    assert larger.size == (128, 128)
    expected = picture.resize((128, 128), Image.Resampling.LANCZOS)
    assert np.abs(pixels(larger) - pixels(expected)).max() <= 1
    both = api.extra_batch_images(images=[picture, picture], upscaler_1="Nearest", upscaling_resize=1.5).images
    assert [image.size for image in both] == [(96, 96)] * 2
    assert api.png_info(picture).info == read_infotext(picture)
    with pytest.raises(RuntimeError, match="404"):
        api.interrogate(picture)


def test_it_asks_and_sets(api, service):
    options = api.get_options()
    assert options["sd_model_checkpoint"].startswith("postcards")
    options["CLIP_stop_at_last_layers"] = 2
    assert api.set_options(options) is None
    assert service.settings.model.CLIP_stop_at_last_layers == 2
    assert api.set_options({"CLIP_stop_at_last_layers": 1}) is None
    assert api.util_get_current_model().startswith("postcards")
    api.util_set_model("postcards")
    assert service.settings.model.sd_model_checkpoint == "postcards"
    assert api.get_cmd_flags() == {"api": True}
    api.util_wait_for_ready(check_interval=0.1)
    assert api.get_progress()["state"]["job_count"] == 0
    assert api.interrupt() == {}
    assert api.skip() is None
    assert api.refresh_checkpoints() is None


def test_it_lists(api):
    assert "Euler a" in api.util_get_sampler_names()
    assert "karras" in api.util_get_scheduler_names()
    assert [name.split(".")[0] for name in api.util_get_model_names()] == ["postcards"]
    assert [one["name"] for one in api.get_upscalers()][:3] == ["None", "Lanczos", "Nearest"]
    assert api.get_latent_upscale_modes()[0] == {"name": "Latent"}
    assert {"prompt matrix", "x/y/z plot", "refiner"} <= {*api.get_scripts()["txt2img"]}
    assert api.get_embeddings() == {"loaded": {}, "skipped": {}}
    assert api.get_memory()["ram"]["total"] > 0
    for empty in (
        api.get_sd_vae, api.get_loras, api.get_hypernetworks, api.get_face_restorers, api.get_realesrgan_models,
        api.get_prompt_styles,
    ):  # fmt: skip
        assert empty() == []
    for old in (api.get_artists, api.get_artist_categories):
        assert old()["detail"] == "Not Found"


def test_its_other_ways_to_ask(api):
    assert {one["name"] for one in api.get_samplers()} == {*api.util_get_sampler_names()}
    assert {one["name"] for one in api.get_schedulers()} == {*api.util_get_scheduler_names()}
    assert [one["title"] for one in api.get_sd_models()] == api.util_get_model_names()
    assert api.custom_get("sdapi/v1/cmd-flags") == api.custom_get("cmd-flags", baseurl=True) == {"api": True}
    assert api.custom_post("sdapi/v1/interrupt").json == {}
    assert api.get_endpoint("health", baseurl=False).endswith("/health")
    api.check_extensions()
    # Extensions that are not there: an answer that says so, never a page of HTML or a 500.
    with pytest.raises(KeyError):
        api.list_prompt_gen_models()
    with pytest.raises(RuntimeError, match="404"):
        api.prompt_gen()


def test_it_draws_along_a_picture(api, service, test_seed):
    config = UNetConfig(**recognise(SHIPPED / "postcards.safetensors")[1].unet.config)
    nets = service.folders.models / "ControlNet"
    write_control(nets / "control_v11p_sd15_canny.safetensors", config, test_seed, strength=0.5)
    assert api.controlnet_version() == 3
    (model,) = api.controlnet_model_list()
    assert model.startswith("control_v11p_sd15_canny [")
    assert {"none", "canny", "invert", "tile_resample"} <= set(api.controlnet_module_list())
    picture = Image.new("RGB", (64, 64), (20, 20, 20))
    picture.paste((230, 230, 230), (16, 16, 48, 48))
    (lines,) = api.controlnet_detect([picture], "canny", processor_res=64, threshold_a=100, threshold_b=200).images

    def drawn(**unit):  # the client keeps units in its default of alwayson_scripts
        units = [webuiapi.ControlNetUnit(image=picture, module="canny", model=model, **unit)]
        return api.txt2img(prompt="a red house", seed=1, alwayson_scripts={}, controlnet_units=units, **SMALL)

    plain = api.txt2img(prompt="a red house", seed=1, **SMALL)
    along = drawn(processor_res=64, threshold_a=100, threshold_b=200)
    assert np.abs(pixels(along.image) - pixels(plain.image)).mean() > 1
    assert f"Module: canny, Model: {model}, Weight: 1" in along.info["infotexts"][0]
    assert np.array_equal(pixels(drawn(enabled=False).image), pixels(plain.image))
    named = [webuiapi.ControlNetUnit(image=lines, module="none", model=model)]
    same = api.txt2img(prompt="a red house", seed=1, alwayson_scripts={}, controlnet_units=named, **SMALL)
    assert np.array_equal(pixels(same.image), pixels(along.image))
    source = [webuiapi.ControlNetUnit(module="canny", model=model)]
    api.img2img(images=[picture], prompt="a red house", seed=1, alwayson_scripts={}, controlnet_units=source, **SMALL)
    with pytest.raises(RuntimeError, match="has no picture"):
        api.txt2img(prompt="a red house", alwayson_scripts={}, controlnet_units=source, **SMALL)


def test_it_logs_in(service):
    bound = serve.open_port("127.0.0.1", 0)
    sharing = serve.Sharing(logins=serve.Logins(api_users=[("ann", "word")]))
    server = uvicorn.Server(uvicorn.Config(serve.build_app(service, sharing, page=False), log_level="error"))
    thread = threading.Thread(target=server.run, args=([bound],), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    client = webuiapi.WebUIApi(port=bound.getsockname()[1])
    assert "detail" in client.get_options()
    client.set_auth("ann", "word")
    assert "sd_model_checkpoint" in client.get_options()
    server.should_exit = True
    thread.join(10)
    bound.close()


def test_it_makes_a_plot(api, test_seed):
    args = [1, f"{test_seed % 1000}-{test_seed % 1000 + 1}", [], 4, "2,3", [], 0, "", [], False, True]
    found = api.txt2img(prompt="a red house", script_name="X/Y/Z Plot", script_args=args, **SMALL)
    side = SMALL["width"]
    assert [image.size for image in found.images] == [(2 * side, 2 * side), *[(side, side)] * 4]
    assert np.array_equal(pixels(found.images[0])[:side, side:], pixels(found.images[2]))
    assert found.info["index_of_first_image"] == 1
    assert len(found.info["infotexts"]) == 5


def test_it_waits_without_blocking(api, test_seed):
    pytest.importorskip("aiohttp")

    async def draw() -> Image.Image:
        found = await api.txt2img(prompt="a red house", seed=test_seed % 10_000, use_async=True, **SMALL)
        return found.image

    expected = api.txt2img(prompt="a red house", seed=test_seed % 10_000, **SMALL).image
    assert np.array_equal(pixels(asyncio.run(draw())), pixels(expected))


def test_it_unloads_and_loads_the_model(api, engine, test_seed):
    seed = test_seed % 10_000
    before = api.txt2img(prompt="a red house", seed=seed, **SMALL).image
    assert engine.stats()["checkpoint"] == "postcards"
    for path, loaded in (("unload-checkpoint", None), ("reload-checkpoint", "postcards"), ("unload-checkpoint", None)):
        assert api.session.post(f"{api.baseurl}/{path}").json() == {}
        until = time.monotonic() + 30
        while engine.stats()["checkpoint"] != loaded and time.monotonic() < until:
            time.sleep(0.01)
        assert engine.stats()["checkpoint"] == loaded
    after = api.txt2img(prompt="a red house", seed=seed, **SMALL).image
    assert np.array_equal(pixels(before), pixels(after))


def test_it_is_interrupted(api, test_seed):
    answers = []
    body = {"prompt": "a red house", "seed": test_seed % 10_000, "n_iter": 50, **SMALL, "steps": 20}
    thread = threading.Thread(target=lambda: answers.append(api.txt2img(**body)))
    thread.start()
    while api.get_progress()["state"]["job_no"] < 1:
        time.sleep(0.02)
    api.interrupt()
    thread.join(60)
    assert 1 <= len(answers[0].images) < 50
