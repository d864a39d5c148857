"""A robot's bones over its camera's pictures: to see whether a skeleton fits."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw

from hwm.nn.skeleton import NEAR, Bones
from hwm.robot import Embodiment

SIDE = 256
"""Pixels to which the longer side of a picture is enlarged, at least."""
COLOURS = ("#ff3b30", "#34c759", "#0a84ff", "#ffd60a", "#bf5af2", "#64d2ff")
"""Of bones, in turn."""


class DrawnBones:
    """Draws the bones of a robot where its states say that they stand.

    Raises ValueError for a robot without a skeleton.
    """

    def __init__(self, robot: Embodiment) -> None:
        if not robot.skeleton.bones:
            raise ValueError(f"robot {robot.name} has no bones to draw: describe them in [skeleton] of robot.toml")
        self.skeleton = robot.skeleton

    def __call__(self, picture_HWC: np.ndarray, states_A: np.ndarray) -> np.ndarray:
        """A picture, uint8 RGB, enlarged where it is small, with the bones before the camera as lines; states_A: raw."""
        H, W = picture_HWC.shape[:2]
        larger = -(-SIDE // max(H, W))
        shown = Image.fromarray(picture_HWC).resize((W * larger, H * larger), Image.Resampling.BICUBIC)
        points = Bones(self.skeleton, size=(H, W), patch=1).points(torch.from_numpy(np.asarray(states_A)).float()).numpy()
        draw, thick = ImageDraw.Draw(shown), max(2, shown.width // 100)
        for number, (one, other) in enumerate(self.skeleton.bones):
            ends = points[[one, other]]
            if (ends[:, 2] > NEAR).all():
                places = (ends[:, :2] / ends[:, 2:] + 1) / 2 * shown.size
                draw.line([tuple(place) for place in places.tolist()], fill=COLOURS[number % len(COLOURS)], width=thick)
        return np.asarray(shown)
