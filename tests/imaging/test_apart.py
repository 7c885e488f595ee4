"""How far two pictures are apart, held by numpy."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from modules.imaging.apart import apart


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_share_and_largest_difference(mode: str, test_seed: int) -> None:
    rng = np.random.default_rng(test_seed)
    shape = (11, 7) if mode == "L" else (11, 7, len(mode))
    one = rng.integers(0, 256, shape, dtype=np.uint8)
    other = one.copy()
    other[2:5, 3] = rng.integers(0, 256, other[2:5, 3].shape, dtype=np.uint8)
    off = np.abs(one.astype(int) - other).reshape(11 * 7, -1).max(1)
    share, largest = apart(Image.fromarray(one), Image.fromarray(other))
    assert share == pytest.approx((off > 0).mean())
    assert largest == off.max()
    assert apart(Image.fromarray(one), Image.fromarray(one)) == (0.0, 0)
