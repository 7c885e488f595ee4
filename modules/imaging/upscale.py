"""The upscalers that need no model, by A1111's names. "None" leaves all to the resizing that follows."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection

from PIL import Image

from modules.imaging.resize import Upscale
from modules.schema.errors import NotFound

Find = Callable[["str | None"], "Upscale | None"]
"""The upscaler of a name: `find_upscaler`, or what knows those with a model as well."""

_FILTERS = {"Lanczos": Image.Resampling.LANCZOS, "Nearest": Image.Resampling.NEAREST}
UPSCALERS = ("None", *_FILTERS)
# What A1111 calls the files that are best known; infotexts hold these names.
KNOWN_AS = {
    "R-ESRGAN 4x+": "RealESRGAN_x4plus",
    "R-ESRGAN 4x+ Anime6B": "RealESRGAN_x4plus_anime_6B",
    "R-ESRGAN 2x+": "RealESRGAN_x2plus",
    "R-ESRGAN General 4xV3": "realesr-general-x4v3",
    "R-ESRGAN General WDN 4xV3": "realesr-general-wdn-x4v3",
    "R-ESRGAN AnimeVideo": "realesr-animevideov3",
}


def find_upscaler(name: str | None) -> Upscale | None:
    """The upscaler of that name; None for "None" and for no name. NotFound names the nearest."""
    if not name or name == "None":
        return None
    if name not in _FILTERS:
        raise unknown(name, UPSCALERS)
    resampling = _FILTERS[name]

    def upscale(image: Image.Image, factor: float) -> Image.Image:
        larger = image.resize((int(image.width * factor), int(image.height * factor)), resampling)
        # As the original: what comes out of an upscaler has sides that are multiples of 8.
        even = (int(image.width * factor // 8 * 8), int(image.height * factor // 8 * 8))
        return larger if larger.size == even else larger.resize(even, Image.Resampling.LANCZOS)

    return upscale


def unknown(name: str, known: Collection[str]) -> NotFound:
    """What to say of a name that is none of the upscalers'."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.0)
    return NotFound(f"No upscaler is called {name!r}; nearest: {', '.join(near)}. Choose one of the list.")
