"""Several datasets that are learned from as one: their clips one after the other, none across two of them."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from hwm.contracts import Kind
from hwm.data.dataset import Dataset, hash_of
from hwm.data.moments import LatentStatistics, pooled_statistics
from hwm.data.onex import open_dataset
from hwm.data.windows import Window


def open_together(folders: Sequence[str | Path]) -> Dataset:
    """One dataset as it is, or several as one.

    Raises ValueError as `open_dataset`; for one folder given twice; and for datasets of other kinds, robots, tokenizers, clocks,
    rates or sizes than the first, naming both.
    """
    parts = tuple(open_dataset(folder) for folder in folders)
    return parts[0] if len(parts) == 1 else Together(parts)


class Together(Dataset):
    """Datasets of one kind, robot, tokenizer and clock; see `Dataset`.  root: the first one's."""

    kind: Kind  # type: ignore[misc]

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts, first = tuple(parts), parts[0]
        for other in self.parts[1:]:
            for what, here, there in zip(_FACTS, _facts(first), _facts(other)):
                if here != there:
                    fault = f"cannot be learned from together, for their {what} differ: {_short(here)} and {_short(there)}"
                    raise ValueError(f"{first.root} and {other.root}: {fault}; give data of one kind, robot and tokenizer")
        if len({root.resolve() for root in self.roots}) < len(self.parts):
            raise ValueError(f"{' and '.join(map(str, self.roots))}: one of them is given twice; give each dataset once")
        self.kind, self.root, self.hz, self.clock = first.kind, first.root, first.hz, first.clock
        self.robot, self.tokenizer, self.every = first.robot, first.tokenizer, first.every
        self.shards = tuple(shard for part in self.parts for shard in part.shards)

    @property
    def roots(self) -> tuple[Path, ...]:
        return tuple(part.root for part in self.parts)

    @cached_property
    def grid(self) -> tuple[int, int]:  # type: ignore[override]
        """Height and width of all.  Raises ValueError, naming two, for frames of other sizes than the first's."""
        first: tuple[int, int] = self.parts[0].grid
        for other in self.parts[1:]:
            if other.grid != first:
                sizes, remedy = f"{_short(first)} and {_short(other.grid)}", "set data.image_size to one for all"
                raise ValueError(f"{self.root} and {other.root}: their frames are of other sizes, {sizes}; {remedy}")
        return first

    @cached_property
    def fingerprint(self) -> str:
        """Of what all of them hold, in their order."""
        return hash_of([part.fingerprint for part in self.parts])

    @cached_property
    def statistics(self) -> LatentStatistics:
        """What normalises the latents of all of them."""
        return pooled_statistics(self.roots, channels=self.parts[0].channels)

    def resized(self, size: int) -> "Together":
        """As `RawDataset.resized`."""
        return Together([part.resized(size) for part in self.parts])

    def sizes(self) -> dict[str, Any]:
        return self.parts[0].sizes() | {"grid": self.grid}

    def expect_window(self, window: Window) -> None:
        for part in self.parts:
            part.expect_window(window)


_FACTS = ("kinds", "robots' states", "tokenizers", "clocks", "rates", "sizes", "distances between clips")


def _facts(part: Any) -> tuple[Any, ...]:
    """What must agree; sizes of frames may be made to later."""
    made_by, sizes = part.tokenizer or {}, {} if part.kind == "video" else part.sizes()
    tokenizer = (made_by.get("name"), made_by.get("fingerprint"))
    return part.kind, list(zip(part.robot.names, part.robot.units)), tokenizer, part.clock, part.hz, sizes, part.every


def _short(value: Any) -> str:
    if isinstance(value, list):
        return f"{len(value)} from {value[0][0]} on"
    return " ".join(str(x)[:16] for x in value) if isinstance(value, tuple) else str(value)
