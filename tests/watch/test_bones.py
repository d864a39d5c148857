"""Bones over pictures: they are drawn where they stand, and only where there are some."""

import numpy as np
import pytest

from hwm.robot import EVE, Embodiment, Skeleton
from hwm.watch.bones import COLOURS, DrawnBones

ARM = Skeleton(
    parents=(-1, -1, 1), places=((0.0, 0.0, 0.0), (2.0, 0.0, 0.0), (0.0, 0.0, 1.0)), axes=((0.0, 1.0, 0.0),) * 3,
    states=(1, 0, -1), rests=(0.0, 0.0, 0.0), bones=((1, 2),), camera=0, fovy=90.0,
)  # fmt: skip
"""A bone of a metre that stands upright two metres before a camera; state 0 tips it forward, state 1 the camera."""
ROBOT = Embodiment(
    name="arm", names=("tip", "camera"), units=("rad", "rad"), raw=(), mean=(0.0, 0.0), std=(1.0, 1.0), skeleton=ARM
)
RED = tuple(int(COLOURS[0][i : i + 2], 16) for i in (1, 3, 5))


def red(picture):
    """Where a picture is as red as the bone: least and most row, least and most column."""
    rows, columns = np.nonzero((np.asarray(picture) == RED).all(-1))
    return rows.min(), rows.max(), columns.min(), columns.max()


def test_a_bone_is_drawn_from_the_middle_up_to_half_of_the_upper_half():
    drawn = DrawnBones(ROBOT)(np.zeros((64, 128, 3), np.uint8), np.zeros(2))
    assert drawn.shape == (128, 256, 3)
    top, bottom, left, right = red(drawn)
    assert abs(top - 32) <= 2 and abs(bottom - 64) <= 2 and right - left <= 3 and abs(left + right - 256) <= 4
    away = DrawnBones(ROBOT)(np.zeros((64, 64, 3), np.uint8), np.array([0.0, np.pi]))
    assert away.max() == 0, "what is behind the camera is not drawn"
    with pytest.raises(ValueError, match="has no bones to draw"):
        DrawnBones(EVE)
