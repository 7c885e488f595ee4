"""Reference cases of the pipeline room."""

from __future__ import annotations

from modules.pipeline.hires import target
from modules.schema.request import Hires


def check_hires_target(case: dict) -> None:
    width, height, scale, *sides = case["args"]
    x, y = (*sides, 0, 0)[:2]
    found = target(width, height, Hires(hr_scale=scale, hr_resize_x=x, hr_resize_y=y))
    assert {
        "upscale_to": list(found.scaled),
        "truncate_latent": list(found.surplus),
        "final_latent": list(found.latent),
    } == case["expected"]


RUNNERS = {"hires_target": check_hires_target}
