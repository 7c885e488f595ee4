"""/sdapi/v1 as A1111's clients know it: the bodies, what is lenient, what is refused, what is answered."""

from __future__ import annotations

import base64
import io
import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from modules.frontends import serve
from modules.frontends.api.bodies import Img2Img, Txt2Img, request_of
from modules.imaging.metadata import encode, read_infotext
from modules.schema.control import ControlUnit
from modules.schema.errors import BadRequest
from modules.schema.folders import Folders
from modules.schema.request import GenerationRequest, Refiner
from modules.schema.rounds import Tiles
from modules.schema.scripts import OutpaintingMk2, PromptMatrix, XyzPlot
from modules.service.freezing import Freeze
from modules.service.generation import GenerationService
from modules.service.worker import ThreadWorker
from modules.weights.headers import read_header
from tests.service.fake_engine import Engine

SHIPPED = Path(__file__).parents[2] / "models" / "Stable-diffusion"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GenerationService]:
    folders = Folders.under(tmp_path_factory.mktemp("sdapi"))
    folders = Folders(**{**vars(folders), "checkpoint_dirs": (*folders.checkpoint_dirs, SHIPPED)})
    service = GenerationService(folders, lambda folders: ThreadWorker(lambda: Engine(folders)))
    yield service
    service.close()


@pytest.fixture(scope="module")
def client(service: GenerationService) -> Iterator[TestClient]:
    app = serve.build_app(service, page=False, flags={"api": True, "gradio_auth": "***", "port": None})
    with TestClient(app, base_url="http://127.0.0.1:7860", raise_server_exceptions=False) as client:
        yield client


def picture(seed: int, size: tuple[int, int] = (32, 24), infotext: str | None = None) -> bytes:
    return encode(Image.new("RGB", size, (seed % 256, 40, 90)), infotext)


