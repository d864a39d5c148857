"""What an evaluation found: one long table of scores, paired differences beside it, and what decided them.

The table names no metric and no row: whoever shows it selects from it, so that a new metric or a new way of predicting
appears everywhere by itself.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hwm.evaluate.intervals import Interval, few, interval, intervals

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA = 2
"""Of results.json: 1 was a table a metric and a file of its own a protocol."""

RECONSTRUCTION = "reconstruction"
"""Reference: the tokenizer's own decoding of the true future; predictions and baselines pass the same tokenizer."""
ORIGINAL = "original"
"""Reference: the video as recorded; baselines start from its frames."""
TOKENS = "tokens"
"""Reference of scores of token distributions: the true future grids."""

LAST, ALL, ALL_GRIDS = "last frame", "all frames", "all grids"
"""Spans: the last scored frame, the mean over all scored frames, the mean over all future grids."""


def frame_span(number: int) -> str:
    """The span of one scored frame, counted from 1 after the last seen one."""
    return f"frame {number}"


def grid_span(number: int) -> str:
    """The span of one future grid, counted from 1."""
    return f"grid {number}"


Role = Literal["model", "states", "baseline", "ceiling", "doubt"]
"""model: a prediction with the true states.  states: one with other states.  baseline: what needs no model.  ceiling: the
tokenizer alone, which no prediction through it can pass.  doubt: a way of doubting, scored by how well it knows the error."""


@dataclass(frozen=True)
class Row:
    """Something that is scored.  about: what it is, in a sentence."""

    name: str
    role: Role
    about: str = ""


@dataclass(frozen=True)
class Score:
    """One number of the table.  metric: name of one of `metrics.METRICS`, of a feature network, or of a score of tokens.

    note: why there is no interval, or no number.
    """

    row: str
    metric: str
    reference: str
    span: str
    value: Interval
    note: str = ""


@dataclass(frozen=True)
class Difference:
    """Paired difference first - second over clips.

    share_higher: share of clips in which first is higher; None for distances between sets of clips.
    """

    first: str
    second: str
    metric: str
    reference: str
    span: str
    value: Interval
    share_higher: float | None


@dataclass(frozen=True)
class Cost:
    """What a prediction costs.  parameters, weight_bytes: of the model alone.

    figures: further ones by name: "samples/s", "samples/s decoded", "seconds, 1 sample", "seconds, 20 samples", ...
    peak_bytes: peak memory of a prediction, in the sense of `peak_meaning`; None where it is unknown.
    how: on what and how it was measured, in words.
    """

    parameters: int
    weight_bytes: int
    device: str
    figures: dict[str, float]
    peak_bytes: int | None
    peak_meaning: str
    how: str


@dataclass(frozen=True)
class Example:
    """Frames of one clip to look at.

    pictures: uint8 (F, H, W, 3) by name ("seen", "truth", a row, ...), with F = 1 where one frame is scored.
    psnr: dB of the last frame, by the name of a row.  spread: float (H, W) of an ensemble, levels of 0..255.
    """

    clip: int
    pictures: dict[str, np.ndarray]
    psnr: dict[str, float]
    spread: np.ndarray | None = None


