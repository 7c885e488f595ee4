"""Too little memory, overflowing numbers: the job goes on, and the picture says how."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from modules.memory.budget import History
from modules.nets.autoencoder import Autoencoder, decode_tiled
from modules.pipeline.run import Engine
from modules.prompt import infotext
from modules.schema.errors import NotANumber, OutOfMemory
from modules.schema.events import Event, ImageReady, Preview, Progress, Warned
from modules.schema.folders import Folders
from modules.schema.request import Hires
from modules.schema.settings import SAVINGS, Settings
from tests.memory.live import Live
from tests.memory.test_streaming import CountingLink
from tests.pipeline.conftest import Hand, Studio
from tests.weights.tiny import PREFIXES, VAE, randomise, write_tiny_sd15

Pixels = Callable[[Studio, ImageReady], bytes]


class Short:
    """Memory that runs out at chosen moments: the n-th events of a kind."""

    def __init__(self, kind: type, *moments: int) -> None:
        self.kind, self.moments, self.count = kind, moments, 0

    def __call__(self, event: Event) -> bool:
        self.count += isinstance(event, self.kind)
        if isinstance(event, self.kind) and self.count in self.moments:
            raise torch.OutOfMemoryError("there is no more")
        return False


def test_a_job_that_runs_out_of_memory_goes_on_where_it_was(studio: Studio, pixels: Pixels) -> None:
    whole = [pixels(studio, picture) for picture in studio.draw(n_iter=3, seed=9)]
    pictures = studio.draw(Hand(cancel_at=Short(ImageReady, 2)), n_iter=3, seed=9)
    # The second was announced, and saved, when memory ran out; it is not drawn again.
    assert [picture.record.index for picture in pictures] == [0, 1, 2]
    assert [pixels(studio, picture) for picture in pictures] == whole
    told = [infotext.read(picture.record.infotext).fields.get("Memory saving") for picture in pictures]
    assert told == [None, None, "VAE in tiles"]
    assert any(isinstance(e, Warned) and "going on with: VAE in tiles" in e.message for e in studio.events)


def test_each_time_more_is_saved_until_nothing_is_left(studio: Studio) -> None:
    (picture,) = studio.draw(Hand(cancel_at=Short(Progress, 3, 8)), steps=2)
    assert infotext.read(picture.record.infotext).fields["Memory saving"] == "one prompt at a time"
    with pytest.raises(OutOfMemory, match="draw smaller or fewer"):
        studio.draw(Hand(cancel_at=Short(Progress, *range(100))))
    studio.draw()  # and the next job is drawn


def test_a_random_seed_stays_the_same_when_a_job_goes_on(studio: Studio) -> None:
    pictures = studio.draw(Hand(cancel_at=Short(ImageReady, 1)), n_iter=3, seed=-1)
    first = pictures[0].record.seed
    assert [picture.record.seed for picture in pictures] == [first, first + 1, first + 2]


def test_one_prompt_at_a_time_draws_the_same_picture_closely(studio: Studio, pixels: Pixels) -> None:
    def array(**options: object) -> torch.Tensor:
        (picture,) = studio.draw(settings=Settings().with_options(options), seed=4)
        return torch.frombuffer(bytearray(pixels(studio, picture)), dtype=torch.uint8).int()

    assert (array() - array(batch_cond_uncond=False)).abs().max() <= 1


@pytest.mark.parametrize("size", [(8, 8), (16, 40), (37, 21)])
def test_tiles_are_seamless(test_seed: int, size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(test_seed)
    vae: Any = randomise(Autoencoder(VAE), generator)
    z = torch.randn(1, 4, *size, generator=generator)
    with torch.inference_mode():
        whole = vae.decode(z)
        tiled = decode_tiled(vae, z, tile=16, overlap=8)
        assert tiled.shape == whole.shape
        if max(size) <= 16:
            assert torch.equal(tiled, whole)
        error = (tiled - whole).abs()
        assert error.mean() < 0.3 * whole.std()  # 0.04 at the size of real tiles; attention sees one tile only
        edges = (tiled - whole).diff(dim=3).abs().amax()
        assert edges < 0.8 * whole.diff(dim=3).abs().amax()  # no edge that stands out


@pytest.fixture
def overflowing(tmp_path, test_seed) -> Studio:
    """A model whose decoder goes beyond float16 and comes back."""
    folders = Folders.under(tmp_path)
    path = write_tiny_sd15(folders.checkpoint_dirs[0] / "hot.safetensors", test_seed)
    tensors = load_file(path)
    tensors[PREFIXES["vae"] + "decoder.conv_in.weight"] *= 1e4
    save_file(tensors, path)
    return Studio(Engine(folders), folders)


def test_an_overflowing_picture_is_decoded_again_in_float32(overflowing: Studio, pixels: Pixels) -> None:
    half = Settings().with_options({"vae_precision": "float16"})
    (again,) = overflowing.draw(settings=half)
    (wide,) = overflowing.draw()
    one, other = (torch.frombuffer(bytearray(pixels(overflowing, p)), dtype=torch.uint8).int() for p in (again, wide))
    assert (one - other).abs().max() <= 3  # the weights were rounded to float16 before
    with pytest.raises(NotANumber, match="Precision of the VAE"):
        overflowing.draw(settings=half.with_options({"auto_vae_precision": False}))
    overflowing.draw(settings=half.with_options({"auto_vae_precision": False, "disable_nan_check": True}))


# ------------------------------------------------------------------------------------- a device of a certain size


LARGE: dict[str, Any] = {"width": 1024, "height": 64, "steps": 2, "seed": 3}
"""More than one tile of the VAE, which of a small model takes most."""


def saving(rung: str) -> Settings:
    """Without previews, which decode small models' pictures whole."""
    return Settings().with_options({"memory_saving": rung, "live_previews_enable": False})


