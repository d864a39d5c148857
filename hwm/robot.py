"""The robot's state vector: names, units, limits, published statistics; other embodiments by a TOML file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hwm.safe_load.text import read_toml


@dataclass(frozen=True)
class Embodiment:
    """What one row of robot state means.

    names, units: one entry per dimension.  raw: indices used as they are (hand closures), never normalised.
    mean, std: statistics of a large data set, used where a data set is too small to give its own.
    """

    name: str
    names: tuple[str, ...]
    units: tuple[str, ...]
    raw: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        sizes = {len(self.names), len(self.units), len(self.mean), len(self.std)}
        if len(sizes) != 1:
            raise ValueError(f"embodiment {self.name}: names, units, mean and std differ in length: {sorted(sizes)}")
        if any(not 0 <= i < len(self.names) for i in self.raw):
            raise ValueError(f"embodiment {self.name}: raw indices outside 0..{len(self.names) - 1}")

    @property
    def dim(self) -> int:
        return len(self.names)


_SIDE = ("SHOULDER_PITCH", "SHOULDER_ROLL", "SHOULDER_YAW", "ELBOW_PITCH", "ELBOW_YAW", "WRIST_PITCH", "WRIST_ROLL")

EVE = Embodiment(
    name="1x-eve",
    names=(
        *("HIP_YAW", "HIP_ROLL", "HIP_PITCH", "KNEE_PITCH", "ANKLE_ROLL", "ANKLE_PITCH"),
        *(f"LEFT_{j}" for j in _SIDE),
        *(f"RIGHT_{j}" for j in _SIDE),
        *("NECK_PITCH", "LEFT_HAND_CLOSURE", "RIGHT_HAND_CLOSURE", "LINEAR_VELOCITY", "ANGULAR_VELOCITY"),
    ),
    units=("rad",) * 21 + ("0 open..1 closed",) * 2 + ("m/s", "rad/s"),
    raw=(21, 22),
    # Statistics over the 1X v2.0 train split as published with Humanoid World Models (reference A.3).
    mean=(
        *(0.00118, -0.00675, -0.2305, 0.2757, 0.00472, -0.0387, 0.1643, 0.1904, -0.2703, -1.3330, -0.0999, 0.1234),
        *(0.0551, 0.0317, -0.2349, 0.3477, -1.3107, 0.2111, 0.1135, -0.0480, 0.3625, 0.1766, 0.3532, 0.0709, 0.00424),
    ),
    std=(
        *(0.0549, 0.0293, 0.1604, 0.2619, 0.0183, 0.1122, 0.3396, 0.1963, 0.2113, 0.3544, 0.2956, 0.2451),
        *(0.2388, 0.3980, 0.2170, 0.2325, 0.4515, 0.3095, 0.2633, 0.2771, 0.1842, 0.3558, 0.4632, 0.2448, 0.2289),
    ),
)
"""The 1X EVE humanoid: 21 joint angles, two hand closures, base velocity; order of the 1X v2.0 dataset card."""


def read_embodiment(path: str | Path) -> Embodiment:
    """Read an embodiment from TOML with keys name, names, units, raw, mean, std.

    Raises ValueError, naming the file, for a missing key or lists of different length.
    """
    table = read_toml(path, kind="description of an embodiment")
    try:
        return Embodiment(
            name=str(table["name"]),
            names=tuple(table["names"]),
            units=tuple(table["units"]),
            raw=tuple(table.get("raw", ())),
            mean=tuple(map(float, table["mean"])),
            std=tuple(map(float, table["std"])),
        )
    except KeyError as error:
        raise ValueError(f"{path}: key {error} is missing; an embodiment needs name, names, units, mean, std") from None
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from None


def normalisation(mean: np.ndarray, std: np.ndarray, robot: Embodiment = EVE, floor: float = 1e-3) -> np.ndarray:
    """Shift and scale (2, A) float32 so that (state - shift) * scale has unit variance.

    Raw dimensions keep shift 0 and scale 1.  A dimension that hardly moves (std < floor, in its own unit) is
    centred but not scaled up: it would only magnify noise.
    """
    shift = np.asarray(mean, np.float32).copy()
    scale = 1.0 / np.maximum(np.asarray(std, np.float32), floor)
    scale[np.asarray(std) < floor] = 1.0
    shift[list(robot.raw)], scale[list(robot.raw)] = 0.0, 1.0
    return np.stack([shift, scale]).astype(np.float32)
