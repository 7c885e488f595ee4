"""A face cut out upright, and put back where it was.

Five points (eyes, nose, corners of the mouth) are brought to where the restorers' training pictures have them (FFHQ,
Karras et al., arXiv:1812.04948), by the similarity that fits best (Umeyama 1991, doi:10.1109/34.88573).
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

SIDE = 512
TEMPLATE = np.array([[192.98, 239.95], [318.90, 240.19], [256.63, 314.02], [201.26, 371.41], [313.09, 371.15]])
BEYOND = (132, 133, 135)  # what a face sees past the picture's edge, as in the restorers' training
INSET, FEATHER = 40, 12  # pixels of the cut-out face that fade into the picture


def similarity(points: np.ndarray, target: np.ndarray = TEMPLATE) -> np.ndarray:
    """[2, 3]: the turning, scaling and moving that brings points [n, 2] nearest to the target; no mirroring."""
    middle, goal = points.mean(0), target.mean(0)
    a, b = points - middle, target - goal
    # As complex numbers a similarity is one factor, and the best one is a quotient.
    za, zb = a[:, 0] + 1j * a[:, 1], b[:, 0] + 1j * b[:, 1]
    factor = (za.conj() @ zb) / max(float((za.conj() @ za).real), 1e-12)
    turn = np.array([[factor.real, -factor.imag], [factor.imag, factor.real]])
    return np.column_stack([turn, goal - turn @ middle])


def _backwards(matrix: np.ndarray) -> np.ndarray:
    turn = np.linalg.inv(matrix[:, :2])
    return np.column_stack([turn, -turn @ matrix[:, 2]])


def cut_out(image: Image.Image, matrix: np.ndarray) -> Image.Image:
    """The face of an RGB picture, SIDE pixels square, upright."""
    return image.transform(
        (SIDE, SIDE), Image.Transform.AFFINE, tuple(_backwards(matrix).ravel()), Image.Resampling.BICUBIC,
        fillcolor=BEYOND,
    )  # fmt: skip


def put_back(image: Image.Image, face: Image.Image, matrix: np.ndarray) -> Image.Image:
    """The picture with a cut-out face of SIDE pixels where it belongs, its edge faded."""
    corners = np.array([[0, 0, 1], [SIDE, 0, 1], [0, SIDE, 1], [SIDE, SIDE, 1]]) @ _backwards(matrix).T
    left, top = (max(0, int(v)) for v in np.floor(corners.min(0)))
    right = min(image.width, int(np.ceil(corners[:, 0].max())))
    bottom = min(image.height, int(np.ceil(corners[:, 1].max())))
    if right <= left or bottom <= top:
        return image
    moved = matrix.copy()
    moved[:, 2] += matrix[:, :2] @ (left, top)
    size, data = (right - left, bottom - top), tuple(moved.ravel())
    mask = Image.new("L", (SIDE, SIDE))
    mask.paste(255, (INSET, INSET, SIDE - INSET, SIDE - INSET))
    mask = mask.filter(ImageFilter.GaussianBlur(FEATHER))
    result = image.copy()
    result.paste(
        face.transform(size, Image.Transform.AFFINE, data, Image.Resampling.BICUBIC), (left, top),
        mask.transform(size, Image.Transform.AFFINE, data, Image.Resampling.BILINEAR),
    )  # fmt: skip
    return result
