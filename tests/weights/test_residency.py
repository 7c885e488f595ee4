"""One model in memory: loaded right, reused for nothing, freed for the next, and still there after a failed load."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import threading
import time
import weakref
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from modules.memory.devices import detect
from modules.memory.gauge import give_back
from modules.memory.policy import Policy, choose
from modules.schema.errors import BadFile, NotFound, OutOfMemory
from modules.schema.folders import Folders
from modules.schema.record import CheckpointView
from modules.schema.settings import Settings
from modules.weights import residency as residency_module
from modules.weights.adapters.apply import Network
from modules.weights.catalogue import Catalogue
from modules.weights.reading import ModelFile
from modules.weights.residency import LoadedModel, Residency
from tests.weights.adapters.nets import Dice, Small, write_adapter
from tests.weights.adapters.test_apply import lora_for
from tests.weights.hostile import hostile
from tests.weights.malformed import malformed
from tests.weights.tiny import PREFIXES, tiny_tensors, write_tiny, write_tiny_sd15

FACTS = detect(use_cpu=True)
FULL = pytest.mark.skipif(not os.environ.get("TEST_FULL"), reason="a minute long: TEST_FULL=1 runs it")
POLICY: Policy = replace(choose(FACTS, Settings()), packed=False, channels_last=False)  # as the file has it


@pytest.fixture(scope="module")
def folders(tmp_path_factory, test_seed) -> Folders:
    """Three small models: one, two (float32) and half (float16, the numbers of one)."""
    folders = Folders.under(tmp_path_factory.mktemp("models"))
    root = folders.checkpoint_dirs[0]
    write_tiny_sd15(root / "one.safetensors", test_seed)
    write_tiny_sd15(root / "two.safetensors", test_seed + 1)
    write_tiny_sd15(root / "half.safetensors", test_seed, dtype=torch.float16)
    return folders


@pytest.fixture
def catalogue(folders) -> Catalogue:
    return Catalogue(folders, folders.database)


@pytest.fixture
def residency(catalogue) -> Residency:
    return Residency(catalogue, FACTS)


def answer(model: LoadedModel) -> Tensor:
    """What a model makes of fixed inputs, through all three nets."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 49408, (1, 77), generator=generator)
    x = torch.randn(1, 4, 8, 8, generator=generator)
    with torch.inference_mode():
        text = model.towers[0].net
        states = text.hidden_states(text.embed(ids))
        out = model.unet(x, torch.tensor([500.0]), text.final_layer_norm(states[-1]))
        return torch.cat([out.flatten(), model.vae.decode(out).flatten()])


def copy_of(catalogue: Catalogue, name: str, target: Path) -> CheckpointView:
    view = catalogue.find(name)
    shutil.copy(view.path, target)
    return view.model_copy(update={"name": target.stem, "path": str(target)})


def test_every_parameter_is_the_files(residency, catalogue):
    view = catalogue.find("one")
    file = load_file(view.path)
    with residency.lease(view, POLICY) as model:
        count = 0
        for part, net in (("unet", model.unet), ("vae", model.vae), ("text", model.towers[0].net)):
            assert not net.training
            assert not any(buffer.is_meta for buffer in net.buffers())
            for name, parameter in net.named_parameters():
                assert torch.equal(parameter, file[PREFIXES[part] + name])
                assert not parameter.requires_grad
                count += 1
        assert count == len(file)
        assert (model.family, model.prediction, model.facts.latent.scale) == ("sd1", "eps", 0.18215)
        assert model.extra_keys == 0
        assert model.sha256 == catalogue.hash_of(view)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")
def test_where_file_and_policy_agree_the_parameters_are_the_mapped_file(residency, catalogue):
    view = catalogue.find("one")
    with residency.lease(view, POLICY) as model:
        with open("/proc/self/maps") as maps:
            places = [
                [int(n, 16) for n in line.split()[0].split("-")] for line in maps if line.rstrip().endswith(view.path)
            ]
        nets = nn.ModuleList([model.unet, model.vae, model.towers[0].net])
        assert all(any(a <= p.data_ptr() < b for a, b in places) for p in nets.parameters())


@pytest.mark.parametrize("label", ["SDXL", "SD 2.x (v)"])
def test_a_file_is_read_from_its_beginning_to_its_end(tmp_path, monkeypatch, test_seed, label):
    """Wherever each net lies in it: a disk need not jump about."""
    path = tmp_path / "models/Stable-diffusion/whole.safetensors"
    write_tiny(path, label, test_seed)
    catalogue = Catalogue(Folders.under(tmp_path), tmp_path / "db")
    places: list[tuple[str, int]] = []
    real = ModelFile.tensor

    def tensor(self: ModelFile, key: str) -> Tensor:
        places.append(self.place(key))
        return real(self, key)

    monkeypatch.setattr(ModelFile, "tensor", tensor)
    with Residency(catalogue, FACTS).lease(catalogue.find("whole"), POLICY) as model:
        assert not [p for net in (model.unet, model.vae) for p in net.parameters() if p.is_meta]
    assert len(set(places)) > 100
    assert places == sorted(places)