@dataclass
class Scores:
    """All scores of one model on one set of clips.

    protocol: name of the protocol.  headline: the row that the verdict is about, chosen before seeing any score.
    settings: everything that decides the numbers, with `span` and `reference` of the verdict among them.
    rows, scores, differences: the table.
    facts: what is no mean over clips, by name, as JSON: "calibration", "saturation", "tuning".
    seconds, cost: wall time by part, cost of a prediction; the only values that vary from run to run.
    examples: frames to look at, not part of the JSON.
    """

    protocol: str
    headline: str
    settings: dict[str, Any]
    rows: list[Row]
    scores: list[Score]
    differences: list[Difference]
    facts: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    cost: Cost | None = None
    examples: list[Example] = field(default_factory=list)

    def select(self, **wanted: str) -> list[Score]:
        """The scores whose fields (row, metric, reference, span) are these, in the order of the table."""
        return [score for score in self.scores if all(getattr(score, name) == value for name, value in wanted.items())]

    def of(self, row: str, metric: str, *, reference: str = "", span: str = "") -> Interval:
        """One score; reference and span are those of the verdict by default.

        Raises ValueError, naming the rows or metrics there are, where it was not computed.
        """
        wanted = {"row": row, "metric": metric, **self._place(reference, span)}
        if found := self.select(**wanted):
            return found[0].value
        for name in ("row", "metric", "reference", "span"):
            known = list(dict.fromkeys(getattr(score, name) for score in self.scores))
            if wanted[name] not in known:
                raise ValueError(f"no {name} {wanted[name]!r}; there are {', '.join(map(repr, known))}")
        raise ValueError(f"no score of {row!r} in {metric!r} against the {wanted['reference']}, {wanted['span']}")

    def difference(self, first: str, second: str, metric: str = "psnr", *, reference: str = "", span: str = "") -> Difference:
        """One paired difference, places as in `of`.  Raises ValueError where it was not computed."""
        place = self._place(reference, span)
        for found in self.differences:
            if (found.first, found.second, found.metric, found.reference, found.span) == (first, second, metric, *place.values()):
                return found
        raise ValueError(f"no paired difference of {first!r} and {second!r} in {metric}, {place}")

    def names(self, *roles: Role) -> list[str]:
        """Names of the rows of these roles."""
        return [row.name for row in self.rows if row.role in roles]

    def _place(self, reference: str, span: str) -> dict[str, str]:
        return {"reference": reference or self.settings["reference"], "span": span or self.settings["span"]}

    def to_json(self) -> dict[str, Any]:
        """Nested plain values; numbers that do not exist are None."""
        names = [f.name for f in dataclasses.fields(self) if f.name != "examples"]
        return {"schema": SCHEMA} | {name: plain(getattr(self, name)) for name in names}

    @classmethod
    def from_json(cls, table: dict[str, Any], *, where: str = "results.json") -> Scores:
        """The same scores again, without the examples.  Raises ValueError for results of another schema."""
        if table.get("schema") != SCHEMA:
            found = table.get("schema", 1)
            raise ValueError(f"{where}: its schema is {found}, this version reads {SCHEMA}; score the run again")

        def with_interval(kind: Any, row: dict[str, Any]) -> Any:
            mean = math.nan if row["value"]["mean"] is None else row["value"]["mean"]
            ends = (None, None) if settings["no_intervals"] else (row["value"]["low"], row["value"]["high"])
            return kind(**{**row, "value": Interval(mean, *ends)})

        try:
            settings = table["settings"] | {"no_intervals": no_intervals(table["settings"])}
            return cls(
                protocol=table["protocol"], headline=table["headline"], settings=settings,
                rows=[Row(**row) for row in table["rows"]], scores=[with_interval(Score, row) for row in table["scores"]],
                differences=[with_interval(Difference, row) for row in table["differences"]], facts=table["facts"],
                seconds=table["seconds"], cost=None if table["cost"] is None else Cost(**table["cost"]),
            )  # fmt: skip
        except (KeyError, TypeError) as error:
            raise ValueError(f"{where}: not the results of an evaluation ({error!r}); score the run again") from None


def no_intervals(settings: dict[str, Any]) -> str:
    """Why an evaluation has no intervals, in words; empty where it has."""
    return few(settings["num_clips"] if settings["num_segments"] is None else settings["num_segments"])


def plain(value: Any) -> Any:
    """Dataclasses, tuples and numbers as JSON takes them; a number that is not finite is None."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return value


@dataclass(frozen=True)
class Table:
    """Rows of text under a head.  An interval stands in brackets behind its mean.  strong: name of the row that stands out."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    strong: str = ""

    def text(self) -> str:
        """In columns, the title over the first one; intervals only of the first score, so that lines stay short."""
        short = [[*row[:2], *(cell.partition(" [")[0] for cell in row[2:])] for row in self.rows]
        body = [[row[0] + " *" * (row[0] == self.strong), *row[1:]] for row in short]
        lines = [[self.title, *self.head[1:]], *body]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.head))]
        printed = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]
        return "\n".join([printed[0], "-" * len(printed[0]), *printed[1:]])

    def markdown(self) -> str:
        """In Markdown, without the title."""
        lines = [self.head, ["---"] * len(self.head), *self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


class Means:
    """Means with intervals and paired differences over the clips of one evaluation; a clip whose value is nan is left out.

    groups: (N,) the segment of every clip, or None.  seed: of the resampling.
    """

    def __init__(self, groups: np.ndarray | None, seed: int) -> None:
        self.groups, self.seed = groups, seed

    def one(self, values_N: Tensor, weights: np.ndarray | None = None) -> Interval:
        """Mean of one value per clip."""
        values, there = values_N.numpy(), ~values_N.isnan().numpy()
        groups = None if self.groups is None else self.groups[there]
        return interval(values[there], groups=groups, weights=None if weights is None else weights[there], seed=self.seed)

    def each(self, values_NM: Tensor) -> list[Interval]:
        """Mean of every column."""
        if values_NM.isnan().any():
            return [self.one(values_N) for values_N in values_NM.unbind(1)]
        return intervals(values_NM.numpy(), groups=self.groups, seed=self.seed)

    def difference(self, first: str, second: str, a_N: Tensor, b_N: Tensor, **place: str) -> Difference:
        """Paired difference of one value per clip.  place: metric, reference and span."""
        change_N = a_N - b_N
        higher = float((change_N > 0).double().sum() / (~change_N.isnan()).sum())
        return Difference(first, second, value=self.one(change_N), share_higher=higher, **place)