def text_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def image_of(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


def ask(client: TestClient, path: str, **body: Any) -> Any:
    answer = client.post(f"/sdapi/v1/{path}", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


SMALL = {"steps": 2, "width": 64, "height": 64}


def test_a_picture_comes_back_with_its_infotext_and_what_it_was_made_of(client, service, test_seed):
    told = ask(client, "txt2img", prompt="a cat", seed=str(test_seed), n_iter=2, **SMALL, unknown={"key": [1]})
    images = [image_of(text) for text in told["images"]]
    assert [image.getpixel((0, 0)) for image in images] == [(seed % 256, 0, 0) for seed in (test_seed, test_seed + 1)]
    assert f"Seed: {test_seed + 1}," in str(read_infotext(images[1]))
    info = json.loads(told["info"])
    assert info["all_seeds"] == [test_seed, test_seed + 1]
    assert info["infotexts"] == [read_infotext(image) for image in images]
    assert set(info) >= {
        "prompt", "all_prompts", "negative_prompt", "all_negative_prompts", "seed", "all_seeds", "subseed",
        "all_subseeds", "subseed_strength", "width", "height", "sampler_name", "cfg_scale", "steps", "batch_size",
        "restore_faces", "face_restoration_model", "sd_model_name", "sd_model_hash", "sd_vae_name", "sd_vae_hash",
        "seed_resize_from_w", "seed_resize_from_h", "denoising_strength", "extra_generation_params",
        "index_of_first_image", "infotexts", "styles", "job_timestamp", "clip_skip",
        "is_using_inpainting_conditioning", "version",
    }  # fmt: skip
    assert told["parameters"]["seed"] == test_seed
    assert told["parameters"]["sampler_index"] == "Euler"
    assert "unknown" not in told["parameters"]
    assert list(service.folders.data.rglob("outputs/**/*.png")) == []


def test_pictures_are_saved_and_sent_when_asked_for(client, service, test_seed):
    told = ask(client, "txt2img", seed=test_seed, save_images=True, send_images=False, **SMALL)
    assert told["images"] == []
    saved = list(service.folders.data.rglob("outputs/**/*.png"))
    assert len(saved) == 1
    with Image.open(saved[0]) as image:
        assert image.getpixel((0, 0)) == (test_seed % 256, 0, 0)
    saved[0].unlink()


def request(body: dict[str, Any], kind: Any = Txt2Img) -> GenerationRequest:
    return request_of(kind.model_validate(body), lambda text, field: text[0] * 64)


def test_defaults_are_those_of_the_api_and_nulls_stand_for_them():
    nulls = dict.fromkeys(Txt2Img.model_fields)
    assert request(nulls) == request({})
    made = request({})
    assert (made.steps, made.cfg_scale, made.width, made.height, made.sampler, made.scheduler) == (
        50, 7.0, 512, 512, "Euler", "Automatic",
    )  # fmt: skip
    assert isinstance(made.cfg_scale, float)
    assert (made.seed_resize_from_w, made.styles, made.hires, made.refiner, made.source) == (-1, (), None, None, None)
    assert made.override_settings == {"samples_save": False, "grid_save": False, "return_grid": False}
    source = request({"init_images": ["a"], "mask": "b"}, Img2Img).source
    assert source is not None
    assert source.mask is not None
    assert (source.denoising_strength, source.images, source.resize_mode) == (0.75, ("a" * 64,), 0)
    assert (source.mask.inpainting_fill, source.mask.inpaint_full_res, source.mask.inpaint_full_res_padding) == (
        0, True, 0,
    )  # fmt: skip
    assert (source.mask.mask_blur_x, source.mask.image) == (4, "b" * 64)


def test_every_field_that_clients_send_arrives():
    made = request(
        {
            "sampler_name": "DPM++ 2M", "sampler_index": "Euler a", "scheduler": "karras", "steps": "7", "seed": "12",
            "eta": 0.5, "s_churn": 1.5, "tiling": True, "restore_faces": False, "styles": ["one"],
            "override_settings": {"sd_model_checkpoint": "postcards", "CLIP_stop_at_last_layers": 2},
            "refiner_checkpoint": "fine", "refiner_switch_at": 0.7, "enable_hr": True, "hr_scale": 1.5,
            "hr_upscaler": "Latent", "hr_second_pass_steps": 3, "hr_sampler_name": "Euler", "denoising_strength": 0.4,
        }
    )  # fmt: skip
    assert (made.sampler, made.scheduler, made.steps, made.seed, made.styles) == ("DPM++ 2M", "karras", 7, 12, ("one",))
    assert made.checkpoint == "postcards"
    assert made.override_settings == {
        "CLIP_stop_at_last_layers": 2, "eta_ancestral": 0.5, "eta_ddim": 0.5, "s_churn": 1.5, "tiling": True,
        "samples_save": False, "grid_save": False, "return_grid": False, "face_restoration": False,
    }  # fmt: skip
    assert made.refiner is not None
    assert made.hires is not None
    assert (made.refiner.refiner_checkpoint, made.refiner.refiner_switch_at) == ("fine", 0.7)
    assert (made.hires.hr_scale, made.hires.hr_second_pass_steps, made.hires.denoising_strength) == (1.5, 3, 0.4)
    assert made.hires.hr_sampler_name == "Euler"
    old = request({"enable_hr": True, "firstphase_width": 64, "firstphase_height": 96, "width": 128, "height": 192})
    assert old.hires is not None
    assert (old.width, old.height, old.hires.hr_resize_x, old.hires.hr_resize_y) == (64, 96, 128, 192)
    masked = request({"init_images": ["a"], "mask": "b", "mask_blur": 9, "inpainting_mask_invert": 1}, Img2Img).source
    assert masked is not None
    assert masked.mask is not None
    assert (masked.mask.mask_blur_x, masked.mask.mask_blur_y, masked.mask.inpainting_mask_invert) == (9, 9, True)


def source_of(body: dict[str, Any]) -> Any:
    return request(body, Img2Img).source


def test_scripts_of_the_original_become_parts_of_the_request():
    body = {"init_images": ["a"], "script_name": "SD upscale", "script_args": [None, 32, "Lanczos", 1.5]}
    tiles = source_of(body).tiles
    assert (tiles.overlap, tiles.upscaler, tiles.scale_factor) == (32, "Lanczos", 1.5)
    body = {"init_images": ["a"], "script_name": "loopback", "script_args": [2, 0.3, "Lazy", "None"]}
    loops = source_of(body).loopback
    assert (loops.loops, loops.final_denoising_strength, loops.denoising_curve) == (2, 0.3, "Lazy")
    soft = {"soft inpainting": {"args": [True, 2, 0.3]}}
    mask = source_of({"init_images": ["a"], "mask": "b", "alwayson_scripts": soft}).mask
    assert (mask.soft.schedule_bias, mask.soft.preservation_strength) == (2, 0.3)
    with pytest.raises(BadRequest):
        request({**body, "script_args": list(range(9))}, Img2Img)


def test_scripts_take_arguments_by_place_and_by_name():
    args = [1, "1-3", [], "CFG Scale", "4,7", None, 0, "", "", False, True, False, False, False, False, False, 4, False]
    plot = request({"script_name": "X/Y/Z Plot", "script_args": args}).script
    assert isinstance(plot, XyzPlot)
    assert (plot.x_type, plot.x_values, plot.y_type, plot.z_type) == ("1", "1-3", "CFG Scale", "0")
    assert (plot.draw_legend, plot.include_lone_images, plot.margin_size) == (False, True, 4)
    assert plot.z_values_dropdown == ()
    named = request({"script_name": "prompt matrix", "script_args": {"put_at_start": True, "margin_size": 6}}).script
    assert named == PromptMatrix(put_at_start=True, margin_size=6)
    picture = {"init_images": ["a"]}
    body = {**picture, "script_name": "outpainting mk2", "script_args": ["<p>", 64, 4, ["left", "up"], 1, 0.1]}
    outpainting = request(body, Img2Img).script
    assert outpainting == OutpaintingMk2(pixels=64, mask_blur=4, direction=("left", "up"), color_variation=0.1)
    body = {**picture, "script_name": "sd upscale", "script_args": ["", 16, 1, 2]}
    assert source_of(body).tiles == Tiles(upscaler="Lanczos", overlap=16, scale_factor=2)
    with pytest.raises(BadRequest, match="Grid margins") as wrong:
        request({"script_name": "prompt matrix", "script_args": [False, False, "positive", "comma", 9999]})
    assert wrong.value.field == "script.margin_size"


def test_scripts_that_always_take_part_fill_what_is_left_out():
    scripts = {
        "Refiner": {"args": [True, "fine", 0.7]}, "Sampler": {"args": [9, "Euler a", "Karras"]},
        "Seed": {"args": [5, True, 6, 0.25]}, "Hypertile": {"args": []}, "Extra options": {"args": []},
    }  # fmt: skip
    made = request({"alwayson_scripts": scripts, "seed": 77})
    assert made.refiner == Refiner(refiner_checkpoint="fine", refiner_switch_at=0.7)
    assert (made.steps, made.sampler, made.scheduler) == (9, "Euler a", "Karras")
    assert (made.seed, made.subseed, made.subseed_strength) == (77, 6, 0.25)
    off = request({"alwayson_scripts": {"refiner": {"args": [False, "fine", 0.7]}}})
    assert off.refiner is None
    with pytest.raises(BadRequest, match="steps"):
        request({"alwayson_scripts": {"sampler": {"args": [0]}}})


def units(*args: Any, title: str = "controlnet", kind: Any = Txt2Img, **body: Any) -> tuple[ControlUnit, ...]:
    return request({"alwayson_scripts": {title: {"args": list(args)}}, **body}, kind).controlnet


def test_units_of_controlnet_come_under_all_the_names_they_have_had():
    full = {
        "enabled": True, "module": "canny", "model": "lines [0123abcd]", "weight": 0.5, "image": "a", "resize_mode": 2,
        "low_vram": True, "processor_res": 640, "threshold_a": 50, "threshold_b": 60, "guidance_start": 0.1,
        "guidance_end": 0.9, "control_mode": 1, "pixel_perfect": True, "hr_option": "High res only", "unheard": [1],
    }  # fmt: skip
    (unit,) = units(full)
    assert unit == ControlUnit(
        module="canny", model="lines [0123abcd]", weight=0.5, image="a" * 64, resize_mode="Resize and Fill",
        processor_res=640, threshold_a=50, threshold_b=60, guidance_start=0.1, guidance_end=0.9,
        control_mode="My prompt is more important", pixel_perfect=True, hr_option="High res only",
    )  # fmt: skip
    worded = {**full, "resize_mode": "Envelope (Outer Fit)", "control_mode": "My prompt is more important"}
    old = {k: v for k, v in worded.items() if k not in ("image", "guidance_end", "enabled")}
    assert units({**old, "input_image": "a", "guidance": 0.9}, title="ControlNet") == (unit,)
    # Numbers that a preprocessor does not take stand for its own.
    assert units({**full, "processor_res": -1, "threshold_a": -1, "threshold_b": 900})[0].threshold("b") == 200
    for pair in ({"image": "a", "mask": "b"}, ["a", "b"], [{"image": "a", "mask": "b"}]):
        (both,) = units({"model": "x", "image": pair})
        assert (both.image, both.mask) == ("a" * 64, "b" * 64)
    assert units({"model": "x", "image": "a", "mask_image": "b"})[0].mask == "b" * 64
    assert units({**full, "enabled": False}, {"model": "x", "image": "", "mask": None}) == (ControlUnit(model="x"),)
    assert units(full, kind=Img2Img, init_images=["a"]) == (unit,)
    assert units() == ()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"weight": -1}, "Control Weight of ControlNet unit 1 cannot be -1; give a number from 0 to 10"),
        ({"weight": "much"}, "Control Weight of ControlNet unit 1 cannot be 'much'"),
        ({"resize_mode": "Sideways"}, "give one of Just Resize, Crop and Resize, Resize and Fill"),
        ({"control_mode": 3}, "give one of Balanced, My prompt"),
        ({"guidance_end": 1.5}, "Ending Control Step of ControlNet unit 1"),
        ({"image": 5}, "one picture in base64"),
        ({"advanced_weighting": [1.0] * 13}, "advanced_weighting is not supported here"),
    ],
)
def test_a_unit_that_cannot_be_is_told_by_its_number(given: dict[str, Any], words: str):
    with pytest.raises(BadRequest, match=words) as wrong:
        units({"model": "x"}, {"model": "x", **given})
    assert str(wrong.value.field).startswith("controlnet.")


