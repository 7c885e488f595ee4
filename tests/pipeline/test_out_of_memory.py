"""Memory that runs out anywhere in a job: the job is finished, its pictures say what was done, the next one is normal.

Every stage is met at its first, its last and some call between, in every kind of job; which of them a plain run takes,
the seed says (TEST_FULL=1 takes all).
"""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from modules.memory.devices import is_memory
from modules.nets.autoencoder import Autoencoder
from modules.nets.clip import TextEncoder
from modules.nets.unet import UNet
from modules.pipeline import upscalers
from modules.pipeline.run import Engine
from modules.prompt import infotext
from modules.schema.errors import OutOfMemory
from modules.schema.events import ImageReady, Warned
from modules.schema.folders import Folders
from modules.schema.request import Extras, Hires, Source
from modules.schema.settings import SAVINGS
from modules.weights import residency as residency_module
from modules.weights.adapters.apply import Networks
from tests.pipeline.conftest import Studio
from tests.pipeline.test_img2img import from_picture, keep, picture
from tests.pipeline.test_upscalers import weights as upscaler_weights
from tests.weights.adapters.nets import Dice, Small, write_adapter
from tests.weights.adapters.test_apply import lora_for
from tests.weights.tiny import write_tiny_sd15

FULL = bool(os.environ.get("TEST_FULL"))
LORA = "a house<lora:ink:0.8>"
STAGES: dict[str, tuple[object, str]] = {
    "text encoder": (TextEncoder, "hidden_states"),
    "denoiser": (UNet, "forward"),
    "VAE decoder": (Autoencoder, "decode"),
    "VAE encoder": (Autoencoder, "encode_moments"),
    "upscaler": (upscalers, "in_tiles"),
    "LoRA": (Networks, "_write"),
    "loading": (residency_module, "fill"),
}
JOBS: dict[str, tuple[str, ...]] = {
    "text encoder": ("two batches",),
    "denoiser": ("two batches", "hires", "inpainting"),
    "VAE decoder": ("two batches", "hires", "inpainting"),
    "VAE encoder": ("hires", "inpainting"),
    "upscaler": ("hires", "extras"),
    "LoRA": ("two batches",),
    "loading": ("two batches",),
}
"""The jobs that come by each."""


class Failing:
    """A function that has no memory at its n-th call, and counts; what its caller held dies with the failed attempt."""

    def __init__(self, real: Callable[..., Any], at: int = 0, error: BaseException | None = None) -> None:
        self.real, self.at, self.count = real, at, 0
        self.error = error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        self.held: weakref.ref[torch.Tensor] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.count += 1
        if self.count == self.at:
            filling = torch.zeros(3)
            self.held = weakref.ref(filling)
            raise self.error
        return self.real(*args, **kwargs)

    def put(self, patch: pytest.MonkeyPatch, owner: object, name: str) -> None:
        if not isinstance(owner, type):
            return patch.setattr(owner, name, self)
        patch.setattr(owner, name, lambda it, *args, **kwargs: self(it, *args, **kwargs))


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory, test_seed: int) -> Iterator[Studio]:
    folders = Folders.under(tmp_path_factory.mktemp("short"))
    write_tiny_sd15(folders.checkpoint_dirs[0] / "tiny.safetensors", test_seed)
    write_tiny_sd15(folders.checkpoint_dirs[0] / "zother.safetensors", test_seed + 1)
    folders.lora.mkdir(parents=True)
    small = Small.of("SD 1.x", test_seed)
    write_adapter(folders.lora / "ink.safetensors", small, lora_for(small, Dice(test_seed)))
    (folders.models / "ESRGAN").mkdir(parents=True)
    save_file(upscaler_weights(test_seed), folders.models / "ESRGAN/stub_x2.safetensors")
    engine = Engine(folders)
    yield Studio(engine, folders)
    engine.close()


@pytest.fixture(scope="module")
def jobs(studio: Studio, test_seed: int) -> dict[str, dict[str, Any]]:
    return {
        "two batches": {"n_iter": 2, "batch_size": 2, "prompt": LORA, "steps": 2},
        "hires": {
            "steps": 2, "hires": Hires(hr_scale=2, hr_upscaler="stub_x2", denoising_strength=0.6),
        },
        "inpainting": {"steps": 3, "source": from_picture(studio, test_seed, mask={}, denoising_strength=0.7)},
        "extras": {
            "source": Source(images=(keep(studio, picture(test_seed)),), extras=Extras(upscaler_1="stub_x2")),
        },
    }  # fmt: skip


