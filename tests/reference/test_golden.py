"""Golden runs: what the original drew, we draw: latents, pictures, infotexts, model calls."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from modules.imaging.metadata import read_infotext
from modules.memory import policy
from modules.pipeline import decode
from modules.pipeline.context import RunContext
from modules.pipeline.generate import sample
from modules.pipeline.plan import infotext_of, make_plan
from modules.pipeline.progress import Meter
from modules.pipeline.run import Engine
from modules.schema.settings import Settings
from tests.reference.golden import golden_cases, golden_folder, request_of, unpack_models

GROUPS = {
    "prompt", "prompt_t", "prompt_heun", "prompt_ddim", "prompt_neg", "emphasis",
    "sampler", "sampler_t", "schedule", "schedule_t", "steps", "seed", "rng", "cfg", "opt", "vpred", "size",
}  # fmt: skip
# Cases where we differ on purpose, each with its reason.
DELIBERATE: dict[str, str] = {
    "size/100x100": "drawn at 104x104 and cropped to the size asked for, not at 96x96",
    "sampler/unknown": "an unknown sampler is refused with the nearest names instead of becoming DPM++ 2M in silence",
}
LATER: dict[str, str] = {
    "opt/token_merging_0.5": "token merging is not built",
    "opt/tiling_setting": "seamless tiling is not built",
    "opt/tiling_t": "seamless tiling is not built",
    "emphasis/old_implementation": "emphasis at token level, as before 2023, is not built",
}


class Hand:
    cancelled = False
    finished: frozenset[int] = frozenset()

    def take_skip(self) -> bool:
        return False


def _cases() -> Iterator[object]:
    for case in golden_cases():
        if case["group"] in GROUPS and case["endpoint"] == "txt2img":
            yield pytest.param(case, id=case["id"])


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = Engine(unpack_models(tmp_path_factory.mktemp("golden")))
    yield engine
    engine.close()


def _same_pixels(path: Any, image: Image.Image, limit: int) -> None:
    expected = np.asarray(Image.open(path).convert("RGB")).astype(int)
    got = np.asarray(image).astype(int)
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= limit, f"pixels differ by up to {np.abs(got - expected).max()}"


@pytest.mark.parametrize("case", list(_cases()))
def test_golden(case: dict[str, Any], engine: Engine) -> None:
    if case["id"] in DELIBERATE or case["id"] in LATER:
        pytest.skip(DELIBERATE.get(case["id"]) or LATER[case["id"]])
    if "error" in case:
        pytest.skip(f"the original failed: {case['error']}")
    request = request_of(case["request"])
    settings = Settings()
    ctx = RunContext(
        "golden", lambda event: None, Hand(), engine.folders, settings, engine.catalogue, engine.residency,
        engine.facts, engine.conditionings,
    )  # fmt: skip
    plan = make_plan(request, settings, engine.catalogue, {})
    checkpoint = plan.checkpoint.model_copy(update={"sha256": engine.catalogue.hash_of(plan.checkpoint)})
    plan = plan.model_copy(update={"checkpoint": checkpoint})
    chosen = policy.choose(engine.facts, plan.settings)
    result, noise_floor = case["result"], case["repeat"]["sdp_attention"]
    pixel_floor = max(run["pixel_max"] for run in case["repeat"].values())
    assert list(plan.seeds) == result["all_seeds"]
    with (
        engine.residency.lease(plan.checkpoint, chosen) as model,
        safe_open(golden_folder() / "latents.safetensors", "pt") as latents,
        torch.inference_mode(),
    ):
        for number, batch in enumerate(plan.batches()):
            got = sample(plan, batch, model, ctx, Meter(ctx, plan), 1)
            expected = latents.get_tensor(f"{case['id']}/latent.{number}")
            limit = max(1e-3, 10 * noise_floor["latent_max_abs"])
            worst = float((got.float() - expected).abs().max())
            assert worst <= limit, f"latents differ by {worst:.2e}, allowed {limit:.2e}"
            for k, latent in zip(batch, got):
                image = decode.decode(model, latent, (request.width, request.height))
                path = golden_folder() / result["images"][k]["file"]
                _same_pixels(path, image, max(2, 3 * pixel_floor))
                assert _bare(infotext_of(plan, k)) == _bare(result["infotexts"][k])


def _bare(infotext: str) -> str:
    """Without the version, which is each program's own."""
    return re.sub(r", Version: [^,]*$", "", infotext)


def test_pictures_of_the_original_can_be_read_back() -> None:
    cases = [case for case in golden_cases() if "result" in case and case["endpoint"] == "txt2img"][:20]
    if not cases:
        pytest.skip("no golden runs here")
    for case in cases:
        path = golden_folder() / case["result"]["images"][0]["file"]
        with Image.open(path) as image:
            digest = hashlib.sha1(np.asarray(image).tobytes()).hexdigest()
            text = read_infotext(image)
        assert digest == case["result"]["images"][0]["sha1_pixels"]
        assert text is None or text == case["result"]["infotexts"][0]