def test_units_are_objects_in_a_list():
    for args in ([1], ["canny", "x"], {"0": {}}, [{"model": "x"}] * 11):
        with pytest.raises(BadRequest):
            request({"alwayson_scripts": {"controlnet": {"args": args}}})


def test_routes_of_controlnet_tell_what_there_is(client, service):
    assert client.get("/controlnet/version").json() == {"version": 3}
    assert client.get("/controlnet/settings").json() == {"control_net_unit_count": 3}
    assert client.get("/controlnet/model_list").json() == {"model_list": []}
    folder = service.folders.models / "ControlNet"
    folder.mkdir(parents=True)
    for name in ("control_v11p_sd15_canny", "control_v11f1e_sd15_tile", "t2iadapter_canny"):
        (folder / f"{name}.pth").write_bytes(b"x")
    listed = client.get("/controlnet/model_list?update=true").json()["model_list"]
    assert listed == [f"{n} [e3b0c442]" for n in sorted(("control_v11p_sd15_canny", "control_v11f1e_sd15_tile",
                                                         "t2iadapter_canny"))]  # fmt: skip
    modules = client.get("/controlnet/module_list").json()
    assert modules["module_list"][:3] == ["none", "invert", "canny"]
    assert modules["module_detail"]["canny"]["sliders"][1] == {
        "name": "Low Threshold", "value": 100, "min": 1, "max": 255, "step": 1
    }  # fmt: skip
    aliases = client.get("/controlnet/module_list?alias_names=true").json()["module_list"]
    assert "invert (from white bg & black line)" in aliases
    types = client.get("/controlnet/control_types").json()["control_types"]
    assert types["Canny"] == {
        "module_list": ["none", "invert", "canny"], "default_option": "canny",
        "model_list": ["None", "control_v11p_sd15_canny [e3b0c442]", "t2iadapter_canny [e3b0c442]"],
        "default_model": "control_v11p_sd15_canny [e3b0c442]",
    }  # fmt: skip
    assert types["Tile"]["default_option"] == "tile_resample"
    assert len(types["All"]["model_list"]) == 4