def seen(studio: Studio, pictures: list[ImageReady]) -> np.ndarray:
    found = []
    for ready in sorted(pictures, key=lambda one: one.record.index):
        with Image.open(studio.folders.data / str(ready.record.path)) as image:
            found.append(np.asarray(image.convert("RGB")).astype(int))
    return np.stack(found)


def savings(studio: Studio) -> list[str]:
    return [str(infotext.read(one.record.infotext).fields.get("Memory saving")) for one in studio.pictures]


@pytest.mark.parametrize("stage", STAGES)
def test_a_job_survives_wherever_memory_runs_out(
    studio: Studio, jobs: dict[str, Any], monkeypatch: pytest.MonkeyPatch, stage: str, test_seed: int
) -> None:
    here = JOBS[stage]
    for job in here if FULL else [here[test_seed % len(here)]]:
        survives(studio, jobs, monkeypatch, job, stage, test_seed)


def survives(
    studio: Studio, jobs: dict[str, Any], monkeypatch: pytest.MonkeyPatch, job: str, stage: str, test_seed: int
) -> None:
    def fresh() -> None:
        """So that nothing is known from before: text is encoded, networks are applied, weights are loaded."""
        studio.engine.conditionings.clear()
        if stage == "loading":
            studio.engine.residency.close()
        elif stage == "LoRA":
            studio.draw(steps=1)

    owner, name = STAGES[stage]
    real = getattr(owner, name)
    fresh()
    with monkeypatch.context() as patch:
        (counter := Failing(real)).put(patch, owner, name)
        right = seen(studio, studio.draw(**jobs[job]))
        assert savings(studio) == ["None"] * len(right)
    calls = sorted({1, (counter.count + 1) // 2, counter.count})
    assert calls[0] <= counter.count, f"{job} never comes by {stage}"
    for at in calls if FULL else [calls[test_seed // 7 % len(calls)]]:
        fresh()
        with monkeypatch.context() as patch:
            (failing := Failing(real, at)).put(patch, owner, name)
            found = seen(studio, studio.draw(**jobs[job]))
        assert failing.count > at
        assert found.shape == right.shape
        # Smaller tiles of an upscaler, prompts one by one: another order of sums, never another picture.
        assert np.abs(found - right).max() <= 3, (at, counter.count)
        assert savings(studio)[-1] in SAVINGS[1:]
        assert any(isinstance(e, Warned) and "going on with" in e.message for e in studio.events)
        gc.collect()
        assert failing.held is not None
        assert failing.held() is None, "what filled the memory is still held"
        assert (studio.engine.residency.loaded is not None) == (job != "extras" or stage != "loading")
    # And the next one is what it would have been.
    assert np.array_equal(seen(studio, studio.draw(**jobs[job])), right)
    assert savings(studio) == ["None"] * len(right)


def test_a_model_that_does_not_fit_leaves_the_one_before(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    before = seen(studio, studio.draw())
    loaded = studio.engine.residency.loaded
    with monkeypatch.context() as patch:
        fill = residency_module.fill

        def short(net: Any, file: Any, *args: Any, **kwargs: Any) -> None:
            if file.header.path.stem == "zother":
                raise torch.OutOfMemoryError("there is no more")
            fill(net, file, *args, **kwargs)

        patch.setattr(residency_module, "fill", short)
        with pytest.raises(OutOfMemory, match="zother does not fit"):
            studio.draw(checkpoint="zother")
        assert studio.engine.residency.loaded == loaded
    assert np.array_equal(seen(studio, studio.draw()), before)
    assert len(studio.draw(checkpoint="zother")) == 1


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (torch.OutOfMemoryError("x"), True), (MemoryError(), True), (OSError(12, "Cannot allocate memory"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:114] . DefaultCPUAllocator: can't allocate memory: you t"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 17179869184 bytes."), True),
        (RuntimeError("CUDA error: out of memory"), True), (RuntimeError("HIP out of memory. Tried to"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 17.90 GB"), True),
        (RuntimeError("level_zero backend failed with error: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False), (OSError(28, "No space left"), False),
        (ValueError("out of memory"), False),
    ],
    ids=str,
)  # fmt: skip
def test_memory_that_ran_out_is_known_by_each_of_its_names(error: BaseException, is_one: bool) -> None:
    assert is_memory(error) is is_one
