"""Noise: streams of single pictures, variations, seed resize, Brownian paths."""

from __future__ import annotations

import math

import pytest
import torch

from modules.sampling.noise import (
    BatchNoise,
    BrownianPath,
    Philox,
    PictureNoise,
    make_generator,
    picture_noises,
    slerp,
)
from modules.schema.errors import BadRequest

SHAPE = (4, 6, 5)


def batch(*pictures: PictureNoise, source: str = "NV", **rest: object) -> BatchNoise:
    return BatchNoise(list(pictures), SHAPE, source=source, **rest)  # type: ignore[arg-type]


@pytest.mark.parametrize("source", ["CPU", "GPU", "NV"])
@pytest.mark.parametrize("brownian", [None, (0.03, 14.6)])
def test_pictures_of_a_batch_have_the_noise_of_their_seeds(source: str, brownian, test_seed: int) -> None:
    pictures = picture_noises([test_seed, 5, 2**32 - 1], [7, 8], 0.3, (64, 32), 31337)
    together = batch(*pictures, source=source, brownian=brownian)
    for k, picture in enumerate(pictures):
        alone = batch(picture, source=source, brownian=brownian)
        assert torch.equal(alone.initial[0], together.initial[k])
    draws = [together.draw(), together.between(9.0, 3.0), together.between(3.0, 0.5), together.draw()]
    for k, picture in enumerate(pictures):
        alone = batch(picture, source=source, brownian=brownian)
        for drawn in draws:
            got = alone.draw() if drawn is draws[0] or drawn is draws[3] else None
            if got is None:
                got = alone.between(9.0, 3.0) if drawn is draws[1] else alone.between(3.0, 0.5)
            assert torch.equal(got[0], drawn[k])


def test_only_chosen_pictures_can_draw() -> None:
    both, second = batch(PictureNoise(1), PictureNoise(2)), batch(PictureNoise(2))
    assert torch.equal(both.draw([1]), second.draw())
    assert torch.equal(both.draw([1]), second.draw())
    assert torch.equal(both.draw()[:1], batch(PictureNoise(1)).draw())
    assert len(both) == 2


def test_noise_is_normal(test_seed: int) -> None:
    values = Philox(test_seed).randn((4, 128, 128))
    assert abs(float(values.mean())) < 0.02
    assert abs(float(values.std()) - 1) < 0.02
    assert abs(float((values**4).mean()) - 3) < 0.2


def test_streams_are_named() -> None:
    with pytest.raises(BadRequest, match="GPU, CPU, NV"):
        make_generator("TPU", 1)


@pytest.mark.parametrize("seed", [-1, 2**64 + 5])
def test_any_whole_number_is_a_seed(seed: int) -> None:
    for source in ("NV", "CPU"):
        got = make_generator(source, seed).randn((3,))
        assert torch.equal(got, make_generator(source, seed % 2**64).randn((3,)))


def test_a_variation_moves_from_one_noise_to_the_other() -> None:
    first = batch(PictureNoise(1)).initial
    other = batch(PictureNoise(2)).initial
    for strength, expected in ((0.0, first), (1.0, other)):
        got = batch(PictureNoise(1, 2, strength)).initial
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    half = batch(PictureNoise(1, 2, 0.5)).initial
    assert 0.8 < float(half.std()) < 1.2
    # Later noise is that of the main seed.
    varied = batch(PictureNoise(1, 2, 0.5))
    assert torch.equal(varied.draw(), batch(PictureNoise(1)).draw())


def test_equal_noises_are_mixed_straight() -> None:
    low = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(slerp(0.3, low, low), low)
    high = low * 2  # the same direction
    torch.testing.assert_close(slerp(0.25, low, high), low * 0.25 + high * 0.75)