def test_a_full_device_is_met_by_a_rung_that_fits(studio: Studio, pixels: Pixels) -> None:
    """Counted over real tensors: a device that holds too little for the whole decoder draws the picture in tiles."""
    peaks, drawn = [], []
    for rung in SAVINGS[:2]:
        studio.draw(settings=saving(rung), seed=2)  # loaded, and in the cache what is kept there
        with Live() as live:
            (picture,) = studio.draw(settings=saving(rung), **LARGE)
        peaks.append(live.peak)
        drawn.append(pixels(studio, picture))
    assert peaks[0] > 1.2 * peaks[1]
    with Live(limit=sum(peaks) // 2) as live:
        (picture,) = studio.draw(settings=saving("nothing"), **LARGE)
    assert live.full == 1
    assert infotext.read(picture.record.infotext).fields["Memory saving"] == "VAE in tiles"
    assert pixels(studio, picture) == drawn[1]
    # The next one has room again, and is what it would have been.
    (after,) = studio.draw(settings=saving("nothing"), **LARGE)
    assert "Memory saving" not in infotext.read(after.record.infotext).fields
    assert pixels(studio, after) == drawn[0]


def test_previews_are_decoded_in_tiles_where_pictures_are(studio: Studio) -> None:
    peaks = []
    for shown in (False, True):
        options = {"memory_saving": SAVINGS[1], "live_previews_enable": shown, "live_preview_refresh_period": 0}
        settings = Settings().with_options(options)
        studio.draw(settings=settings, seed=2)
        with Live() as live:
            studio.draw(settings=settings, **LARGE)
        peaks.append(live.peak)
    shown = [event for event in studio.events if isinstance(event, Preview)]
    assert len(shown) == LARGE["steps"]
    assert peaks[1] < 1.05 * peaks[0]


def test_previews_of_a_second_pass_show_the_whole_picture(studio: Studio) -> None:
    settings = Settings().with_options({"live_preview_refresh_period": 0})
    studio.draw(settings=settings, steps=1, hires=Hires(hr_scale=2, hr_upscaler="Latent"))
    sizes = [Image.open(io.BytesIO(e.data)).size for e in studio.events if isinstance(e, Preview)]
    assert sizes == [(64, 64), (128, 128)]


def test_a_card_walks_down_all_rungs_and_the_next_job_begins_at_the_top(
    studio: Studio, card: list[CountingLink], pixels: Pixels
) -> None:
    def numbers(picture: ImageReady) -> torch.Tensor:
        return torch.frombuffer(bytearray(pixels(studio, picture)), dtype=torch.uint8).int()

    (first,) = studio.draw(seed=8)
    assert not card
    told = []
    for failures in range(1, len(SAVINGS)):
        moments = [3 * n for n in range(1, failures + 1)]  # in each attempt's steps
        (picture,) = studio.draw(Hand(cancel_at=Short(Progress, *moments)), seed=8)
        told.append(infotext.read(picture.record.infotext).fields["Memory saving"])
        assert (numbers(picture) - numbers(first)).abs().max() <= 2
        assert sum(isinstance(e, Warned) and "going on with" in e.message for e in studio.events) == failures
    assert told == list(SAVINGS[1:])
    assert card[-1].copied > 0
    (again,) = studio.draw(seed=8)
    assert "Memory saving" not in infotext.read(again.record.infotext).fields
    assert pixels(studio, again) == pixels(studio, first)


def test_a_job_teaches_the_next_prediction(studio: Studio) -> None:
    studio.draw(width=256, height=256)
    kind, need = studio.engine.gauge.expected or ("", None)
    measured = studio.engine.gauge.measured()
    assert need is not None
    if not measured:
        pytest.skip("this system tells of no peaks")
    history = History.read(studio.folders.memory_history)
    assert history.knows(kind)
    assert history.corrected(kind, need).denoising > 0
    (model,) = studio.engine.residency._kept.values()
    nets = (model.unet, model.vae, *(tower.net for tower in model.towers))
    assert studio.engine.residency.held()["weights"] == sum(p.nbytes for net in nets for p in net.parameters())


def test_unloading_leaves_nothing_held(studio: Studio) -> None:
    studio.draw()
    studio.engine.unload()
    assert studio.engine.stats()["held"] == {"weights": 0, "weights_in_ram": 0, "cache": 0}
    assert studio.engine.stats()["checkpoint"] is None
    studio.draw()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_card_that_may_use_little_of_itself_finishes_the_job(studio: Studio) -> None:
    studio.draw(settings=saving("nothing"), **LARGE)
    torch.cuda.empty_cache()
    held = torch.cuda.memory_reserved()
    torch.cuda.reset_peak_memory_stats()
    studio.draw(settings=saving("nothing"), **LARGE)
    taken = torch.cuda.max_memory_reserved() - held
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + taken // 2) / total)
    try:
        (picture,) = studio.draw(settings=saving("nothing"), **LARGE)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert infotext.read(picture.record.infotext).fields["Memory saving"] in SAVINGS
