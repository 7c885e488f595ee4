"""From the command line to what a machine then does: every flag of memory, precision, attention and devices."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modules.bootstrap.flags import A1111, FORGE, NEVER, NOT_YET
from modules.bootstrap.options import Options, read_options
from modules.memory.budget import Shape, Sizes
from modules.memory.machine import DeviceFacts
from modules.memory.policy import GB, RESTORING, UPSCALING, Policy, choose, for_part, notes, predict
from modules.schema.settings import Settings

ROOT = Path("/program")
CARD = DeviceFacts("cuda", "RTX 4090", 25 * GB, 32 * GB, fp16=True, bf16=True, features=frozenset({"xformers"}))
OLD = replace(CARD, name="GTX 1660", fp16=False, bf16=False, memory=6 * GB)
MAC = DeviceFacts("mps", "Apple GPU", 16 * GB, 16 * GB, fp16=True)
INTEL = replace(CARD, kind="xpu", name="Arc A770", memory=16 * GB, features=frozenset())
PC = DeviceFacts("cpu", "a CPU", 16 * GB, 16 * GB)
SDXL = Sizes(2_567_463_684, 83_653_863, 817_000_000, attends_first=False, family="sdxl")

XFORMERS = ("--xformers", "--force-enable-xformers", "--xformers-flash-attention")
TABLE: list[tuple[str, DeviceFacts, Sizes, dict[str, Any]]] = [
    # flags, machine, model → what of the policy they decide
    ("", CARD, Sizes(), {"denoiser": "float16", "vae": "float32", "placement": "resident", "attention": "measured"}),
    ("--medvram", CARD, Sizes(), {"placement": "parked", "text_on": "cpu"}),
    ("--medvram-sdxl", CARD, SDXL, {"placement": "parked"}),
    ("--medvram-sdxl", CARD, Sizes(), {"placement": "resident"}),
    ("--lowvram", CARD, Sizes(), {"placement": "streamed", "weights_budget": 600_000_000}),
    ("--always-low-vram", CARD, Sizes(), {"placement": "streamed"}),
    ("--always-no-vram", CARD, Sizes(), {"placement": "streamed"}),
    ("--always-gpu", OLD, SDXL, {"placement": "resident"}),
    ("--always-high-vram", OLD, SDXL, {"placement": "resident"}),
    ("--always-normal-vram", OLD, SDXL, {"placement": "streamed"}),
    ("--lowram", CARD, Sizes(), {"lean": True, "models_kept": 1}),
    ("--lowram", PC, Sizes(), {"lean": False}),
    ("--no-half", CARD, Sizes(), {"denoiser": "float32", "vae": "float32", "text": "float32"}),
    ("--no-half", replace(CARD, memory=6 * GB), Sizes(), {"vae": "float32", "text": "float32"}),
    ("--no-half", MAC, Sizes(), {"denoiser": "float32"}),
    ("--precision full", CARD, Sizes(), {"denoiser": "float32"}),
    ("--precision half", PC, Sizes(), {"denoiser": "float16"}),
    ("--precision autocast", CARD, Sizes(), {"denoiser": "float16"}),
    ("--all-in-fp32", CARD, Sizes(), {"denoiser": "float32", "vae": "float32", "text": "float32"}),
    ("--all-in-fp16", CARD, Sizes(), {"denoiser": "float16", "vae": "float16", "text": "float16"}),
    ("--all-in-fp16 --vae-in-fp32", CARD, Sizes(), {"denoiser": "float16", "vae": "float32", "text": "float16"}),
    ("--unet-in-fp16", PC, Sizes(), {"denoiser": "float16"}),
    ("--unet-in-bf16", CARD, Sizes(), {"denoiser": "bfloat16"}),
    ("--unet-in-fp8-e4m3fn", CARD, Sizes(), {"storage": "float8_e4m3fn", "denoiser": "float16"}),
    ("--unet-in-fp8-e5m2", CARD, Sizes(), {"storage": "float8_e5m2", "denoiser": "float16"}),
    ("--no-half-vae", replace(CARD, memory=6 * GB), Sizes(), {"vae": "float32", "denoiser": "float16"}),
    ("--vae-in-fp16", CARD, Sizes(), {"vae": "float16", "vae_retry": ("float32",)}),
    ("--vae-in-bf16", CARD, Sizes(), {"vae": "bfloat16"}),
    ("--vae-in-fp32", CARD, Sizes(), {"vae": "float32"}),
    ("--vae-in-cpu", CARD, Sizes(), {"vae_on": "cpu", "on": "cuda:0", "vae": "float32"}),
    ("--vae-in-cpu", MAC, Sizes(), {"vae_on": "cpu", "on": "mps"}),
    ("--vae-in-cpu", PC, Sizes(), {"vae_apart": False}),
    ("--use-cpu vae", CARD, Sizes(), {"vae_on": "cpu", "on": "cuda:0"}),
    ("--clip-in-fp16", CARD, Sizes(), {"text": "float16"}),
    ("--clip-in-fp32", replace(CARD, memory=6 * GB), Sizes(), {"text": "float32"}),
    ("--clip-in-fp8-e4m3fn", CARD, Sizes(), {"text_storage": "float8_e4m3fn"}),
    ("--clip-in-fp8-e5m2", PC, Sizes(), {"text_storage": "float8_e5m2"}),
    ("--clip-in-fp16 --medvram", CARD, Sizes(), {"text": "float16", "text_on": "cpu"}),
    ("--upcast-sampling", OLD, Sizes(), {"storage": "float16", "denoiser": "float32"}),
    ("--upcast-sampling --no-half", OLD, Sizes(), {"storage": None}),
    ("--opt-channelslast", MAC, Sizes(), {"channels_last": True}),
    ("--disable-nan-check", CARD, Sizes(), {"check_numbers": False}),
    *((flag, CARD, Sizes(), {"attention": "xformers"}) for flag in XFORMERS),
    *((flag, replace(CARD, features=frozenset()), Sizes(), {"attention": "measured"}) for flag in XFORMERS),
    *((flag, PC, Sizes(), {"attention": "measured"}) for flag in XFORMERS),
    ("--xformers --disable-xformers", CARD, Sizes(), {"attention": "measured"}),
    ("--opt-sdp-attention", CARD, Sizes(), {"attention": "sdp"}),
    ("--attention-pytorch", MAC, Sizes(), {"attention": "sdp"}),
    ("--opt-sdp-no-mem-attention", CARD, Sizes(), {"attention": "sdp-no-mem"}),
    ("--opt-split-attention", CARD, Sizes(), {"attention": "Doggettx"}),
    ("--attention-split", CARD, Sizes(), {"attention": "Doggettx"}),
    ("--opt-split-attention-v1", CARD, Sizes(), {"attention": "V1"}),
    ("--opt-split-attention-invokeai", CARD, Sizes(), {"attention": "InvokeAI"}),
    ("--opt-sub-quad-attention", CARD, Sizes(), {"attention": "sub-quadratic", "chunks": (1024, 0, 0)}),
    ("--attention-quad", CARD, Sizes(), {"attention": "sub-quadratic"}),
    ("--sub-quad-q-chunk-size 256", CARD, Sizes(), {"chunks": (256, 0, 0)}),
    ("--sub-quad-kv-chunk-size 64", CARD, Sizes(), {"chunks": (1024, 64, 0)}),
    ("--sub-quad-chunk-threshold 10", CARD, Sizes(), {"chunks": (1024, 0, 2_500_000_000)}),
    ("--disable-opt-split-attention", CARD, Sizes(), {"attention": "None"}),
    ("--force-upcast-attention", CARD, Sizes(), {"upcast": True}),
    ("--use-cpu all", MAC, Sizes(), {"on": "cpu", "denoiser": "float32"}),
    ("--use-cpu sd", CARD, Sizes(), {"on": "cpu"}),
    ("--use-cpu interrogate", MAC, Sizes(), {"on": "mps"}),
    ("--always-cpu", MAC, Sizes(), {"on": "cpu"}),
    ("--medvram", INTEL, Sizes(), {"placement": "parked", "on": "xpu:0"}),
]
ELSEWHERE = {
    "--device-id": "the variables that torch reads (tests/bootstrap/test_options.py)",
    "--gpu-device-id": "the same",
    "--use-ipex": "which torch is installed (below)",
    "--cuda-malloc": "below",
    "--pytorch-deterministic": "below, tests/pipeline/test_placements.py",
    "--always-offload-from-vram": "tests/pipeline/test_placements.py",
    "--disable-attention-upcast": "below",
}
ALWAYS = {
    "--always-batch-cond-uncond": "as in A1111: an option",
    "--cuda-stream": "what streams is copied beside computing",
    "--pin-shared-memory": "so is pinning",
    "--disable-ipex-hijack": "torch is never changed",
    "--disable-gpu-warning": "there is none",
    "--skip-google-blockly": "there is none",
}
"""Flags whose wish holds anyway."""
FOLDERS = ("--text-encoder-dir", "--forge-ref-a1111-home", "--controlnet-dir")


def options(line: str, **environ: str) -> Options:
    return read_options(line.split(), environ, ROOT)


def decided(line: str, facts: DeviceFacts, sizes: Sizes = Sizes()) -> Policy:  # noqa: B008 - frozen
    """With an owner's own choices in the settings file, where a flag must win."""
    mine = Settings().with_options({"upcast_attn": line == "--disable-attention-upcast", "sd_checkpoints_limit": 3})
    shape = Shape(1024, 1024) if sizes.is_large else Shape()
    return choose(facts, mine.with_options(options(line).settings), sizes, shape)


