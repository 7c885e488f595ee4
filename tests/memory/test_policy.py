"""Decisions for made-up machines, and facts of the one at hand."""

from __future__ import annotations

import psutil
import pytest
import torch

from modules.memory.devices import DeviceFacts, cpu_features, detect
from modules.memory.policy import GB, Policy, Sizes, choose
from modules.schema.settings import Settings

F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16
CUDA, MPS, CPU = torch.device("cuda", 0), torch.device("mps"), torch.device("cpu")


def card(name: str, gb: float, fp16: bool = True, bf16: bool = True) -> DeviceFacts:
    return DeviceFacts("cuda", name, int(gb * GB), 32 * GB, fp16, bf16)


PC = DeviceFacts("cpu", "a CPU", 16 * GB, 16 * GB)
SERVER = DeviceFacts("cpu", "a CPU with AMX", 64 * GB, 64 * GB, fp16=True, bf16=True)
MAC = DeviceFacts("mps", "Apple GPU", 16 * GB, 16 * GB, fp16=True)

TABLE = [
    # machine, precision → denoiser, vae, text, attention, pictures per call, channels last
    (PC, "auto", Policy(CPU, F32, F32, F32, "onednn", 1, False, packed=True)),
    (SERVER, "auto", Policy(CPU, F32, F32, F32, "onednn", 1, False, packed=True)),
    (SERVER, "bfloat16", Policy(CPU, BF16, F32, F32, "onednn", 1, True, packed=True)),
    (PC, "float16", Policy(CPU, F16, F32, F32, "onednn", 1, True, packed=True)),
    (MAC, "auto", Policy(MPS, F16, F32, F32, "split", 1, False)),
    (MAC, "float32", Policy(MPS, F32, F32, F32, "split", 1, False)),
    (card("GTX 1050 Ti, 4 GB", 4.2), "auto", Policy(CUDA, F16, F16, F16, "sdp", 2, True)),
    (card("GTX 1650, 4 GB", 4.2, fp16=False, bf16=False), "auto", Policy(CUDA, F32, F32, F32, "sdp", 1, False)),
    (card("RTX 3050, 6 GB", 6.2), "auto", Policy(CUDA, F16, F16, F16, "sdp", 6, True)),
    (card("RTX 4060, 8 GB", 8.3), "auto", Policy(CUDA, F16, F32, F32, "sdp", 9, True)),
    (card("RTX 4090, 24 GB", 25.3), "auto", Policy(CUDA, F16, F32, F32, "sdp", 16, True)),
    (card("RTX 4090, 24 GB", 25.3), "float32", Policy(CUDA, F32, F32, F32, "sdp", 16, False)),
    (card("RTX 4090, 24 GB", 25.3), "bfloat16", Policy(CUDA, BF16, F32, F32, "sdp", 16, True)),
    (card("H200", 150), "auto", Policy(CUDA, F16, F32, F32, "sdp", 16, True)),
]


@pytest.mark.parametrize(("facts", "precision", "policy"), TABLE, ids=lambda v: getattr(v, "name", None))
def test_the_policy_of_each_machine(facts, precision, policy):
    assert choose(facts, Settings().with_options({"precision": precision})) == policy


def test_a_smaller_model_leaves_room_for_more_pictures():
    small = Sizes(denoiser=15_000_000, vae=4_000_000, text=7_000_000)
    facts = card("4 GB", 4.2)
    assert choose(facts, Settings(), small).pictures_per_call > choose(facts, Settings()).pictures_per_call


def test_detection_on_the_cpu():
    facts = detect(use_cpu=True)
    assert facts.kind == "cpu"
    assert facts.device == CPU
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
    assert choose(facts, Settings()).device == CUDA
