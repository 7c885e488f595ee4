"""Decisions for made-up machines, and facts of the one at hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import psutil
import pytest
import torch

from modules.memory.budget import WINOGRAD, Shape, Sizes, Spread
from modules.memory.devices import DeviceFacts, cpu_features, detect
from modules.memory.policy import GB, RESTORING, UPSCALING, Policy, choose, for_part, notes, predict
from modules.nets import packed
from modules.schema.settings import Settings

F32, F16, BF16 = "float32", "float16", "bfloat16"
CUDA, MPS, CPU = "cuda:0", "mps", "cpu"


def card(name: str, gb: float, fp16: bool = True, bf16: bool = True, **more: Any) -> DeviceFacts:
    return DeviceFacts("cuda", name, int(gb * GB), 32 * GB, fp16, bf16, **more)


PC = DeviceFacts("cpu", "a CPU", 16 * GB, 16 * GB)
SERVER = DeviceFacts("cpu", "a CPU with AMX", 64 * GB, 64 * GB, fp16=True, bf16=True)
MAC = DeviceFacts("mps", "Apple GPU", 16 * GB, 16 * GB, fp16=True)

RETRY = (F32,)
"""A VAE in float16 may overflow; then float32."""


def on_card(denoiser, vae, together, channels_last=True, **more) -> Policy:
    text = more.pop("text", vae)
    return Policy(CUDA, denoiser, vae, text, "measured", together, channels_last, **more)


TABLE = [
    # machine, precision → denoiser, vae and text, attention, pictures per call, channels last
    (PC, "auto", Policy(CPU, F32, F32, F32, "measured", 1, True, packed=True)),
    (SERVER, "auto", Policy(CPU, F32, F32, F32, "measured", 1, True, packed=True)),
    (SERVER, "bfloat16", Policy(CPU, BF16, F32, F32, "measured", 1, True, packed=True)),
    (PC, "float16", Policy(CPU, F16, F32, F32, "measured", 1, True, packed=True)),
    (MAC, "auto", Policy(MPS, F16, F32, F32, "sub-quadratic", 1, False)),
    (MAC, "float32", Policy(MPS, F32, F32, F32, "sub-quadratic", 1, False)),
    (card("GTX 1050 Ti, 4 GB", 4.2), "auto", on_card(F16, F16, 2, vae_retry=RETRY)),
    (card("RTX 3050, 6 GB", 6.2), "auto", on_card(F16, F16, 6, vae_retry=RETRY)),
    (card("RTX 4060, 8 GB", 8.3), "auto", on_card(F16, F32, 9)),
    (card("RTX 4090, 24 GB", 25.3), "auto", on_card(F16, F32, 16)),
    (card("RTX 4090, 24 GB", 25.3), "float32", on_card(F32, F32, 16, False)),
    (card("RTX 4090, 24 GB", 25.3), "bfloat16", on_card(BF16, F32, 16)),
    (card("H200", 150), "auto", on_card(F16, F32, 16)),
]
SDXL = Sizes(2_567_463_684, 83_653_863, 817_000_000, attends_first=False, family="sdxl")
PLACES = [
    # card, model, settings → where the weights are, VAE in tiles
    (4.2, Sizes(), {}, "resident", False),
    (2.1, Sizes(), {}, "streamed", False),
    (4.2, SDXL, {}, "streamed", True),
    (6.2, SDXL, {}, "streamed", True),
    (8.3, SDXL, {}, "parked", True),
    (12.6, SDXL, {}, "resident", True),
    (150, SDXL, {}, "resident", False),
    (8.3, SDXL, {"fp8_storage": "Enable for SDXL"}, "resident", True),
    (24, Sizes(), {"memory_use": "medvram"}, "parked", False),
    (24, Sizes(), {"memory_use": "lowvram"}, "streamed", False),
    (24, Sizes(), {"memory_use_sdxl": "medvram"}, "resident", False),
    (24, SDXL, {"memory_use_sdxl": "medvram"}, "parked", False),
    (4.2, SDXL, {"memory_use": "normal"}, "resident", True),
    (24, SDXL, {"memory_saving": "VAE in tiles"}, "resident", True),
    (24, SDXL, {"memory_saving": "weights streamed"}, "streamed", True),
]


def test_a_small_net_keeps_plain_weights_on_a_processor():
    small = choose(PC, Settings(), Sizes(12_000_000, 2_000_000, 7_000_000, denoiser_width=64))
    assert small == Policy(CPU, F32, F32, F32, "sdp", 1, False, packed=False)


@pytest.mark.parametrize(("facts", "precision", "policy"), TABLE, ids=lambda v: getattr(v, "name", None))
def test_the_policy_of_each_machine(facts, precision, policy):
    assert vars(choose(facts, Settings().with_options({"precision": precision}))) == vars(policy)


@pytest.mark.parametrize(("gb", "sizes", "options", "placement", "tiled"), PLACES)
def test_where_the_weights_are(gb, sizes, options, placement, tiled):
    shape = Shape(1024, 1024) if sizes.is_large else Shape()
    policy = choose(card("a card", gb), Settings().with_options(options), sizes, shape)
    assert (policy.placement, policy.vae_tile is not None) == (placement, tiled)
    assert (policy.weights_budget is None) == (placement == "resident")
    assert (policy.text_on == CPU) == (placement != "resident")
    if policy.weights_budget is not None and not options:
        assert predict(sizes, shape, policy).peak < gb * GB


@pytest.mark.parametrize(("sizes", "side", "most"), [(Sizes(), 512, 1.0), (SDXL, 1024, 2.0)])
def test_lowvram_keeps_to_little_on_any_card(sizes, side, most):
    """In GB, with a reserve for what libraries take to work with."""
    shape = Shape(side, side)
    policy = choose(card("H200", 150), Settings().with_options({"memory_use": "lowvram"}), sizes, shape)
    need = predict(sizes, shape, policy)
    assert policy.weights_budget is not None
    assert policy.vae_budget is not None
    assert policy.weights_budget + need.denoising < 0.9 * most * GB
    assert policy.vae_budget + need.decoding < 0.7 * most * GB
    assert policy.vae_retry == ((F32,) if policy.vae == F16 else ())
    assert (policy.vae == F16) == (not sizes.is_large)


def test_a_card_without_half_precision_draws_in_float32():
    policy = choose(card("GTX 1650, 4 GB", 4.2, fp16=False, bf16=False), Settings())
    assert (policy.denoiser, policy.vae, policy.placement) == (F32, F32, "streamed")


def test_upcast_sampling_halves_the_weights_of_a_card_that_needs_float32():
    facts = card("GTX 1660, 6 GB", 6.2, fp16=False, bf16=False)
    plain, upcast = (choose(facts, Settings().with_options({"upcast_sampling": on})) for on in (False, True))
    assert (plain.denoiser, plain.storage) == (F32, None)
    assert (upcast.denoiser, upcast.storage) == (F32, F16)
    assert predict(Sizes(), Shape(), upcast).weights < 0.65 * predict(Sizes(), Shape(), plain).weights
    wanted = choose(facts, Settings().with_options({"upcast_sampling": True, "precision": "float32"}))
    assert wanted.storage is None  # --no-half wins


def test_parts_may_run_on_the_processor_by_themselves():
    facts = card("8 GB", 8.3)
    assert for_part(facts, "gfpgan", *RESTORING).on == CPU
    assert for_part(facts, "gfpgan", *UPSCALING).on == CUDA
    assert for_part(facts, "ALL", *UPSCALING).on == CPU


WISHES = [
    ({"cross_attention_optimization": "V1"}, "attention", "V1"),
    ({"cross_attention_optimization": "sdp - scaled dot product"}, "attention", "sdp"),
    ({"automatic_attention": "xformers", "cross_attention_optimization": "Doggettx"}, "attention", "Doggettx"),
    ({"sub_quad_q_chunk_size": 256, "sub_quad_kv_chunk_size": 64}, "chunks", (256, 64, 0)),
    ({"sub_quad_chunk_threshold": 10}, "chunks", (1024, 0, 830_000_000)),
    ({"upcast_attn": True}, "upcast", True),
    ({"batch_cond_uncond": False}, "split_guidance", True),
    ({"vae_precision": "bfloat16"}, "vae", BF16),
    ({"vae_precision": "float16"}, "vae_retry", (F32,)),
    ({"vae_precision": "float16", "auto_vae_precision_bfloat16": True}, "vae_retry", (BF16, F32)),
    ({"vae_precision": "float16", "auto_vae_precision": False}, "vae_retry", ()),
    ({"fp8_storage": "Enable"}, "storage", "float8_e4m3fn"),
    ({"fp8_storage": "Enable for SDXL"}, "storage", None),
    ({"precision": "float32", "opt_channelslast": True}, "channels_last", True),
    ({"disable_nan_check": True}, "check_numbers", False),
    ({"memory_saving": "the processor"}, "on", CPU),
    ({"use_cpu": "sd"}, "on", CPU),
    ({"use_cpu": "interrogate,all"}, "on", CPU),
    ({"use_cpu": "esrgan gfpgan"}, "on", CUDA),
    ({"denoiser_calls": "CUDA graphs"}, "calls", "CUDA graphs"),
    ({"upcast_sampling": True}, "storage", None),  # it computes in float16 anyway
]


@pytest.mark.parametrize(("options", "name", "value"), WISHES, ids=str)
def test_what_the_owner_wishes_on_an_8_gb_card(options, name, value):
    assert getattr(choose(card("RTX 4060, 8 GB", 8.3), Settings().with_options(options)), name) == value


def test_xformers_is_for_cuda_alone():
    settings = Settings().with_options({"automatic_attention": "xformers"})
    assert choose(PC, settings).attention == "measured"


def test_float8_products_are_for_cards_that_have_them_and_weights_in_their_format():
    new, old = card("RTX 4060", 8.3, features=frozenset({"fp8"})), card("RTX 3060", 8.3)
    eight = {"fp8_matmul": True, "fp8_storage": "Enable"}
    for facts, options, taken, told in (
        (new, eight, True, ""),
        (old, eight, False, "compute capability 8.9"),
        (PC, eight, False, "compute capability 8.9"),
        (new, {**eight, "fp8_format": "float8_e5m2"}, False, "float8_e4m3fn"),
        (new, {"fp8_matmul": True}, False, "enabled"),
        (new, {"fp8_storage": "Enable"}, False, ""),
    ):
        settings = Settings().with_options(options)
        assert choose(facts, settings).float8_products == taken
        assert told in " ".join(notes(facts, settings)), options
        assert bool(told) == bool(notes(facts, settings))


def test_a_large_picture_is_decoded_in_tiles_where_it_must():
    facts = card("8 GB", 8.3)
    assert choose(facts, Settings(), Sizes(), Shape(512, 512)).vae_tile is None
    tiled = choose(facts, Settings(), Sizes(), Shape(2560, 2560))
    assert tiled.vae_tile == 512
    whole = replace(tiled, vae_tile=None)
    assert (
        predict(Sizes(), Shape(2560, 2560), tiled).decoding < predict(Sizes(), Shape(2560, 2560), whole).decoding / 20
    )


@pytest.mark.parametrize(
    ("options", "width", "decoded"),
    [
        ({"show_progress_type": "Full"}, 128, True),
        ({}, 128, False),
        ({}, 64, True),  # a small autoencoder decodes its previews itself
        ({"live_previews_enable": False}, 64, False),
        ({"show_progress_every_n_steps": -1, "show_progress_type": "Full"}, 128, False),
    ],
)
def test_previews_that_are_decoded_are_part_of_what_is_predicted(options, width, decoded):
    sizes, shape = Sizes(denoiser=10**7, denoiser_width=64, vae_width=width, attends_first=False), Shape(1024, 1024)
    policy = choose(PC, Settings().with_options(options), sizes, shape)
    need = predict(sizes, shape, policy)
    alone = predict(sizes, shape, replace(policy, previews_decode=False))
    assert alone.denoising < alone.decoding
    assert need.denoising == (need.decoding if decoded else alone.denoising)


def test_packed_weights_are_predicted_as_large_as_they_are(test_seed):
    """Layers of every kind, packed; the prediction knows them from their shapes alone."""
    generator = torch.Generator().manual_seed(test_seed)
    for dtype in (torch.float32, torch.bfloat16):
        if dtype not in packed.dtypes():
            continue
        for layer, spread in (
            (packed.PackedConv2d(256, 320, 3, padding=1), Spread(0, 256 * 320 * 9)),
            (packed.PackedConv2d(256, 320, 3, stride=2, padding=1), Spread()),
            (packed.PackedConv2d(128, 256, 3, padding=1), Spread()),
            (packed.PackedUpConv2d(64, 64, 3, padding=1), Spread(64 * 64 * 9, 0)),
            (packed.PackedLinear(64, 64), Spread()),
        ):
            value = torch.randn(layer.weight.shape, generator=generator).to(dtype)
            if value.dim() == 4:
                value = value.contiguous(memory_format=torch.channels_last)
            layer.weight = torch.nn.Parameter(value, requires_grad=False)
            layer.pack()
            number = str(dtype).removeprefix("torch.")
            assert layer.held == value.nbytes + spread.more(number, channels_last=True), (layer, dtype)
    assert WINOGRAD == packed.WINOGRAD


def test_a_processor_is_said_to_hold_what_packing_adds():
    plain = predict(Sizes(denoiser_spread=Spread(), vae_spread=Spread()), Shape(), choose(PC, Settings()))
    added = predict(Sizes(), Shape(), choose(PC, Settings())).weights - plain.weights
    assert added == pytest.approx(0.446e9, rel=0.01)
    on_card = choose(card("RTX 4090, 24 GB", 24), Settings())
    assert predict(Sizes(), Shape(), on_card) == predict(
        Sizes(denoiser_spread=Spread(), vae_spread=Spread()), Shape(), on_card
    )


def test_a_smaller_model_leaves_room_for_more_pictures():
    small = Sizes(denoiser=15_000_000, vae=4_000_000, text=7_000_000)
    facts = card("4 GB", 4.2)
    assert choose(facts, Settings(), small).pictures_per_call > choose(facts, Settings()).pictures_per_call


def test_detection_on_the_cpu():
    facts = detect(use_cpu=True)
    assert facts.kind == "cpu"
    assert facts.on == CPU
    assert facts.memory == facts.ram == psutil.virtual_memory().total
    assert facts.threads == torch.get_num_threads()


def test_cpu_features_are_read_where_they_are_told(tmp_path):
    path = tmp_path / "cpuinfo"
    path.write_text("processor\t: 0\nflags\t\t: fpu avx512_bf16 amx_bf16\nbugs\t: none\n")
    assert cpu_features(path) == {"fpu", "avx512_bf16", "amx_bf16"}
    assert cpu_features(tmp_path / "missing") == frozenset()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_detection_on_cuda():
    facts = detect()
    assert facts.kind == "cuda"
    assert facts.memory == torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(0.5)
    try:
        assert detect().memory == facts.memory // 2
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert choose(facts, Settings()).on == CUDA