def test_detect_answers_pictures_and_refuses_what_is_none(client):
    data = text_of(picture(200, (64, 48)))
    asked = {"controlnet_module": "invert", "controlnet_input_images": [data, data]}
    answer = client.post("/controlnet/detect", json=asked).json()
    assert answer["info"] == "Success"
    for each in answer["images"]:
        shown = Image.open(io.BytesIO(base64.b64decode(each)))
        assert shown.size == (64, 48)
        assert shown.getpixel((3, 3)) == (55, 215, 165)
    for body, status in (
        ({}, 422), ({**asked, "controlnet_module": "openpose"}, 422),
        ({**asked, "controlnet_input_images": ["aa"]}, 422),
        ({**asked, "controlnet_input_images": [text_of(b"no picture")]}, 422),
        ({**asked, "controlnet_input_images": [data] * 17}, 422),
    ):  # fmt: skip
        assert client.post("/controlnet/detect", json=body).status_code == status


def test_scripts_are_listed_with_what_they_take(client):
    told = client.get("/sdapi/v1/scripts").json()
    assert told["txt2img"] == [
        "prompt matrix", "prompts from file or textbox", "x/y/z plot", "refiner", "sampler", "seed", "extra options",
        "hypertile", "controlnet",
    ]  # fmt: skip
    assert {*told["txt2img"], "loopback", "sd upscale", "outpainting mk2", "poor man's outpainting",
            "img2img alternative test", "soft inpainting"} == {*told["img2img"]}  # fmt: skip
    items = client.get("/sdapi/v1/script-info").json()
    assert {(one["name"], one["is_img2img"]) for one in items} == {
        (name, tab == "img2img") for tab, names in told.items() for name in names
    }
    plot = next(one for one in items if one["name"] == "x/y/z plot" and not one["is_img2img"])
    assert [arg["name"] for arg in plot["args"]][:4] == ["x_type", "x_values", "x_values_dropdown", "y_type"]
    assert plot["args"][0]["choices"][6] == "CFG Scale"
    margin = next(arg for arg in plot["args"] if arg["name"] == "margin_size")
    assert (margin["label"], margin["value"], margin["minimum"], margin["maximum"], margin["step"]) == (
        "Grid margins (px)", 0, 0, 500, 2,
    )  # fmt: skip


