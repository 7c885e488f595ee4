"""Reference cases of the imaging room."""

from __future__ import annotations

from PIL import Image

from modules.imaging.grid import tile_starts
from modules.imaging.masks import crop_region, expand_to_ratio
from modules.imaging.naming import NameFields, expand, sanitize
from modules.imaging.resize import Mode, placement, resize

# The job the cases were recorded with; each case changes some of it.
PICTURE = Image.new("RGB", (512, 768))
NEGATIVE = "bad, ugly"
STYLES = {"Photo": "photo of {prompt}, 8k", "HQ": "masterpiece"}


def check_filename_pattern(case: dict) -> None:
    p = case["p"]
    styles = tuple(p.get("styles", ()))
    fields = NameFields(
        prompt=case["prompt"],
        negative_prompt=NEGATIVE,
        seed=1234,
        seeds=tuple(1234 + i for i in range(p.get("batch_size", 1) * p.get("n_iter", 1))),
        steps=20,
        cfg_scale=7.0,
        width=512,
        height=768,
        sampler=p.get("sampler_name", "DPM++ 2M"),
        scheduler=p.get("scheduler", "Karras"),
        styles=styles,
        style_texts=tuple(STYLES[name] for name in styles if name in STYLES),
        model_name="v1-5-pruned-emaonly",
        model_hash="6ce0161689",
        vae="vae-ft-mse-840000.ema-pruned.safetensors",
        denoising=p.get("denoising_strength"),
        clip_skip=2,
        batch_size=p.get("batch_size", 1),
        n_iter=p.get("n_iter", 1),
        iteration=p.get("iteration", 0),
        batch_index=p.get("batch_index", 0),
    )
    assert expand(case["pattern"], fields, PICTURE, case["basename"], case["zip"]) == case["expected"]


def check_sanitize_filename(case: dict) -> None:
    assert sanitize(case["input"]) == case["expected"]
    assert sanitize(case["input"], replace_spaces=False) == case["expected_keep_spaces"]


def check_resize_geometry(case: dict) -> None:
    mode: Mode = ("stretch", "cover", "fit")[case["mode"]]
    scaled, paste = placement(mode, tuple(case["src"]), tuple(case["dst"]))
    assert {"resized": list(scaled), "paste": list(paste)} == case["expected"]
    assert resize(Image.new("RGB", tuple(case["src"])), mode, tuple(case["dst"])).size == tuple(case["dst"])


def check_crop_region(case: dict) -> None:
    mask = Image.new("L", tuple(case["size"]))
    if case["mask_box"]:
        mask.paste(255, tuple(case["mask_box"]))
    found = crop_region(mask, case["pad"])
    assert (list(found) if found else None) == case["expected"]


def check_expand_crop_region(case: dict) -> None:
    found = expand_to_ratio(tuple(case["crop"]), tuple(case["process"]), tuple(case["image"]))
    assert list(found) == case["expected"]


def check_split_grid(case: dict) -> None:
    columns = tile_starts(case["image"][0], case["tile"][0], case["overlap"])
    rows = tile_starts(case["image"][1], case["tile"][1], case["overlap"])
    assert [[y, columns] for y in rows] == case["expected"]


RUNNERS = {
    "filename_pattern": check_filename_pattern,
    "sanitize_filename": check_sanitize_filename,
    "resize_geometry": check_resize_geometry,
    "crop_region": check_crop_region,
    "expand_crop_region": check_expand_crop_region,
    "split_grid": check_split_grid,
}