def test_a_resized_seed_keeps_its_middle() -> None:
    big = (4, 12, 10)
    small = BatchNoise([PictureNoise(3)], SHAPE, source="NV").initial[0]
    got = BatchNoise([PictureNoise(3, seed_resize_from=(48, 40))], big, source="NV").initial[0]
    assert torch.equal(got[:, 3:9, 2:7], small)
    border = got.clone()
    border[:, 3:9, 2:7] = 0
    plain = BatchNoise([PictureNoise(3)], big, source="NV").initial[0].clone()
    plain[:, 3:9, 2:7] = 0
    assert torch.equal(border, plain)
    back = BatchNoise([PictureNoise(3, seed_resize_from=(96, 72))], SHAPE, source="NV").initial[0]
    large = BatchNoise([PictureNoise(3)], (4, 12, 9), source="NV").initial[0]
    assert torch.equal(back, large[:, 3:9, 2:7])


def test_a_seed_resized_from_its_own_size_is_itself() -> None:
    same = batch(PictureNoise(3, seed_resize_from=(48, 40)))
    plain = batch(PictureNoise(3))
    assert torch.equal(same.initial, plain.initial)
    assert torch.equal(same.draw(), plain.draw())


def test_the_seed_delta_changes_all_but_the_first_noise() -> None:
    plain, moved, other = batch(PictureNoise(5)), batch(PictureNoise(5, ensd=100)), batch(PictureNoise(105))
    assert torch.equal(plain.initial, moved.initial)
    assert torch.equal(moved.draw(), other.initial)


# Brownian paths


def path(entropy: int = 7, low: float = 0.03, high: float = 14.6, shape: tuple[int, ...] = (2, 3)) -> BrownianPath:
    return BrownianPath(low, high, entropy, shape, lambda seed, shape: Philox(seed).randn(shape))


def test_increments_add_up() -> None:
    one = path()
    whole = one.increment(0.03, 14.6)
    parts = one.increment(0.03, 0.5) + one.increment(0.5, 6.123456) + one.increment(6.123456, 14.6)
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)


def test_the_path_does_not_depend_on_the_questions(test_seed: int) -> None:
    order = [(0.5, 1.0), (9.0, 14.6), (0.03, 0.031), (1.0, 9.0), (0.031, 0.5)] * 4
    one = path(test_seed)
    answers = {question: one.increment(*question) for question in order}
    for question in reversed(order):
        assert torch.equal(path(test_seed).increment(*question), answers[question])
        assert torch.equal(one.increment(*question), answers[question])


def test_questions_outside_are_clipped() -> None:
    one = path()
    assert torch.equal(one.increment(0.0, 20.0), one.increment(0.03, 14.6))
    assert torch.equal(one.increment(15.0, 20.0), torch.zeros(2, 3))


def test_increments_have_the_variance_of_their_length(test_seed: int) -> None:
    one = path(test_seed, shape=(64, 64))
    pieces = []
    for start, end in ((0.03, 0.05), (0.05, 1.0), (1.0, 8.0), (8.0, 14.6)):
        pieces.append(one.increment(start, end) / math.sqrt(end - start))
        assert abs(float(pieces[-1].std()) - 1) < 0.06
    correlation = torch.corrcoef(torch.stack([piece.flatten() for piece in pieces]))
    assert float((correlation - torch.eye(4)).abs().max()) < 0.08


def test_step_noise_down_is_minus_the_one_up() -> None:
    noise = batch(PictureNoise(5), brownian=(0.03, 14.6))
    assert torch.equal(noise.between(5.0, 2.0), -noise.between(2.0, 5.0))


def test_a_shared_path_is_one_for_the_whole_batch(test_seed: int) -> None:
    pictures = picture_noises([test_seed, test_seed + 1])
    ends = (0.03, 14.6)
    shared = BatchNoise(pictures, (4, 6, 5), source="NV", brownian=ends, shared_path=True)
    again = BatchNoise(pictures, (4, 6, 5), source="NV", brownian=ends, shared_path=True)
    own = BatchNoise(pictures, (4, 6, 5), source="NV", brownian=ends)
    alone = BatchNoise(pictures[:1], (4, 6, 5), source="NV", brownian=ends, shared_path=True)
    step = shared.between(14.6, 7.0)
    assert torch.equal(step, again.between(14.6, 7.0))
    assert not torch.equal(step[1], own.between(14.6, 7.0)[1])
    assert not torch.equal(step[0], step[1])
    # One picture alone has its own path either way.
    assert torch.equal(alone.between(14.6, 7.0)[0], own.between(14.6, 7.0)[0])
