"""Mean and spread of streamed numbers, and the statistics that normalise cached latents.

`statistics/statistics_{i}.json` holds the moments of one shard of latents, `statistics.json` what follows from all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hwm.clock import SAMPLING_CONTEXT, SAMPLING_STEP, WAN
from hwm.data import layout
from hwm.work.files import read_json, write_json

MOMENT_ROWS = 64
"""Rows whose moments are taken at once."""
CONTEXT_LATENTS = WAN.num_grids(len(range(0, SAMPLING_CONTEXT, SAMPLING_STEP)))
"""Latents of a sampling clip that are of seen frames."""


@dataclass(frozen=True)
class Moments:
    """Count, mean (D,) and sum of squared deviations from it (D,) of streamed samples, float64; merged piece by piece."""

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def none(cls, width: int) -> Moments:
        """The moments of no sample."""
        return cls(0, np.zeros(width), np.zeros(width))

    @classmethod
    def of(cls, samples_ND: np.ndarray) -> Moments:
        """The moments of at least one sample."""
        samples = samples_ND.astype(np.float64)
        mean = samples.mean(axis=0)
        return cls(len(samples), mean, ((samples - mean) ** 2).sum(axis=0))

    def merged(self, other: Moments) -> Moments:
        """The moments of both samples together (Chan et al. 1979): no cancellation, unlike sums of squares."""
        total = self.count + other.count
        if not total:
            return self
        shift = other.mean - self.mean
        scatter = self.scatter + other.scatter + shift**2 * (self.count * other.count / total)
        return Moments(total, self.mean + shift * (other.count / total), scatter)

    @property
    def std(self) -> np.ndarray:
        """Standard deviation (D,) of the samples themselves."""
        return np.sqrt(self.scatter / self.count)

    def as_json(self) -> dict[str, Any]:
        """Plain values that give exactly these moments back."""
        return {"count": self.count, "mean": self.mean.tolist(), "scatter": self.scatter.tolist()}

    @classmethod
    def from_json(cls, value: Any, *, width: int) -> Moments:
        """Moments from `as_json`.  Raises ValueError for anything else."""
        if not isinstance(value, dict) or {*value} != {"count", "mean", "scatter"} or type(value["count"]) is not int:
            raise ValueError("expected count, mean and scatter")
        return cls(value["count"], vector(value["mean"], width=width), vector(value["scatter"], width=width))


def vector(value: Any, *, width: int) -> np.ndarray:
    """`width` finite numbers from JSON as float64 (D,).  Raises ValueError for anything else."""
    if not isinstance(value, list) or len(value) != width or any(type(x) not in (int, float) for x in value):
        raise ValueError(f"expected a list of {width} numbers")
    array = np.array(value, np.float64)
    if not np.isfinite(array).all():
        raise ValueError("expected finite numbers")
    return array


@dataclass(frozen=True)
class LatentStatistics:
    """Per-channel mean and standard deviation of latents and of their changes.

    Changes of a block are those from one grid to the next; of a sampling clip those of every future latent from the last
    one of seen frames, because that is what models predict.  float64 (C,) each, in the latents' own units.
    """

    mean_C: np.ndarray
    std_C: np.ndarray
    change_mean_C: np.ndarray
    change_std_C: np.ndarray


def moments_of_blocks(latents_NTCHW: np.ndarray, *, usable: np.ndarray) -> dict[str, Moments]:
    """Moments of the "latents" and of the "changes" from grid to grid in the `usable` blocks, bool (N,)."""
    return _moments(latents_NTCHW[usable], changes=lambda part: np.diff(part, axis=1))


def moments_of_clips(latents_NTCHW: np.ndarray) -> dict[str, Moments]:
    """Moments of the "latents" of sampling clips and of the "changes" of future ones from the last of seen frames.

    Clips overlap, so that most frames count in several of them.
    """
    seen = CONTEXT_LATENTS
    return _moments(latents_NTCHW, changes=lambda part: part[:, seen:] - part[:, seen - 1 : seen])


def _moments(rows_NTCHW: np.ndarray, *, changes: Callable[[np.ndarray], np.ndarray]) -> dict[str, Moments]:
    """Taken of the values as stored (float16), a fixed number of rows at a time: the same for the same shard always."""
    channels = rows_NTCHW.shape[2]
    found = {"latents": Moments.none(channels), "changes": Moments.none(channels)}
    for first in range(0, len(rows_NTCHW), MOMENT_ROWS):
        part = rows_NTCHW[first : first + MOMENT_ROWS].astype(np.float64)
        for name, values in (("latents", part), ("changes", changes(part))):
            if values.size:  # blocks of one grid have no changes
                found[name] = found[name].merged(Moments.of(np.moveaxis(values, 2, -1).reshape(-1, channels)))
    return found


def write_statistics(root: str | Path, *, channels: int) -> None:
    """Write `statistics.json` from the moments of all shards; call it once, after the last shard.

    Raises ValueError when no shard has a whole block, or sampling clip, inside one segment.
    """
    root = Path(root)
    found = pooled_statistics([root], channels=channels)
    values = {"mean": found.mean_C, "std": found.std_C, "change_mean": found.change_mean_C, "change_std": found.change_std_C}
    write_json(root / "statistics.json", {name: value.tolist() for name, value in values.items()})


def pooled_statistics(roots: Sequence[Path], *, channels: int) -> LatentStatistics:
    """The statistics of all shards of one dataset or several, from their moments.

    Raises ValueError, naming the file or the first folder, for damaged moments, or none of a whole row inside one segment.
    """
    totals = {"latents": Moments.none(channels), "changes": Moments.none(channels)}
    for path in (layout.MOMENTS.find(root, index) for root in roots for index in layout.MOMENTS.indices(root)):
        table = read_json(path)  # in order: floating-point sums depend on it
        for name in totals:
            try:
                totals[name] = totals[name].merged(Moments.from_json(table.get(name), width=channels))
            except ValueError as error:
                raise ValueError(f"{path}: {name}: {error}; delete this shard and tokenize again") from None
    if not totals["changes"].count:
        row = "sampling clip of 77 frames" if layout.CLIP_STARTS.indices(roots[0]) else "block of whole grids"
        raise ValueError(f"{roots[0]}: no {row} inside one segment, so nothing to learn from; use more data")
    latents, changes = totals["latents"], totals["changes"]
    return LatentStatistics(latents.mean, latents.std, changes.mean, changes.std)


def read_statistics(root: Path, *, channels: int) -> LatentStatistics:
    """Read `statistics.json`.  Raises ValueError naming the file."""
    path = root / "statistics.json"
    table = read_json(path)
    found = {}
    for name in ("mean", "std", "change_mean", "change_std"):
        try:
            found[f"{name}_C"] = vector(table.get(name), width=channels)
        except ValueError as error:
            raise ValueError(f"{path}: {name}: {error}; tokenize again") from None
    if min(found["std_C"].min(), found["change_std_C"].min()) < 0:
        raise ValueError(f"{path}: a standard deviation is negative; tokenize again")
    return LatentStatistics(**found)