def test_half_precision_files_are_computed_in_float32_on_the_cpu(residency, catalogue):
    file = load_file(catalogue.find("half").path)
    with residency.lease(catalogue.find("half"), POLICY) as model:
        weight = model.unet.out[2].weight
        assert weight.dtype == torch.float32
        assert torch.equal(weight, file["model.diffusion_model.out.2.weight"].float())
        halved = answer(model)
    with residency.lease(catalogue.find("one"), POLICY) as model:
        full = answer(model)
    assert 0 < (halved - full).abs().max() / full.abs().max() < 1e-2


def test_the_policy_sets_dtypes_and_memory_format(residency, catalogue):
    policy = replace(POLICY, denoiser="bfloat16", channels_last=True, attention="split")
    with residency.lease(catalogue.find("one"), policy) as model:
        weight = model.unet.out[2].weight
        assert weight.dtype == torch.bfloat16
        assert weight.is_contiguous(memory_format=torch.channels_last)
        assert model.vae.decoder.conv_in.weight.dtype == torch.float32
        assert model.towers[0].net.embeddings.token_embedding.weight.dtype == torch.float32


def test_the_same_lease_again_costs_nothing(residency, catalogue):
    view = catalogue.find("one")
    with residency.lease(view, POLICY) as first, residency.lease(view, POLICY) as inner:
        assert inner is first
    with residency.lease(view, POLICY) as again:
        assert again is first
    assert residency.loaded == view


def test_a_switch_frees_the_old_model(residency, catalogue):
    probes = []
    for name in ("one", "two", "half", "one"):
        with residency.lease(catalogue.find(name), POLICY) as model:
            probes.append(weakref.ref(model.unet))
            probes.append(weakref.ref(model.vae))
            probes.append(weakref.ref(model.towers[0].net))
        del model
        assert all(probe() is None for probe in probes[:-3])
        assert all(probe() is not None for probe in probes[-3:])
    residency.close()
    assert all(probe() is None for probe in probes)
    assert residency.loaded is None


def test_the_old_model_is_gone_before_the_new_one_takes_memory(residency, catalogue, monkeypatch):
    with residency.lease(catalogue.find("one"), POLICY) as model:
        probe = weakref.ref(model.unet)
    del model
    real, alive = residency_module.fill, []

    def fill(*args, **kwargs):
        alive.append(probe() is not None)
        real(*args, **kwargs)

    monkeypatch.setattr(residency_module, "fill", fill)
    with residency.lease(catalogue.find("two"), POLICY):
        assert alive == [False, False, False]


def test_close_and_lease_again(residency, catalogue):
    with residency.lease(catalogue.find("one"), POLICY) as model:
        before = answer(model)
    residency.close()
    with residency.lease(catalogue.find("one"), POLICY) as model:
        assert torch.equal(answer(model), before)


def test_malformed_files_leave_the_old_model_drawing_the_same(residency, catalogue, tmp_path, test_seed):
    one = catalogue.find("one")
    with residency.lease(one, POLICY) as model:
        before, probe = answer(model), weakref.ref(model.unet)
    del model
    bad = copy_of(catalogue, "two", tmp_path / "bad.safetensors")
    path = Path(bad.path)
    good = path.read_bytes()
    refused = 0
    for what, content in malformed(good, test_seed):
        path.write_bytes(content)
        start = time.process_time()
        with pytest.raises(BadFile) as caught, residency.lease(bad, POLICY):
            pytest.fail(f"{what} was accepted")
        assert time.process_time() - start < 20, what
        assert caught.value.message.startswith("bad.safetensors"), what
        refused += 1
    assert refused >= 200
    assert residency.loaded == one
    with residency.lease(one, POLICY) as model:
        assert model.unet is probe()
        assert torch.equal(answer(model), before)


def test_hostile_pickles_and_odd_places_leave_the_old_model_drawing_the_same(residency, catalogue, tmp_path, test_seed):
    one = catalogue.find("one")
    with residency.lease(one, POLICY) as model:
        before, probe = answer(model), weakref.ref(model.unet)
    del model
    path, canary = tmp_path / "bad.ckpt", tmp_path / "canary"
    bad = one.model_copy(update={"name": "bad", "path": str(path)})

    def refused(what: str) -> None:
        start = time.process_time()
        with pytest.raises((BadFile, NotFound)) as caught, residency.lease(bad, POLICY):
            pytest.fail(f"{what} was accepted")
        assert time.process_time() - start < 20, what
        assert "bad.ckpt" in caught.value.message, what
        assert not canary.exists(), what

    for what, content in hostile(canary, test_seed):
        path.write_bytes(content)
        refused(what)
    path.unlink()
    refused("nothing")
    path.symlink_to(tmp_path / "nowhere")
    refused("a link to nowhere")
    path.unlink()
    path.mkdir()
    refused("a folder")
    path.rmdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(path)
        refused("a pipe")
    assert residency.loaded == one
    with residency.lease(one, POLICY) as model:
        assert model.unet is probe()
        assert torch.equal(answer(model), before)


