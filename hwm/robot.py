"""What the numbers of a robot's state mean: a robot is one TOML file with names, units and statistics (`robots/`)."""

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


def read_embodiment(path: str | Path) -> Embodiment:
    """Read an embodiment from TOML with keys name, names, units, raw, mean, std.

    Raises ValueError, naming the file, for a missing key or lists of different length.
    """
    table = read_toml(path, kind="description of an embodiment")
    try:
        return Embodiment(
            name=str(table["name"]), names=tuple(table["names"]), units=tuple(table["units"]), raw=tuple(table.get("raw", ())),
            mean=tuple(map(float, table["mean"])), std=tuple(map(float, table["std"])),
        )
    except KeyError as error:
        raise ValueError(f"{path}: key {error} is missing; an embodiment needs name, names, units, mean, std") from None
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from None


ROBOTS = Path(__file__).parent / "robots"
"""Robots that are known: one file each, to be copied as `robot.toml` beside the data of such a robot."""
EVE = read_embodiment(ROBOTS / "eve.toml")
"""The 1X EVE humanoid, whose data need no such file."""


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
