"""What the numbers of a robot's state mean: a robot is one TOML file with names, units, groups and limits (`robots/`)."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from hwm.safe_load.paths import shown
from hwm.safe_load.text import read_toml

KINDS = {"rad": "angle", "deg": "angle", "m": "position", "m/s": "velocity", "rad/s": "velocity", "deg/s": "velocity"}
"""What a row of each unit is; "0..1", also with words such as "0 open..1 closed", is a closure, any other unit "other"."""


Place = tuple[float, float, float]


@dataclass(frozen=True)
class Skeleton:
    """How a body hangs together and where its camera looks from; x is forward, y left, z up, also of the camera.

    parents: of every joint the joint that it hangs on, an earlier one; -1: the trunk.  places: metres, in the parent's frame.
    axes: which the joint turns about.  states: dimension that says by how much; -1: none.  rests: radians by which it is turned
    where that is 0.  bones: pairs of joints between which there is something to see.  camera: joint that is the camera.
    fovy: its vertical field of view, degrees.
    """

    parents: tuple[int, ...] = ()
    places: tuple[Place, ...] = ()
    axes: tuple[Place, ...] = ()
    states: tuple[int, ...] = ()
    rests: tuple[float, ...] = ()
    bones: tuple[tuple[int, int], ...] = ()
    camera: int = 0
    fovy: float = 60.0

    def __post_init__(self) -> None:
        joints, ends = len(self.parents), [end for bone in self.bones for end in bone]
        if any(type(number) is not int for number in (*self.parents, *self.states, *ends, self.camera)):
            raise ValueError("skeleton: parents, states, bones and camera must be whole numbers")
        if {len(self.places), len(self.axes), len(self.states), len(self.rests)} != {joints}:
            raise ValueError("skeleton: parents, places, axes, states and rests differ in length")
        if any(not -1 <= parent < joint for joint, parent in enumerate(self.parents)):
            raise ValueError("skeleton: a joint's parent must be an earlier one, or -1")
        if any(not 0 <= joint < max(1, joints) for joint in (self.camera, *ends)) or any(len(bone) != 2 for bone in self.bones):
            raise ValueError(f"skeleton: bones must be pairs of joints and camera one, 0 to {joints - 1}")
        if not all(len(vector) == 3 and math.isfinite(sum(vector)) for vector in (*self.places, *self.axes)):
            raise ValueError("skeleton: places and axes must be three finite numbers each")
        if not math.isfinite(sum(self.rests)) or any(row < -1 for row in self.states):
            raise ValueError("skeleton: rests must be finite, and states numbers of dimensions or -1")
        if any(abs(sum(x * x for x in axis) - 1) > 1e-3 for axis in self.axes):
            raise ValueError("skeleton: axes must have length 1")
        if not 0 < self.fovy < 180:
            raise ValueError(f"skeleton: fovy must lie between 0 and 180 degrees, got {self.fovy}")

    def of(self, kept: Sequence[int]) -> "Skeleton":
        """Of these dimensions alone; none where one that turns a joint is not among them."""
        if any(row >= 0 and row not in kept for row in self.states):
            return NO_SKELETON
        return replace(self, states=tuple(row if row < 0 else kept.index(row) for row in self.states))


NO_SKELETON = Skeleton()


@dataclass(frozen=True)
class Embodiment:
    """What one row of robot state means.

    names, units: one entry per dimension.  raw: indices used as they are (hand closures), never normalised.
    mean, std: statistics of a large data set, used where a data set is too small to give its own.
    hz: rows a second in the robot's own logs, 0 where that differs.  limits: low and high end of every dimension in its unit,
    infinite where unknown; empty where none is known.  time: in its logs the column of times, "" where its name tells.
    groups: parts of the robot, each the indices of its dimensions.  skeleton: how its body hangs together, where that is known.
    """

    name: str
    names: tuple[str, ...]
    units: tuple[str, ...]
    raw: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    hz: int = 0
    limits: tuple[tuple[float, float], ...] = ()
    time: str = ""
    groups: Mapping[str, tuple[int, ...]] = field(default_factory=dict, hash=False)
    skeleton: Skeleton = NO_SKELETON

    def __post_init__(self) -> None:
        sizes = {len(self.names), len(self.units), len(self.mean), len(self.std)}
        if len(sizes) != 1:
            raise ValueError(f"embodiment {self.name}: names, units, mean and std differ in length: {sorted(sizes)}")
        for what, rows in {"raw": self.raw, **{f"groups.{name}": rows for name, rows in self.groups.items()}}.items():
            if any(type(i) is not int or not 0 <= i < len(self.names) for i in rows):
                raise ValueError(f"embodiment {self.name}: {what} indices outside 0..{len(self.names) - 1}")
        if self.limits and len(self.limits) != len(self.names):
            raise ValueError(f"embodiment {self.name}: limits of {len(self.limits)} dimensions, it has {len(self.names)}")
        if (bad := next((n for n, (low, high) in zip(self.names, self.limits) if not low < high), None)) is not None:
            raise ValueError(f"embodiment {self.name}: the limits of {bad} are no low and high end")
        if type(self.hz) is not int or not 0 <= self.hz <= 1000:
            raise ValueError(f"embodiment {self.name}: hz must be a whole number in 0..1000, got {self.hz!r}")
        if any(not -1 <= row < self.dim for row in self.skeleton.states):
            raise ValueError(f"embodiment {self.name}: skeleton.states outside -1..{self.dim - 1}")

    @property
    def dim(self) -> int:
        return len(self.names)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Of every dimension what its unit says it is: angle, position, velocity, closure or other."""
        closure = (unit.startswith("0") and ".." in unit for unit in self.units)
        return tuple("closure" if closes else KINDS.get(unit, "other") for unit, closes in zip(self.units, closure))

    def repeated(self, parts: Sequence[str]) -> "Embodiment":
        """Of rows that hold the same states several times, such as measured and commanded ones; names begin with their part."""
        times, starts = len(parts), range(0, self.dim * len(parts), self.dim)
        return replace(
            self, names=tuple(f"{part}.{name}" for part in parts for name in self.names), units=self.units * times,
            raw=tuple(start + i for start in starts for i in self.raw), mean=self.mean * times, std=self.std * times,
            limits=self.limits * times,
            groups={name: tuple(start + i for start in starts for i in rows) for name, rows in self.groups.items()},
        )

    def part(self, prefix: str) -> "Embodiment | None":
        """The robot of those states whose names begin with a part, without it; None where there are none."""
        kept = [i for i, name in enumerate(self.names) if name.startswith(f"{prefix}.")]
        if not kept:
            return None

        def rows(given: Sequence[int]) -> tuple[int, ...]:
            return tuple(kept.index(i) for i in given if i in kept)

        def chosen(values: Sequence[Any]) -> tuple[Any, ...]:
            return tuple(values[i] for i in kept) if values else ()

        return replace(
            self, names=tuple(name.removeprefix(f"{prefix}.") for name in chosen(self.names)), units=chosen(self.units),
            raw=rows(self.raw), mean=chosen(self.mean), std=chosen(self.std), limits=chosen(self.limits),
            groups={name: rows(given) for name, given in self.groups.items() if rows(given)}, skeleton=self.skeleton.of(kept),
        )

    @property
    def meaning(self) -> dict[str, Any]:
        """What of it decides what is learned from its data, as plain values: not what helps people, nor its skeleton."""
        return {name: getattr(self, name) for name in ("name", "names", "units", "raw", "mean", "std")}