def test_missing_tensors_are_counted_and_named(residency, catalogue, tmp_path):
    tensors = load_file(catalogue.find("one").path)
    gone = [key for key in tensors if ".middle_block.0." in key]
    save_file({key: t for key, t in tensors.items() if key not in gone}, tmp_path / "m.safetensors")
    view = catalogue.find("one").model_copy(update={"path": str(tmp_path / "m.safetensors")})
    with pytest.raises(BadFile, match=rf"lacks {len(gone)} of the \d+ tensors of its U-Net \(middle_block\.0\..*, …\)"):
        with residency.lease(view, POLICY):
            pass


def test_a_wrong_shape_is_told_with_both_sizes(residency, catalogue, tmp_path):
    key = "first_stage_model.decoder.mid.attn_1.q.weight"
    save_file(load_file(catalogue.find("one").path) | {key: torch.zeros(32, 16, 1, 1)}, tmp_path / "m.safetensors")
    view = catalogue.find("one").model_copy(update={"path": str(tmp_path / "m.safetensors")})
    with pytest.raises(BadFile, match=r"attn_1\.q\.weight is \[32, 16, 1, 1\].*expects \[32, 32, 1, 1\]"):
        with residency.lease(view, POLICY):
            pass


def test_extra_keys_are_counted_and_scrambled_positions_ignored(residency, catalogue, tmp_path):
    one = catalogue.find("one")
    extra = {
        PREFIXES["text"] + "embeddings.position_ids": torch.rand(1, 77) * 70,
        "model_ema.decay": torch.ones(1),
        "alphas_cumprod": torch.ones(1000),
    }
    save_file(load_file(one.path) | extra, tmp_path / "m.safetensors")
    with residency.lease(one, POLICY) as model:
        before = answer(model)
    with residency.lease(one.model_copy(update={"path": str(tmp_path / "m.safetensors")}), POLICY) as model:
        assert model.extra_keys == 3
        # Not to the bit: the header's length moves the mapped weights, and matrix products depend on alignment.
        torch.testing.assert_close(answer(model), before, rtol=1e-4, atol=1e-5)


def test_text_keys_without_text_model_are_the_same_model(residency, catalogue, tmp_path):
    one = catalogue.find("one")
    tensors = {key.replace(".transformer.text_model.", ".transformer."): t for key, t in load_file(one.path).items()}
    save_file(tensors, tmp_path / "m.safetensors")
    with residency.lease(one, POLICY) as model:
        before = answer(model)
    with residency.lease(one.model_copy(update={"path": str(tmp_path / "m.safetensors")}), POLICY) as model:
        torch.testing.assert_close(answer(model), before, rtol=1e-4, atol=1e-5)


def test_a_replaced_file_and_a_new_side_car_are_noticed(residency, catalogue, tmp_path, test_seed):
    view = copy_of(catalogue, "one", tmp_path / "m.safetensors")
    with residency.lease(view, POLICY) as model:
        before = answer(model)
    save_file(tiny_tensors(test_seed + 5), tmp_path / "new.safetensors")
    os.replace(tmp_path / "new.safetensors", view.path)
    with residency.lease(view, POLICY) as model:
        after = answer(model)
        assert model.unet.config.head_dim == 32
    assert not torch.equal(before, after)
    (tmp_path / "m.yaml").write_text("model: {params: {unet_config: {params: {num_heads: 8}}}}")
    with residency.lease(view, POLICY) as model:
        assert model.unet.config.num_heads == 8
        assert not torch.equal(answer(model), after)


def test_a_file_that_is_gone_is_not_found(residency, catalogue):
    with (
        pytest.raises(NotFound, match="gone"),
        residency.lease(catalogue.find("one").model_copy(update={"path": "/nowhere/m.safetensors"}), POLICY),
    ):
        pass


