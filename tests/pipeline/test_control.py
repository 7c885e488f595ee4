"""Pictures drawn along others by ControlNets, on small random models and on the shipped one."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from modules.nets.unet import UNetConfig
from modules.pipeline.run import Engine
from modules.prompt.infotext import parse
from modules.schema import control
from modules.schema.control import ControlUnit
from modules.schema.errors import BadFile, BadRequest, EaselError, NotFound
from modules.schema.events import Warned
from modules.schema.folders import Folders
from modules.schema.request import Hires, Refiner, Source
from modules.weights.controls import control_files, find_control
from modules.weights.recognise import recognise
from tests.nets.diffusers_keys import unet_key
from tests.pipeline.conftest import Studio
from tests.pipeline.test_img2img import array, disc, from_picture, keep, picture
from tests.weights.adapters.nets import Dice, Small, write_adapter
from tests.weights.adapters.test_apply import lora_for
from tests.weights.adapters.test_hypernetworks import write as write_hypernetwork
from tests.weights.tiny import LAYOUTS, UNET, control_tensors, write_control, write_tiny, write_tiny_sd15

XL = LAYOUTS["SDXL"].unet
SHIPPED = Path(__file__).parents[2] / "models/Stable-diffusion/postcards.safetensors"


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory, test_seed: int) -> Iterator[Studio]:
    folders = Folders.under(tmp_path_factory.mktemp("control"))
    write_tiny_sd15(folders.checkpoint_dirs[0] / "tiny.safetensors", test_seed)
    write_tiny(folders.checkpoint_dirs[0] / "xl.safetensors", "SDXL", test_seed)
    nets = folders.models / "ControlNet"
    write_control(nets / "canny.safetensors", UNET, test_seed)
    write_control(nets / "sub/lines.pth", UNET, test_seed + 1)
    write_control(nets / "untaught.safetensors", UNET, test_seed, zero=True)
    write_control(nets / "control_shuffle.safetensors", UNET, test_seed)
    write_control(nets / "xl.safetensors", XL, test_seed, prefix="")
    engine = Engine(folders)
    yield Studio(engine, folders)
    engine.close()


def unit(studio: Studio, seed: int = 0, model: str = "canny", image: Image.Image | None = None, **more: Any) -> Any:
    return ControlUnit(model=model, image=keep(studio, image or picture(seed)), **more)


def draw(studio: Studio, *units: ControlUnit, **request: Any) -> list[np.ndarray]:
    asked = {"checkpoint": "tiny", "prompt": "a cat", "negative_prompt": "a dog", "controlnet": units, **request}
    return [array(studio, ready) for ready in studio.draw(**asked)]


def one(studio: Studio, *units: ControlUnit, **request: Any) -> np.ndarray:
    (drawn,) = draw(studio, *units, **request)
    return drawn


def test_an_untaught_net_changes_nothing_bit_for_bit_and_a_taught_one_does(studio: Studio) -> None:
    plain = one(studio)
    assert np.array_equal(one(studio, unit(studio, model="untaught")), plain)
    assert np.array_equal(one(studio, unit(studio, weight=0)), plain)
    along = one(studio, unit(studio))
    assert np.abs(along - plain).mean() > 1
    assert np.abs(one(studio, unit(studio, seed=1)) - along).mean() > 0.2
    assert np.array_equal(one(studio, unit(studio)), along)
    assert np.array_equal(one(studio), plain)


def test_the_nets_stay_only_as_long_as_jobs_use_them(studio: Studio) -> None:
    draw(studio)
    without = studio.engine.residency.held()["weights"]
    draw(studio, unit(studio))
    tensors = control_tensors(UNET, 0)
    assert studio.engine.residency.held()["weights"] == without + sum(each.nbytes for each in tensors.values())
    draw(studio)
    assert studio.engine.residency.held()["weights"] == without


@pytest.mark.parametrize("mode", control.CONTROL_MODES)
def test_a_picture_of_a_batch_is_that_seed_alone(studio: Studio, mode: str) -> None:
    units = unit(studio, control_mode=mode), unit(studio, 1, "lines", guidance_end=0.5)
    together = draw(studio, *units, batch_size=3, seed=7, prompt="a cat AND a house :0.5")
    for k, drawn in enumerate(together):
        assert np.array_equal(drawn, one(studio, *units, seed=7 + k, prompt="a cat AND a house :0.5"))


def test_control_modes_differ_and_one_leaves_the_negative_prompt_alone(studio: Studio) -> None:
    drawn = [one(studio, unit(studio, control_mode=mode)) for mode in control.CONTROL_MODES]
    assert all(np.abs(a - b).mean() > 0.1 for a, b in itertools.pairwise(drawn))
    # Without guidance the negative prompt says nothing, and what it does not hear is no matter.
    _, prompt, alone = (one(studio, unit(studio, control_mode=mode), cfg_scale=1) for mode in control.CONTROL_MODES)
    assert np.abs(prompt - alone).max() <= 1


def test_units_act_from_their_first_step_to_their_last(studio: Studio) -> None:
    def drawn(start: float, end: float, steps: int = 4) -> np.ndarray:
        return one(studio, unit(studio, guidance_start=start, guidance_end=end), steps=steps)

    # Four steps are at 0, 0.25, 0.5 and 0.75 of the way.
    assert np.array_equal(drawn(0, 0.75), drawn(0, 1))
    assert np.array_equal(drawn(0.76, 1), one(studio, steps=4))
    assert np.array_equal(drawn(0.3, 0.5), drawn(0.5, 0.74))
    assert not np.array_equal(drawn(0, 0.5), drawn(0, 0.25))
    two = one(studio, unit(studio, guidance_end=0.3), unit(studio, guidance_start=0.5), steps=4)
    assert np.array_equal(two, drawn(0, 1))


def test_a_sampler_that_asks_twice_a_step_counts_its_steps(studio: Studio) -> None:
    def drawn(start: float, end: float) -> np.ndarray:
        return one(studio, unit(studio, guidance_start=start, guidance_end=end), steps=4, sampler="Heun")

    assert np.array_equal(drawn(0, 0.75), drawn(0, 1))
    assert not np.array_equal(drawn(0, 0.74), drawn(0, 1))


def test_several_units_add_up(studio: Studio) -> None:
    halves = one(studio, unit(studio, weight=0.5), unit(studio, weight=0.5))
    assert np.abs(halves - one(studio, unit(studio))).max() <= 2
    assert np.abs(halves - one(studio, unit(studio), unit(studio, 1, "lines"))).mean() > 0.2


def test_a_net_for_shuffled_pictures_adds_the_same_everywhere(studio: Studio) -> None:
    drawn = one(studio, unit(studio, model="control_shuffle"))
    assert np.abs(drawn - one(studio, unit(studio))).mean() > 0.2
    assert np.abs(drawn - one(studio)).mean() > 0.2


@pytest.mark.parametrize("tiling", [False, True])
def test_sdxl_draws_along_a_picture(studio: Studio, tiling: bool) -> None:
    wraps = {"override_settings": {"tiling": tiling}, "checkpoint": "xl"}
    plain = one(studio, **wraps)
    along = one(studio, unit(studio, model="xl"), **wraps)
    assert np.abs(along - plain).mean() > 0.2


def test_without_a_picture_of_its_own_a_unit_looks_at_the_source(studio: Studio, test_seed: int) -> None:
    for size in ((64, 64), (96, 48)):
        source = from_picture(studio, test_seed, size=size, resize_mode=1)
        own = ControlUnit(model="canny", image=source.images[0])
        empty = ControlUnit(model="canny")
        drawn = one(studio, empty, source=source)
        assert np.abs(drawn - one(studio, own, source=source)).max() <= 3
        assert np.abs(drawn - one(studio, source=source)).mean() > 0.2


def test_each_of_several_sources_is_looked_at_by_its_own_picture(studio: Studio, test_seed: int) -> None:
    names = [keep(studio, picture(test_seed + k)) for k in range(2)]
    empty = ControlUnit(model="canny")
    both = draw(studio, empty, source=Source(images=tuple(names)), seed=3)
    for k, name in enumerate(names):
        assert np.array_equal(both[k], one(studio, empty, source=Source(images=(name,)), seed=3 + k))


def test_of_a_masked_part_alone_the_units_see_what_lies_there(studio: Studio, test_seed: int) -> None:
    source = from_picture(
        studio, test_seed, {"inpaint_full_res": True, "inpainting_fill": 0}, size=(128, 128),
        white=disc((128, 128), (32, 32, 64, 64)),
    )  # fmt: skip
    own = ControlUnit(model="canny", image=source.images[0], resize_mode="Just Resize")
    drawn = one(studio, own, source=source)
    assert np.abs(drawn - one(studio, ControlUnit(model="canny"), source=source)).max() <= 3
    part = picture(test_seed, (128, 128)).crop((0, 0, 96, 96))
    assert np.abs(drawn - one(studio, unit(studio, image=part), source=source)).max() > 3


def test_inpainting_hides_what_is_drawn_anew(studio: Studio, test_seed: int) -> None:
    source = from_picture(studio, test_seed, {})
    whole = one(studio, ControlUnit(model="canny"), source=source)
    hidden = one(studio, ControlUnit(model="canny", module="inpaint_global_harmonious"), source=source)
    assert np.abs(hidden - whole)[16:40, 16:40].mean() > 0.2
    given = unit(studio, model="canny", module="inpaint_global_harmonious", mask=keep(studio, disc()))
    assert np.abs(one(studio, given) - one(studio, unit(studio))).mean() > 0.2


def test_the_second_pass_is_drawn_along_the_picture_too(studio: Studio) -> None:
    hires = Hires(hr_scale=2, denoising_strength=0.7)
    both, low, high = (one(studio, unit(studio, hr_option=option), hires=hires) for option in control.HR_OPTIONS)
    plain = one(studio, hires=hires)
    for a, b in ((both, low), (both, high), (low, high), (low, plain), (high, plain)):
        assert a.shape == (128, 128, 3)
        assert np.abs(a - b).mean() > 0.1


def test_layouts_and_number_types_of_files_draw_alike(studio: Studio, test_seed: int) -> None:
    nets = studio.folders.models / "ControlNet"
    expected = one(studio, unit(studio))
    write_control(nets / "bare.safetensors", UNET, test_seed, prefix="")
    write_control(nets / "pickle.pth", UNET, test_seed)
    ours = control_tensors(UNET, test_seed)
    save_file(
        {name: ours[key].contiguous() for name, key in diffusers_names(UNET).items()}, nets / "theirs.safetensors"
    )
    for name in ("bare", "pickle", "theirs"):
        assert np.array_equal(one(studio, unit(studio, model=name)), expected), name
    for dtype in (torch.float16, torch.bfloat16):
        write_control(nets / "half.safetensors", UNET, test_seed, dtype=dtype)
        drawn = one(studio, unit(studio, model="half"))
        assert 0 < np.abs(drawn - expected).mean() < 2


def diffusers_names(config: UNetConfig) -> dict[str, str]:
    """diffusers' name → LDM's of every tensor of a ControlNet."""
    from diffusers import ControlNetModel

    widths = tuple(config.model_channels * mult for mult in config.channel_mult)
    with torch.device("meta"):
        net = ControlNetModel(
            in_channels=4, block_out_channels=widths, layers_per_block=1, cross_attention_dim=config.context_dim,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        )  # fmt: skip
    found = {}
    for key in net.state_dict():
        *_, number, tail = key.split(".")
        if key.startswith("controlnet_down_blocks."):
            found[key] = f"zero_convs.{number}.0.{tail}"
        elif key.startswith("controlnet_mid_block."):
            found[key] = f"middle_block_out.0.{tail}"
        elif key.startswith("controlnet_cond_embedding."):
            place = {"conv_in": 0, "conv_out": 14}.get(number)
            found[key] = f"input_hint_block.{2 * int(number) + 2 if place is None else place}.{tail}"
        else:
            found[key] = unet_key(key, 1, (1,))
    return found


def test_memory_that_streams_weights_draws_the_same(studio: Studio, card: Any) -> None:
    units = unit(studio), unit(studio, 1, "lines")
    drawn = {
        how: one(studio, *units, override_settings={"memory_use": how}) for how in ("normal", "medvram", "lowvram")
    }
    assert np.array_equal(drawn["normal"], drawn["medvram"])
    assert np.array_equal(drawn["normal"], drawn["lowvram"])
    again = one(studio, unit(studio, 1, "lines"), override_settings={"memory_use": "lowvram"})
    assert np.array_equal(again, one(studio, unit(studio, 1, "lines"), override_settings={"memory_use": "normal"}))


@pytest.mark.parametrize("setting", [{"deep_cache_interval": 3}, {"first_block_cache_threshold": 0.9}])
def test_what_is_remembered_of_the_net_ends_with_the_unit(studio: Studio, setting: Mapping[str, Any]) -> None:
    """Steps after the end of a unit do not repeat what it had said."""
    until = one(studio, unit(studio, guidance_end=0.3), steps=4, override_settings=dict(setting))
    always = one(studio, unit(studio), steps=4, override_settings=dict(setting))
    assert np.abs(until - always).mean() > 0.1


def test_a_refiner_of_another_family_goes_on_without(studio: Studio) -> None:
    write_tiny(studio.folders.checkpoint_dirs[0] / "other.safetensors", "SD 2.x", 3)
    refiner = Refiner(refiner_checkpoint="other", refiner_switch_at=0.5)
    drawn = one(studio, unit(studio), refiner=refiner, steps=4)
    told = [event.message for event in studio.events if isinstance(event, Warned)]
    assert any("goes on without ControlNet" in message for message in told)
    assert np.abs(drawn - one(studio, refiner=refiner, steps=4)).mean() > 0.1


def test_lora_and_hypernetworks_are_heard_beside_it(studio: Studio, test_seed: int) -> None:
    dice, small = Dice(test_seed), Small.of("SD 1.x", test_seed)
    for folder in (studio.folders.lora, studio.folders.models / "hypernetworks"):
        folder.mkdir(parents=True)
    write_adapter(studio.folders.lora / "ink.safetensors", small, lora_for(small, dice))
    write_hypernetwork(studio.folders.models / "hypernetworks/haze.pt", (32,), dice)
    pictures = {
        (words, along): one(studio, *[unit(studio)] * along, prompt=f"a cat{words}")
        for words in ("", "<lora:ink:1>", "<hypernet:haze:1>") for along in (False, True)
    }  # fmt: skip
    assert len({each.tobytes() for each in pictures.values()}) == 6
    assert np.array_equal(one(studio, unit(studio)), pictures["", True])


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"model": "nobody"}, NotFound, "No ControlNet is called 'nobody'"),
        ({"model": "None"}, BadRequest, "unit 0 names no model"),
        ({"model": "xl"}, BadRequest, "The ControlNet xl is for"),
        ({"model": "t2i"}, BadFile, "is a T2I-Adapter, which is not supported; ControlNets for SD 1.x"),
        ({"model": "lora"}, BadFile, "is a Control-LoRA, which is not supported"),
        ({"model": "rubbish"}, BadFile, "is no ControlNet"),
        ({"module": "openpose_full"}, BadRequest, "there are none, invert, canny"),
        ({"guidance_start": 0.6, "guidance_end": 0.4}, BadRequest, "before it starts"),
        ({"image": None}, BadRequest, "unit 0 has no picture"),
        ({"module": "inpaint_global_harmonious"}, BadRequest, "needs a mask"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told_before_anything_is_loaded(
    studio: Studio, fields: dict[str, Any], error: type[EaselError], words: str
) -> None:
    nets = studio.folders.models / "ControlNet"
    save_file({"body.0.block1.weight": torch.zeros(2, 2, 3, 3)}, nets / "t2i.safetensors")
    save_file(
        {"lora_controlnet": torch.zeros(1), "input_hint_block.0.weight": torch.zeros(1)}, nets / "lora.safetensors"
    )
    save_file({"x": torch.zeros(1)}, nets / "rubbish.safetensors")
    studio.engine.unload()
    asked = unit(studio).model_copy(update=fields)
    with pytest.raises(error, match=words) as caught:
        draw(studio, asked)
    assert caught.value.field == "controlnet"
    assert studio.engine.residency.kept == []


def test_a_damaged_net_costs_the_job_and_not_the_model(studio: Studio, test_seed: int) -> None:
    nets, plain = studio.folders.models / "ControlNet", one(studio)
    tensors = control_tensors(UNET, test_seed)
    part = dict(tensors)
    del part["zero_convs.1.0.bias"]
    save_file(part, nets / "part.safetensors")
    save_file(tensors | {"zero_convs.1.0.bias": torch.zeros(5)}, nets / "odd.safetensors")
    save_file(tensors, nets / "cut.safetensors")
    (nets / "cut.safetensors").write_bytes((nets / "cut.safetensors").read_bytes()[:-100])
    torch.save({"control_model.x": Path}, nets / "hostile.pth")
    for name, words in (
        ("part", "lacks 1 of the .* tensors of its ControlNet .zero_convs.1.0.bias"),
        ("odd", r"zero_convs.1.0.bias is \[5\]"),
        ("cut", "incomplete"), ("hostile", "hostile.pth"),
    ):  # fmt: skip
        with pytest.raises(BadFile, match=words):
            draw(studio, unit(studio, model=name))
        (kept,) = studio.engine.residency.kept
        assert kept.name == "tiny"
        assert np.array_equal(one(studio), plain)


def test_more_units_than_anybody_needs_are_refused(studio: Studio) -> None:
    with pytest.raises(BadRequest, match="at most 10"):
        draw(studio, *(unit(studio) for _ in range(11)))


def test_the_infotext_tells_of_units_as_the_extension_does(studio: Studio) -> None:
    asked = unit(studio, module="canny", weight=0.75, threshold_a=90, guidance_end=0.5, processor_res=256)
    (ready,) = studio.draw(controlnet=(asked, unit(studio, model="lines", hr_option="Low res only")), checkpoint="tiny")
    fields = parse(ready.record.infotext).fields
    title = find_control(studio.folders, "canny").title
    assert fields["ControlNet 0"] == (
        f"Module: canny, Model: {title}, Weight: 0.75, Resize Mode: Crop and Resize, Processor Res: 256, "
        "Threshold A: 90, Threshold B: 200, Guidance Start: 0, Guidance End: 0.5, Pixel Perfect: False, "
        "Control Mode: Balanced"
    )
    first, second = control.units_told(fields)
    again = ControlUnit(**first, image=asked.image)
    assert again == asked.model_copy(update={"model": title, "threshold_b": 200})
    assert second["hr_option"] == "Low res only"
    assert ready.record.parents == (asked.image, unit(studio).image)
    (redrawn,) = draw(studio, again, ControlUnit(**second, image=asked.image))
    assert np.array_equal(redrawn, one(studio, asked, unit(studio, model="lines")))


def test_a_folder_of_the_command_line_and_the_extensions_are_looked_through(tmp_path: Path, test_seed: int) -> None:
    folders = replace(Folders.under(tmp_path), extra={"controlnet_dir": tmp_path / "elsewhere"})
    write_control(tmp_path / "elsewhere/a.safetensors", UNET, test_seed)
    write_control(tmp_path / "extensions/sd-webui-controlnet/models/b.pth", UNET, test_seed)
    write_control(tmp_path / "models/ControlNet/deep/C.safetensors", UNET, test_seed)
    assert [file.name for file in control_files(folders)] == ["a", "b", "C"]
    hashed = control_files(folders)[2].hash
    data = (tmp_path / "models/ControlNet/deep/C.safetensors").read_bytes()
    assert hashed == hashlib.sha256(data[2**20 :][:65536]).hexdigest()[:8]
    for name in ("c", f"deep/C.safetensors [{hashed}]", f"renamed [{hashed}]", hashed):
        assert find_control(folders, name).hash == hashed


def test_postcards_draws_along_a_picture(tmp_path: Path, test_seed: int) -> None:
    folders = Folders.under(tmp_path)
    (folders.models / "Stable-diffusion").mkdir(parents=True)
    (folders.models / "Stable-diffusion/postcards.safetensors").symlink_to(SHIPPED)
    engine = Engine(folders)
    try:
        studio = Studio(engine, folders)
        shipped = {"checkpoint": "postcards", "width": 128, "height": 128, "steps": 6, "prompt": "a red house, meadow"}
        plain = one(studio, **shipped)
        config = UNetConfig(**recognise(SHIPPED)[1].unet.config)
        write_control(folders.models / "ControlNet/untaught.safetensors", config, test_seed, zero=True)
        write_control(folders.models / "ControlNet/random.safetensors", config, test_seed, strength=0.5)
        image = picture(test_seed, (128, 128))
        assert np.array_equal(one(studio, unit(studio, model="untaught", image=image), **shipped), plain)
        along = one(studio, unit(studio, model="random", image=image), **shipped)
        assert np.abs(along - plain).mean() > 1
    finally:
        engine.close()