def read_embodiment(path: str | Path) -> Embodiment:
    """Read an embodiment from TOML with keys name, names, units, and optionally raw, mean, std, hz, limits, time, [groups] and
    [skeleton].

    raw, groups and skeleton.states take indices, counted from 0, or names.
    Raises ValueError, naming the file, for a missing or unknown key or lists of different length.
    """
    table = read_toml(path, kind="description of an embodiment")
    known = Embodiment.__dataclass_fields__
    if (unknown := next((key for key in table if key not in known), None)) is not None:
        raise ValueError(f"{path}: unknown key {shown(unknown)!r}; an embodiment has {', '.join(known)}")
    try:
        names = tuple(map(str, table["names"]))
        index = {name: i for i, name in enumerate(names)}

        def rows(given: Any) -> tuple[int, ...]:
            return tuple(index[item] if isinstance(item, str) else item for item in given)

        robot = Embodiment(
            name=str(table["name"]), names=names, units=tuple(map(str, table["units"])), raw=rows(table.get("raw", ())),
            mean=tuple(map(float, table.get("mean", [0] * len(names)))),
            std=tuple(map(float, table.get("std", [1] * len(names)))),
            hz=table.get("hz", 0), limits=tuple((float(low), float(high)) for low, high in table.get("limits", ())),
            time=str(table.get("time", "")), groups={name: rows(given) for name, given in table.get("groups", {}).items()},
            skeleton=_skeleton(table.get("skeleton", {}), rows),
        )
        return _completed(robot, Path(path), table)
    except KeyError as error:
        fault = "is missing" if error.args[0] in known else "is none of its names"
        raise ValueError(f"{path}: key {error} {fault}; an embodiment needs name, names, units") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: {error}") from None


def _skeleton(table: Mapping[str, Any], rows: Callable[[Any], tuple[int, ...]]) -> Skeleton:
    """A body from its table."""
    known = Skeleton.__dataclass_fields__
    if (unknown := next((key for key in table if key not in known), None)) is not None:
        raise ValueError(f"unknown key {shown('skeleton.' + unknown)!r}; a skeleton has {', '.join(known)}")
    lists: dict[str, Any] = {name: tuple(tuple(map(float, row)) for row in table.get(name, ())) for name in ("places", "axes")}
    lists |= {"bones": tuple(map(tuple, table.get("bones", ()))), "parents": tuple(table.get("parents", ()))}
    lists["rests"] = tuple(map(float, table.get("rests", ())))
    return Skeleton(**{**table, **lists, "states": rows(table.get("states", ()))})


def _completed(robot: Embodiment, path: Path, table: Mapping[str, Any]) -> Embodiment:
    """With what its file leaves out, such as one of an earlier version, as the known robot of the same name and states has it."""
    if path.parent == ROBOTS:
        return robot
    same = [model for model in map(read_embodiment, sorted(ROBOTS.glob("*.toml")))
            if (model.name, model.names) == (robot.name, robot.names)]  # fmt: skip
    left_out = [key for key in ("hz", "limits", "groups", "skeleton") if key not in table]
    return replace(robot, **{key: getattr(same[0], key) for key in left_out}) if same else robot



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
