"""How large hires fix's second pass is; asked by who plans a job and by who predicts its memory."""

from __future__ import annotations

from dataclasses import dataclass

from modules.schema.request import Hires

GRID = 8  # pixels to a latent cell, which sizes are reckoned in


@dataclass(frozen=True)
class Target:
    """`scaled` is the whole picture enlarged, (width, height) in pixels; `surplus` the latent columns and rows that are
    then cut off, the smaller half of them at the left and top."""

    scaled: tuple[int, int]
    surplus: tuple[int, int] = (0, 0)

    @property
    def latent(self) -> tuple[int, int]:
        """(width, height) of what the second pass draws, in latent cells."""
        return self.scaled[0] // GRID - self.surplus[0], self.scaled[1] // GRID - self.surplus[1]

    @property
    def size(self) -> tuple[int, int]:
        return self.latent[0] * GRID, self.latent[1] * GRID


def target(width: int, height: int, hires: Hires) -> Target:
    """Where a first pass of that size goes: by a factor, to one side, or to cover both with the surplus cut off."""
    x, y = hires.hr_resize_x, hires.hr_resize_y
    if not x and not y:
        return Target((int(width * hires.hr_scale), int(height * hires.hr_scale)))
    if not y:
        return Target((x, x * height // width))
    if not x:
        return Target((y * width // height, y))
    if width / height < x / y:
        scaled = x, x * height // width
    else:
        scaled = y * width // height, y
    return Target(scaled, ((scaled[0] - x) // GRID, (scaled[1] - y) // GRID))
