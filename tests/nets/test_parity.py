"""Our nets against diffusers' and transformers' with the same random weights, float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from modules.nets.attention import sdp, split
from modules.nets.autoencoder import Autoencoder, AutoencoderConfig
from modules.nets.clip import ClipConfig, TextEncoder
from modules.nets.unet import UNet, UNetConfig
from tests.nets.diffusers_keys import translated, unet_key, vae_arguments, vae_key
from tests.weights.tiny import randomise

UNET = UNetConfig(
    model_channels=32, channel_mult=(1, 2, 4, 4), context_dim=48, num_heads=8
)  # SD 1's own depths, a tenth of its width
VAE = AutoencoderConfig(ch=32, ch_mult=(1, 2, 4, 4))
TEXT = ClipConfig(width=64, layers=3, heads=4, mlp=128)


def relative(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@pytest.fixture(scope="module")
def generator(test_seed) -> torch.Generator:
    return torch.Generator().manual_seed(test_seed)


@pytest.mark.parametrize("attention", [sdp, split])
@pytest.mark.parametrize("size", [(16, 16), (8, 24)])  # at odd sizes diffusers resizes earlier than the original
def test_unet_equals_diffusers(generator, attention, size):
    from diffusers import UNet2DConditionModel

    ours: Any = randomise(UNet(UNET, attention=attention), generator)
    theirs: Any = UNet2DConditionModel(
        in_channels=4, out_channels=4, block_out_channels=(32, 64, 128, 128), layers_per_block=2,  # type: ignore[arg-type]
        cross_attention_dim=48, attention_head_dim=8,
    ).eval()  # fmt: skip
    state = ours.state_dict()
    theirs.load_state_dict(translated(theirs.state_dict(), lambda k: unet_key(k, 2, (1, 2, 3)), state.__getitem__))
    x = torch.randn(2, 4, *size, generator=generator)
    context = torch.randn(2, 77, 48, generator=generator)
    t = torch.tensor([3.0, 801.0])
    with torch.inference_mode():
        answer = ours(x, t, context)
        assert answer.std() > 0.05
        assert relative(answer, theirs(x, t, context).sample) < 1e-4


def test_autoencoder_equals_diffusers(generator):
    from diffusers import AutoencoderKL

    ours: Any = randomise(Autoencoder(VAE), generator)
    theirs: Any = AutoencoderKL(**vae_arguments((32, 64, 128, 128))).eval()
    state = ours.state_dict()
    theirs.load_state_dict(translated(theirs.state_dict(), lambda k: vae_key(k, 4), state.__getitem__))
    picture = torch.rand(2, 3, 64, 96, generator=generator) * 2 - 1
    latents = torch.randn(2, 4, 9, 13, generator=generator)
    with torch.inference_mode():
        mean, logvar = ours.encode_moments(picture)
        posterior = theirs.encode(picture).latent_dist
        assert mean.shape == (2, 4, 8, 12)
        assert relative(mean, posterior.mean) < 1e-4
        assert relative(logvar, posterior.logvar) < 1e-4
        assert relative(ours.decode(latents), theirs.decode(latents).sample) < 1e-4


def test_text_encoder_equals_transformers(generator):
    from transformers import CLIPTextConfig, CLIPTextModel

    ours: Any = randomise(TextEncoder(TEXT), generator)
    theirs: Any = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408, hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4,
            eos_token_id=49407,
        )
    ).eval()  # fmt: skip
    state = ours.state_dict()
    theirs.load_state_dict({k: state[k.removeprefix("text_model.")] for k in theirs.state_dict()})
    ids = torch.randint(0, 49406, (2, 77), generator=generator)
    with torch.inference_mode():
        states = ours.hidden_states(ours.embed(ids))
        answer = theirs(ids, output_hidden_states=True)
        assert len(states) == len(answer.hidden_states) == 4
        for mine, other in zip(states, answer.hidden_states):
            assert relative(mine, other) < 1e-5
        assert relative(ours.final_layer_norm(states[-1]), answer.last_hidden_state) < 1e-5


@pytest.mark.parametrize("size", [(2, 3), (5, 7), (8, 9), (17, 31)])
def test_every_latent_size_keeps_its_size(generator, size):
    net = randomise(UNet(UNET), generator)
    with torch.inference_mode():
        out = net(torch.randn(1, 4, *size, generator=generator), torch.tensor([500.0]), torch.zeros(1, 77, 48))
    assert out.shape == (1, 4, *size)
    assert out.isfinite().all()


def test_a_picture_alone_equals_itself_in_a_batch_closely(generator):
    net = randomise(UNet(UNET), generator)
    x, context = torch.randn(3, 4, 8, 8, generator=generator), torch.randn(3, 77, 48, generator=generator)
    t = torch.tensor([10.0, 400.0, 900.0])
    with torch.inference_mode():
        together = net(x, t, context)
        alone = torch.cat([net(x[i : i + 1], t[i : i + 1], context[i : i + 1]) for i in range(3)])
    assert relative(together, alone) < 1e-5


def test_context_of_another_length_is_heard(generator):
    net = randomise(UNet(UNET), generator)
    x, context = torch.randn(1, 4, 8, 8, generator=generator), torch.randn(1, 154, 48, generator=generator)
    t = torch.tensor([500.0])
    with torch.inference_mode():
        assert relative(net(x, t, context), net(x, t, context[:, :77])) > 1e-4