def test_an_infotext_fills_what_the_request_leaves_out():
    text = (
        "a red house\nNegative prompt: blurry\nSteps: 6, Sampler: Euler a, Schedule type: Karras, CFG scale: 5, "
        "Seed: 4321, Size: 96x160, Clip skip: 2, ENSD: 31337, RNG: NV, Denoising strength: 7"
    )
    made = request({"infotext": text, "steps": 9})
    assert (made.prompt, made.negative_prompt, made.steps, made.sampler) == ("a red house", "blurry", 9, "Euler a")
    assert (made.seed, made.width, made.height, made.cfg_scale) == (4321, 96, 160, 5.0)
    settings = made.override_settings
    assert (settings["CLIP_stop_at_last_layers"], settings["eta_noise_seed_delta"], settings["randn_source"]) == (
        "2", "31337", "NV",
    )  # fmt: skip


def test_img2img_draws_from_pictures_with_and_without_a_prefix(client, service, test_seed):
    data = picture(test_seed)
    for text in (text_of(data), "data:image/png;base64," + text_of(data)):
        told = ask(client, "img2img", init_images=[text], mask=text, seed=test_seed, **SMALL)
        assert image_of(told["images"][0]).size == (64, 64)
        assert told["parameters"]["init_images"] is None
        source = service.jobs(1)[0].request.source
        assert (service.folders.inputs / source.images[0]).read_bytes() == data
    told = ask(client, "img2img", init_images=[text_of(data)], include_init_images=True, **SMALL)
    assert told["parameters"]["init_images"] == [text_of(data)]


REFUSED = [
    ("txt2img", {"steps": 0}, 422, "steps"),
    ("txt2img", {"steps": "many"}, 422, "steps"),
    ("txt2img", {"width": -1}, 422, "width"),
    ("txt2img", {"prompt": ["a"]}, 422, "prompt"),
    ("txt2img", {"sampler_name": "No such"}, 400, "sampler_name"),
    ("txt2img", {"scheduler": "No such"}, 400, "scheduler"),
    ("txt2img", {"script_name": "no such"}, 422, "script_name"),
    ("txt2img", {"script_name": "loopback"}, 422, "script_name"),
    ("txt2img", {"script_name": "prompt matrix", "script_args": [1] * 9}, 422, "script_args"),
    ("txt2img", {"script_name": "x/y/z plot", "script_args": {"nonsense": 1}}, 422, "script.nonsense"),
    ("txt2img", {"alwayson_scripts": {"No such": {"args": []}}}, 422, "alwayson_scripts"),
    ("txt2img", {"restore_faces": "perhaps"}, 422, "restore_faces"),
    ("txt2img", {"override_settings": {"sd_model_checkpoint": "no such"}}, 404, None),
    ("txt2img", {"override_settings": {"CLIP_stop_at_last_layers": 99}}, 422, "CLIP_stop_at_last_layers"),
    ("txt2img", {"override_settings": {"outdir_txt2img_samples": "/tmp"}}, 422, "override_settings"),
    ("img2img", {}, 404, "init_images"),
    ("img2img", {"init_images": []}, 404, "init_images"),
    ("img2img", {"init_images": ["%%%"]}, 422, "init_images"),
    ("img2img", {"init_images": ["aGVsbG8="]}, 422, "init_images"),
    ("img2img", {"init_images": ["http://127.0.0.1/x.png"]}, 422, "init_images"),
    ("extra-single-image", {"image": "aGVsbG8="}, 415, "image"),
    ("extra-single-image", {"image": ""}, 422, "image"),
    ("extra-single-image", {"image": text_of(picture(1)), "upscaler_1": "No such"}, 404, "upscaler_1"),
    ("extra-single-image", {"image": text_of(picture(1)), "gfpgan_visibility": 2}, 422, "gfpgan_visibility"),
    ("png-info", {}, 422, "image"),
    ("interrogate", {}, 404, "image"),
    ("interrogate", {"image": "x", "model": "clip"}, 404, "model"),
    ("interrogate", {"image": "x", "model": "deepdanbooru"}, 404, "model"),
    ("interrogate", {"image": "x", "model": "deepbooru"}, 404, "model"),
    ("options", {"no_such_setting": 1}, 422, "no_such_setting"),
    ("options", {"sd_model_checkpoint": "no such"}, 404, None),
    ("create/embedding", {"name": "x"}, 404, None),
    ("train/hypernetwork", {}, 404, None),
]


