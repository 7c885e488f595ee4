"""Small decoders draw what their published nets draw, and their absence costs a preview its looks only."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from modules.memory.devices import detect
from modules.memory.policy import choose
from modules.nets.taesd import ApproxDecoder, TaesdDecoder
from modules.pipeline import decode, preview
from modules.schema.errors import BadFile, NotFound
from modules.schema.folders import Folders
from modules.schema.settings import Settings
from modules.weights import decoders
from modules.weights.catalogue import Catalogue
from modules.weights.residency import Residency
from tests.weights.tiny import randomise, write_tiny_sd15

CPU = torch.device("cpu")
FACTS = detect(use_cpu=True)


def test_taesd_equals_diffusers(tmp_path, test_seed):
    generator = torch.Generator().manual_seed(test_seed)
    theirs: Any = randomise(diffusers.AutoencoderTiny(), generator)
    state = {k.removeprefix("decoder."): v for k, v in theirs.state_dict().items() if k.startswith("decoder.")}
    assert len(state) == 67
    save_file(theirs.state_dict(), tmp_path / "hub.safetensors")
    published = {f"{int(k.split('.')[1]) + 1}.{k.split('.', 2)[2]}": v for k, v in state.items()}
    torch.save(published, tmp_path / "taesd_decoder.pth")
    x = torch.randn(1, 4, 8, 8, generator=generator)
    with torch.inference_mode():
        expected = theirs.decode(x).sample.clamp(-1, 1)
        for name in ("hub.safetensors", "taesd_decoder.pth"):
            found = decoders.load(tmp_path / name, "TAESD", 4, CPU)(x)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_approximation_is_eight_convolutions(tmp_path, test_seed):
    generator = torch.Generator().manual_seed(test_seed)
    net = randomise(ApproxDecoder(), generator)
    torch.save(net.state_dict(), tmp_path / "model.pt")
    x = torch.randn(1, 4, 6, 5, generator=generator)
    h = F.pad(x.repeat_interleave(2, 2).repeat_interleave(2, 3), (11, 11, 11, 11))
    with torch.inference_mode():
        for n in range(1, 9):
            h = F.leaky_relu(F.conv2d(h, net.state_dict()[f"conv{n}.weight"], net.state_dict()[f"conv{n}.bias"]), 0.1)
        assert h.shape == (1, 3, 12, 10)
        found = decoders.load(tmp_path / "model.pt", "Approx NN", 4, CPU)(x)
    torch.testing.assert_close(found, h)
    with pytest.raises(BadFile, match="no TAESD decoder for 4-channel"):
        decoders.load(tmp_path / "model.pt", "TAESD", 4, CPU)


def test_they_are_used_where_they_are_and_missed_where_not(tmp_path, test_seed):
    folders = Folders.under(tmp_path)
    write_tiny_sd15(folders.checkpoint_dirs[0] / "a.safetensors", test_seed)
    residency = Residency(Catalogue(folders, folders.database), FACTS)
    latent = torch.randn(4, 8, 9, generator=torch.Generator().manual_seed(1))
    view = Catalogue(folders, folders.database).find("a")
    with residency.lease(view, choose(FACTS, Settings())) as model, torch.inference_mode():
        full = decode.decode(model, latent, (70, 64))
        with pytest.raises(NotFound, match="models/VAE-taesd"):
            decode.decode(model, latent, (70, 64), "TAESD")
        assert preview.quick(model, latent, (70, 64), "TAESD").size == (70, 64)
        (folders.models / "VAE-taesd").mkdir()
        (folders.models / "VAE-approx").mkdir()
        net = randomise(TaesdDecoder(), torch.Generator().manual_seed(test_seed))
        torch.save(net.state_dict(), folders.models / "VAE-taesd/taesd_decoder.pth")
        torch.save(randomise(ApproxDecoder(), torch.Generator()).state_dict(), folders.models / "VAE-approx/model.pt")
        small = decode.decode(model, latent, (70, 64), "TAESD")
        assert small.size == full.size == (70, 64)
        assert small.tobytes() != full.tobytes()
        assert small.tobytes() == decode.to_image(net(latent[None])[0], (70, 64)).tobytes()
        assert preview.quick(model, latent, (70, 64), "TAESD").tobytes() == small.tobytes()
        assert preview.quick(model, latent, (70, 64), "Approx NN").size == (70, 64)


def test_a_checkpoint_s_own_decoder_comes_first_and_may_be_narrow(tmp_path, test_seed):
    folders = Folders.under(tmp_path)
    for name in ("postcard", "other"):
        write_tiny_sd15(folders.checkpoint_dirs[0] / f"{name}.safetensors", test_seed)
    (folders.models / "VAE-taesd").mkdir()
    generator = torch.Generator().manual_seed(test_seed)
    own, general = randomise(TaesdDecoder(width=16), generator), randomise(TaesdDecoder(), generator)
    save_file(own.state_dict(), folders.models / "VAE-taesd/postcard_decoder.safetensors")
    torch.save(general.state_dict(), folders.models / "VAE-taesd/taesd_decoder.pth")
    residency = Residency(Catalogue(folders, folders.database), FACTS)
    latent = torch.randn(4, 8, 8, generator=generator)
    shown = {}
    for name in ("postcard", "other"):
        view = Catalogue(folders, folders.database).find(name)
        with residency.lease(view, choose(FACTS, Settings())) as model, torch.inference_mode():
            shown[name] = preview.quick(model, latent, (64, 64), "TAESD").tobytes()
    with torch.inference_mode():
        for name, net in (("postcard", own), ("other", general)):
            assert shown[name] == decode.to_image(net(latent[None])[0], (64, 64)).tobytes(), name
    assert decoders.find(folders, "TAESD", False, "post") == folders.models / "VAE-taesd/taesd_decoder.pth"
    assert decoders.find(folders, "TAESD", True, "other") is None