@pytest.mark.parametrize(("line", "facts", "sizes", "wanted"), TABLE, ids=lambda v: getattr(v, "name", None))
def test_what_a_flag_makes_a_machine_do(line, facts, sizes, wanted):
    policy = decided(line, facts, sizes)
    assert {name: getattr(policy, name) for name in wanted} == wanted
    assert options(line).notices == ()


def test_no_flag_of_memory_attention_and_devices_is_a_silent_nothing():
    groups = ("memory and precision", "attention", "device")
    rows = [row for group in groups for row in A1111[group]] + list(FORGE)
    tested = {word for line, *_ in TABLE for word in line.split() if word.startswith("--")}
    for row in rows:
        told = row.dest in NOT_YET or row.dest in NEVER
        assert told + (row.name in tested) + (row.name in {*ELSEWHERE, *ALWAYS, *FOLDERS}) == 1, row.name
        assert row.help or row.dest in {*NOT_YET, *NEVER}, f"--help has no word about {row.name}"


@pytest.mark.parametrize("line", ["--directml", "--directml 1", "--disable-model-loading-ram-optimization"])
def test_flags_that_never_act_say_why(line):
    (said,) = options(line).notices
    assert line.split()[0] in said
    assert "changes nothing" in said
    assert options(line).settings == {}