class FailsHalfWay:
    """`fill` that gives up in the middle of the second net, once."""

    def __init__(self, error: BaseException) -> None:
        self.error, self.calls, self.nets = error, 0, []
        self.real = residency_module.fill

    def __call__(self, net: nn.Module, *args: object, **kwargs: object) -> None:
        self.calls += 1
        self.real(net, *args, **kwargs)  # type: ignore[arg-type]
        if self.calls <= 2:
            self.nets.append(weakref.ref(net))
        if self.calls == 2:
            raise self.error


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (MemoryError(), OutOfMemory),
        (torch.OutOfMemoryError("CUDA out of memory"), OutOfMemory),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), OutOfMemory),
        (BadFile("gone bad"), BadFile),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_a_load_that_fails_half_way_brings_the_old_model_back(residency, catalogue, monkeypatch, error, seen):
    one = catalogue.find("one")
    with residency.lease(one, POLICY) as model:
        before = answer(model)
    del model
    failing = FailsHalfWay(error)
    monkeypatch.setattr(residency_module, "fill", failing)
    with pytest.raises(seen), residency.lease(catalogue.find("two"), POLICY):
        pass
    assert residency.loaded == one
    gc.collect()
    assert [net() for net in failing.nets] == [None, None]
    with residency.lease(one, POLICY) as model:
        assert torch.equal(answer(model), before)


def test_two_threads_take_turns(residency, catalogue):
    order: list[str] = []
    inside = threading.Event()

    def other() -> None:
        inside.wait()
        with residency.lease(catalogue.find("two"), POLICY) as model:
            order.append(model.checkpoint.name)

    thread = threading.Thread(target=other)
    thread.start()
    with residency.lease(catalogue.find("one"), POLICY) as model:
        inside.set()
        time.sleep(0.1)
        order.append(model.checkpoint.name)
    thread.join()
    assert order == ["one", "two"]


@pytest.mark.parametrize("rounds", [5, pytest.param(100, marks=FULL)])
def test_switches_leave_nothing_behind(residency, catalogue, monkeypatch, rounds):
    """In each round three switches and one load that fails half-way: 300 and 100 of them in a full run. All nets but
    the last die, and memory does not grow."""
    views = [catalogue.find(name) for name in ("one", "two", "half")]
    process, probes, sizes = psutil.Process(), [], []
    real = residency_module.fill
    for n in range(rounds):
        for view in views:
            with residency.lease(view, POLICY) as model:
                probes += [weakref.ref(model.unet), weakref.ref(model.vae), weakref.ref(model.towers[0].net)]
            del model
        failing = FailsHalfWay(MemoryError())
        monkeypatch.setattr(residency_module, "fill", failing)
        with pytest.raises(OutOfMemory), residency.lease(views[n % 2], POLICY):
            pass
        monkeypatch.setattr(residency_module, "fill", real)
        probes += failing.nets
        assert residency.loaded == views[2]  # the one before is back
        alive = sum(probe() is not None for probe in probes)
        assert alive == 0, f"{alive} of {len(probes)} nets live on"
        if n >= rounds // 4:
            sizes.append(process.memory_info().rss)
    residency.close()
    # Over few rounds the allocator's own habits are larger than the bar.
    few = max(1, len(sizes) // 5)
    slope = (sum(sizes[-few:]) - sum(sizes[:few])) / few / (len(sizes) - few) / 4
    print(f"{slope / 1024:.1f} KB per switch over {4 * rounds} switches")
    assert slope < (64 if rounds >= 100 else 1024) * 1024, f"{slope:.0f} bytes per switch"


@pytest.mark.parametrize("switches", [10, pytest.param(100, marks=FULL)])
def test_switches_with_networks_give_all_memory_back(residency, catalogue, tmp_path, test_seed, switches):
    """Other models and other LoRAs in turn; when all is unloaded, memory is what it was before."""
    small, loras = Small.of("SD 1.x", test_seed), []
    for number in range(3):
        path = tmp_path / f"{number}.safetensors"
        write_adapter(path, small, lora_for(small, Dice(test_seed + number)))
        loras.append(Network(path, path.stem, 0.8, 0.8))
    views = [catalogue.find(name) for name in ("one", "two", "half")]
    process, probes = psutil.Process(), []

    def switch(number: int) -> int:
        wanted = [loras[(number + k) % 3] for k in range(number % 4)]
        with residency.lease(views[number % 3], POLICY, wanted) as model:
            assert model.networks.outcome.applied == tuple(network.name for network in wanted)
            probes.append(weakref.ref(model.unet))
            return sum(p.nbytes for net in (model.unet, model.vae) for p in net.parameters())

    def rest() -> int:
        residency.close()
        gc.collect()
        give_back()
        assert residency.held() == {"weights": 0, "weights_in_ram": 0}
        return process.memory_info().rss

    size = max(switch(number) for number in range(6))
    before = rest()
    for number in range(switches):
        switch(number)
    grown = rest() - before
    print(f"{grown / 1024:.0f} KB more after {switches} switches; a model has {size / 1024:.0f} KB")
    assert [probe() for probe in probes] == [None] * len(probes)
    assert grown < size / 2