@pytest.mark.parametrize(("path", "body", "status", "field"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_makes_no_sense_is_refused_by_name_of_the_field(client, path, body, status, field):
    answer = client.post(f"/sdapi/v1/{path}", json=body)
    told = answer.json()
    assert (answer.status_code, told["field"]) == (status, field), told
    assert set(told) >= {"error", "detail", "body", "errors"}
    assert told["errors"]
    assert "Traceback" not in answer.text


def test_a_failed_job_is_an_answer_with_its_reason(client):
    answer = client.post("/sdapi/v1/txt2img", json={"prompt": "refuse", **SMALL})
    assert (answer.status_code, answer.json()["code"]) == (422, "bad_request")
    assert "lucky" in answer.json()["errors"]
    assert client.post("/sdapi/v1/txt2img", json={"prompt": "memory", **SMALL}).status_code == 507


def test_progress_and_interrupt_and_skip_while_a_job_is_drawn(client, test_seed):
    idle = client.get("/sdapi/v1/progress").json()
    assert (idle["progress"], idle["eta_relative"], idle["state"]["job_count"]) == (0, 0, 0)
    answers: list[Any] = []
    body = {"prompt": "step=0.05", "seed": test_seed, "n_iter": 3, **SMALL, "steps": 20, "force_task_id": "task(x)"}
    thread = threading.Thread(target=lambda: answers.append(ask(client, "txt2img", **body)))
    thread.start()
    seen = client.get("/sdapi/v1/progress").json()
    while not seen["current_image"]:
        time.sleep(0.01)
        seen = client.get("/sdapi/v1/progress").json()
    state = seen["state"]
    assert 0 < seen["progress"] < 1
    assert (state["job_count"], state["sampling_steps"], state["job_no"]) == (3, 20, 0)
    assert state["job"] == "Batch 1 out of 3"
    assert image_of(seen["current_image"]).size == (64, 64)
    assert client.get("/sdapi/v1/progress?skip_current_image=true").json()["current_image"] is None
    task = client.post("/internal/progress", json={"id_task": "task(x)"}).json()
    assert (task["active"], task["completed"], task["live_preview"][:22]) == (True, False, "data:image/png;base64,")
    assert client.post("/sdapi/v1/skip").json() is None
    while client.get("/sdapi/v1/progress").json()["state"]["job_no"] < 1:
        time.sleep(0.01)
    assert client.post("/sdapi/v1/interrupt").json() == {}
    thread.join(30)
    assert answers[0]["images"] == []
    assert client.post("/internal/progress", json={"id_task": "task(x)"}).json()["completed"] is True
    assert client.get("/sdapi/v1/progress").json()["state"]["job_count"] == 0


def test_sysinfo_tells_of_the_machine_and_of_nothing_private(client, service):
    secret = "/home/somebody/pictures"
    service.change_settings({"outdir_samples": secret, "CLIP_stop_at_last_layers": 2})
    try:
        answer = client.get("/internal/sysinfo-download")
        assert re.fullmatch(
            r'attachment; filename="sysinfo-\d{4}(-\d\d){4}\.json"', answer.headers["content-disposition"]
        )
        assert "content-disposition" not in client.get("/internal/sysinfo").headers
        told = answer.json()
        assert told["Config"] == {"CLIP_stop_at_last_layers": 2, "outdir_samples": "(another than the default)"}
        assert told["Flags"] == ["api"]
        assert any(line.startswith("fastapi==") for line in told["Packages"])
        assert told["RAM"]["total"] > 2**28
        assert secret not in answer.text
        assert str(service.folders.data) not in answer.text
    finally:
        service.change_settings({"outdir_samples": "", "CLIP_stop_at_last_layers": 1})


def test_signs_of_life(client):
    assert client.get("/internal/ping").json() == {}
    profile = client.get("/internal/profile-startup").json()
    assert profile["total"] == sum(profile["records"].values())


def test_settings_are_told_and_changed(client, service):
    told = client.get("/sdapi/v1/options").json()
    assert told["sd_model_checkpoint"].startswith("postcards")
    assert told["CLIP_stop_at_last_layers"] == 1
    assert client.post("/sdapi/v1/options", json={"CLIP_stop_at_last_layers": 2}).json() is None
    assert service.settings.model.CLIP_stop_at_last_layers == 2
    # webuiapi and the Photoshop plugin send back all they got.
    assert client.post("/sdapi/v1/options", json=told).json() is None
    assert service.settings.model.CLIP_stop_at_last_layers == 1
    assert service.settings.model.sd_model_checkpoint == "postcards"
    refused = client.post("/sdapi/v1/options", json={"CLIP_stop_at_last_layers": 3, "nonsense": 1})
    assert refused.status_code == 422
    assert service.settings.model.CLIP_stop_at_last_layers == 1
    client.post("/sdapi/v1/options", json={"api_enable_requests": True})
    assert service.settings.api.api_enable_requests is False


def test_options_of_the_original_that_change_nothing_are_told_and_kept(client, service):
    told = client.get("/sdapi/v1/options").json()
    assert (told["auto_launch_browser"], told["DAT_tile"], told["disabled_extensions"]) == ("Local", 192, [])
    assert client.post("/sdapi/v1/options", json={"DAT_tile": 256, "steps": 3}).status_code == 422
    assert client.post("/sdapi/v1/options", json={"DAT_tile": 256, "auto_launch_browser": "Disable"}).json() is None
    assert client.get("/sdapi/v1/options").json()["DAT_tile"] == 256
    assert json.loads(service.folders.settings_file.read_text())["auto_launch_browser"] == "Disable"
    for value in (True, "192", None, [1]):
        refused = client.post("/sdapi/v1/options", json={"DAT_tile": value})
        assert (refused.status_code, refused.json()["field"]) == (422, "DAT_tile")
    for text in ('{"DAT_tile": NaN}', '{"img_max_size_mp": Infinity}', '{"disabled_extensions": [NaN]}'):
        assert client.post("/sdapi/v1/options", content=text).status_code == 422
    frozen = Freeze(everything=True)
    frozen.check(service.settings, {"DAT_tile": 256}, service.unused_options)
    with pytest.raises(BadRequest, match="freeze-settings"):
        frozen.check(service.settings, {"DAT_tile": 1}, service.unused_options)


def test_overrides_end_with_the_request_unless_asked_otherwise(client, service):
    ask(client, "txt2img", override_settings={"CLIP_stop_at_last_layers": 2}, **SMALL)
    assert service.settings.model.CLIP_stop_at_last_layers == 1
    kept = {
        "override_settings": {"CLIP_stop_at_last_layers": 2, "nonsense": 1},
        "override_settings_restore_afterwards": False,
    }
    ask(client, "txt2img", **kept, **SMALL)
    assert service.settings.model.CLIP_stop_at_last_layers == 2
    client.post("/sdapi/v1/options", json={"CLIP_stop_at_last_layers": 1})


def test_png_info_reads_what_a_picture_says(client, test_seed):
    text = f"a house\nNegative prompt: bad\nSteps: 5, Sampler: Euler, Seed: {test_seed}, Size: 64x32"
    told = ask(client, "png-info", image=text_of(picture(1, infotext=text)))
    assert (told["info"], told["items"]["parameters"]) == (text, text)
    assert told["parameters"]["Prompt"] == "a house"
    assert (told["parameters"]["Seed"], told["parameters"]["Size-1"]) == (str(test_seed), "64")
    assert ask(client, "png-info", image=text_of(picture(1)))["info"] == ""


def test_extras_make_pictures_larger(client, test_seed):
    data = text_of(picture(test_seed, (32, 24)))
    single = ask(client, "extra-single-image", image=data, upscaler_1="Lanczos", upscaling_resize=3)
    assert image_of(single["image"]).size == (96, 72)
    assert image_of(ask(client, "extra-single-image", image=data)["image"]).size == (32, 24)
    pictures = [{"data": data, "name": "a"}, {"data": data, "name": "b"}]
    size = {"resize_mode": 1, "upscaling_resize_w": 40, "upscaling_resize_h": 40, "upscaler_1": "Nearest"}
    many = ask(client, "extra-batch-images", imageList=pictures, **size)
    assert [image_of(text).size for text in many["images"]] == [(40, 40), (40, 40)]


def test_lists_hold_what_lies_in_the_folders(client, service):
    models = client.get("/sdapi/v1/sd-models").json()
    assert [model["model_name"] for model in models] == ["postcards"]
    assert models[0]["filename"].endswith("postcards.safetensors")
    lora = service.folders.lora / "thing.safetensors"
    lora.parent.mkdir(parents=True)
    lora.write_bytes(_safetensors({"a.lora_up.weight": [2, 3]}, {"ss_output_name": "my thing"}))
    read_header(lora)
    told = client.get("/sdapi/v1/loras").json()
    assert [(one["name"], one["alias"], one["metadata"]["ss_output_name"]) for one in told] == [
        ("thing", "my thing", "my thing")
    ]
    embedding = service.folders.embeddings / "mood.safetensors"
    embedding.parent.mkdir(parents=True)
    (width,) = service.checkpoint().towers
    embedding.write_bytes(_safetensors({"emb_params": [4, width]}, {}))
    (service.folders.embeddings / "broken.pt").write_bytes(b"no")
    (service.folders.embeddings / "foreign.safetensors").write_bytes(_safetensors({"emb_params": [2, 1024]}, {}))
    told = client.get("/sdapi/v1/embeddings").json()
    assert (told["loaded"]["mood"]["vectors"], told["loaded"]["mood"]["shape"]) == (4, width)
    assert sorted(told["skipped"]) == ["broken", "foreign"]
    service.styles.save("oil", "oil painting of {prompt}", "photo")
    assert client.get("/sdapi/v1/prompt-styles").json() == [
        {"name": "oil", "prompt": "oil painting of {prompt}", "negative_prompt": "photo"}
    ]
    for folder in ("RealESRGAN", "ESRGAN"):
        (service.folders.models / folder).mkdir()
        (service.folders.models / folder / f"{folder.lower()}-x4.safetensors").write_bytes(_safetensors({}, {}))
    service.library.scan()
    (told,) = client.get("/sdapi/v1/realesrgan-models").json()
    assert (told["name"], Path(told["path"]).parent.name) == ("realesrgan-x4", "RealESRGAN")
    assert {"realesrgan-x4", "esrgan-x4"} <= {one["name"] for one in client.get("/sdapi/v1/upscalers").json()}
    for name in ("checkpoints", "vae", "embeddings", "loras"):
        assert client.post(f"/sdapi/v1/refresh-{name}").json() is None


def _safetensors(shapes: dict[str, list[int]], metadata: dict[str, str]) -> bytes:
    header: dict[str, Any] = {"__metadata__": metadata}
    at = 0
    for name, (rows, columns) in shapes.items():
        header[name] = {"dtype": "F32", "shape": [rows, columns], "data_offsets": [at, at + rows * columns * 4]}
        at += rows * columns * 4
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(at)


def test_flags_are_told_without_secrets(client):
    assert client.get("/sdapi/v1/cmd-flags").json() == {"api": True, "gradio_auth": "***", "port": None}


def test_the_server_is_stopped_only_where_that_is_allowed(client, service):
    assert client.post("/sdapi/v1/server-stop").status_code == 404
    asked: list[str] = []
    app = serve.build_app(service, page=False, stop=lambda how: not asked.append(how) and how != "restart")
    with TestClient(app, base_url="http://127.0.0.1") as allowed:
        assert allowed.post("/sdapi/v1/server-stop").status_code == 200
        assert allowed.post("/sdapi/v1/server-kill").status_code == 200
        assert allowed.post("/sdapi/v1/server-restart").status_code == 501
    assert asked == ["stop", "kill", "restart"]


def test_every_endpoint_of_the_original_is_there(client):
    paths = client.get("/openapi.json").json()["paths"]
    there = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    named = """
        GET cmd-flags embeddings extensions face-restorers hypernetworks latent-upscale-modes loras memory options
        progress prompt-styles realesrgan-models samplers schedulers script-info scripts sd-models sd-modules sd-vae
        upscalers
        POST txt2img img2img extra-single-image extra-batch-images png-info interrogate interrupt skip options
        refresh-checkpoints refresh-vae refresh-embeddings refresh-loras unload-checkpoint reload-checkpoint
        create/embedding create/hypernetwork train/embedding train/hypernetwork"""
    method = ""
    for word in named.split():
        if word in ("GET", "POST"):
            method = word
        else:
            assert (method, f"/sdapi/v1/{word}") in there
            assert client.request(method, f"/sdapi/v1/{word}").status_code < 500