def test_attention_is_not_widened_where_a_flag_forbids_it():
    assert not decided("--disable-attention-upcast", CARD).upcast


def test_parts_on_the_processor():
    for line, upscaling, restoring in (
        ("--use-cpu esrgan", "cpu", "cuda:0"), ("--use-cpu GFPGAN interrogate", "cuda:0", "cpu"),
        ("--use-cpu all", "cpu", "cpu"), ("--vae-in-cpu", "cuda:0", "cuda:0"),
    ):  # fmt: skip
        parts = str(options(line).settings["use_cpu"])
        assert (for_part(CARD, parts, *UPSCALING).on, for_part(CARD, parts, *RESTORING).on) == (upscaling, restoring)


def test_xformers_that_is_not_there_is_one_sentence():
    wish = Settings().with_options(options("--xformers").settings)
    assert notes(CARD, wish) == ()
    (missing,) = notes(replace(CARD, features=frozenset()), wish)
    assert "not installed" in missing
    (foreign,) = notes(PC, wish)
    assert "NVIDIA" in foreign
    chosen = wish.with_options({"cross_attention_optimization": "sdp"})
    assert notes(PC, chosen) == notes(PC, Settings()) == ()


def test_a_vae_on_the_processor_takes_nothing_of_the_card():
    here, apart = (decided(line, CARD) for line in ("", "--vae-in-cpu"))
    shape = Shape(2048, 2048)
    assert predict(Sizes(), shape, apart).decoding == 0
    assert predict(Sizes(), shape, here).weights - predict(Sizes(), shape, apart).weights == 4 * Sizes().vae
    large = Shape(4096, 4096)
    assert choose(CARD, Settings(), Sizes(), large).vae_tile == 512  # the card is too small for it, the RAM is not
    assert choose(CARD, Settings().with_options({"use_cpu": "vae"}), Sizes(), Shape(2560, 2560)).vae_tile is None


def test_variables_that_torch_reads_before_it_is_loaded():
    assert options("--cuda-malloc").environment({})["PYTORCH_ALLOC_CONF"] == "backend:cudaMallocAsync"
    mine = {"PYTORCH_CUDA_ALLOC_CONF": "backend:native,max_split_size_mb:512"}
    wanted = "backend:cudaMallocAsync,max_split_size_mb:512"
    assert options("--cuda-malloc").environment(mine)["PYTORCH_ALLOC_CONF"] == wanted
    assert options("--pytorch-deterministic").environment({})["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert options("--pytorch-deterministic").settings == {"deterministic": True}
    assert not {"PYTORCH_ALLOC_CONF", "CUBLAS_WORKSPACE_CONFIG"} & options("").environment(mine).keys()
    assert options("--use-ipex --device-id 1").environment({})["ZE_AFFINITY_MASK"] == "1"
