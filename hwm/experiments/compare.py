"""A table of scorings and its plots, told by what stands in its rows and columns."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hwm.evaluate.intervals import Interval
from hwm.evaluate.scores import Role, Scores, Table
from hwm.experiments.experiment import Found

THIS = "this"


@dataclass(frozen=True)
class Column:
    """One number of a scoring: of its table of scores, of its cost by name, or what a function makes of it.

    row: name of a row, or "headline", "control", "copy" for what the scoring calls so, or "sample" for the other reading of
    the prediction, or THIS for the one that stands for a label (`Compare.these`).  over: a row with which it is compared, pair
    by pair; also a control of the states ("permuted", "late-4").
    reference, span: the verdict's by default.  scale: what is shown is the number through it.
    interval: whether it is shown with its interval.  printed: by the label of a row what is published of it, as printed there; it
    has a column of its own, right of this one, and is never mixed with it.
    """

    title: str
    metric: str | Callable[[Scores], float] = "psnr"
    row: str = "headline"
    over: str = ""
    reference: str = ""
    span: str = ""
    digits: int | None = None
    scale: float = 1
    interval: bool = True
    printed: Mapping[str, str] = field(default_factory=dict)

    def value(self, scores: Scores) -> Interval | None:
        """The number; None where it was not computed."""
        if callable(self.metric):
            return Interval(self.metric(scores))
        if self.of_cost(scores):
            cost: Any = scores.cost
            found = cost.figures.get(self.metric, getattr(cost, self.metric, None))
            return None if found is None else Interval(found / self.scale)
        row, place = row_of(scores, self.row), {"reference": self.reference, "span": self.span}
        try:
            if self.over:
                return difference(scores, row, row_of(scores, self.over), self.metric, **place)
            return scores.of(row, self.metric, **place)
        except ValueError:
            return None

    def of_cost(self, scores: Scores) -> bool:
        """Whether it is what a prediction costs."""
        cost = scores.cost
        return callable(self.metric) or (cost is not None and (self.metric in cost.figures or hasattr(cost, self.metric)))

    def copied(self, scores: Scores) -> Interval | None:
        """What copying the last seen frame has here; None for a difference or a cost."""
        return None if self.over or self.of_cost(scores) else replace(self, row="copy").value(scores)

    def text(self, value: Interval | None) -> str:
        """The number as text, empty for none."""
        from hwm.evaluate.metrics import shown

        if value is None:
            return ""
        digits = self.digits if self.digits is not None else 2 if callable(self.metric) else shown(self.metric).digits
        return (value if self.interval else Interval(value.mean)).text(digits, sign=bool(self.over))


def difference(scores: Scores, first: str, second: str, metric: str, **place: str) -> Interval:
    """First minus second, paired, whichever of the two was subtracted.  Raises ValueError where neither was."""
    try:
        return scores.difference(first, second, metric, **place).value
    except ValueError:
        return scores.difference(second, first, metric, **place).value.negative()


def row_of(scores: Scores, name: str) -> str:
    """The row that a scoring calls so; any other name is a row's own."""
    if name == "headline":
        return scores.headline
    if name == "sample":
        rows = [row for row in scores.names("model") if row != scores.headline and scores.select(row=row, metric="psnr")]
        return rows[0] if rows else scores.headline
    if name in ("control", "copy"):
        return str(scores.settings[name])
    return str(scores.settings["controls"].get(name, name))


@dataclass(frozen=True)
class Compare:
    """A table of scorings.  rows: by label their scorings, one a group, "" for none.  columns: the numbers of each.

    these: by label the row of the scoring that THIS means there, where labels are rows of one scoring.
    groups: names before the columns' titles.  head: above the labels.  Columns without a number are left out, unless something
    published stands beside.  The last line is copying the last seen frame, where the columns have it.
    """

    title: str
    rows: Mapping[str, Sequence[str]]
    columns: Sequence[Column]
    groups: Sequence[str] = ("",)
    head: str = "run"
    these: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, found: Found) -> Table:
        """The table as text."""
        numbers = {
            label: [[self.value(found, label, column, i) for column in self.columns] for i in range(len(keys))]
            for label, keys in self.rows.items()
        }
        any_scores = self._any(found)
        numbers[str(any_scores.settings["copy"])] = [[column.copied(any_scores) for column in self.columns]] * len(self.groups)
        ours = [group for groups in list(numbers.values())[:-1] for group in groups]
        there = [i for i, column in enumerate(self.columns) if column.printed or any(group[i] for group in ours)]
        rows = [[label, *self._cells(label, groups, there)] for label, groups in numbers.items()]
        head = []
        for group in self.groups:
            for column in (self.columns[i] for i in there):
                title = f"{group}: {column.title}" if group else column.title
                head += [title, f"published {title}"] if column.printed else [title]
        return Table(self.title, [self.head, *head], rows if any(rows[-1][1:]) else rows[:-1])

    def value(self, found: Found, label: str, column: Column, group: int = 0) -> Interval | None:
        """One number of the table with its interval; None where it was not computed."""
        key, this = self.rows[label][group], self.these.get(label, "headline")
        row, over = (this if name == THIS else name for name in (column.row, column.over))
        return replace(column, row=row, over=over).value(found[key]) if key else None

    def _cells(self, label: str, groups: Sequence[Sequence[Interval | None]], there: Sequence[int]) -> list[str]:
        cells = []
        for group in groups:
            for column, value in ((self.columns[i], group[i]) for i in there):
                cells += [column.text(value), column.printed.get(label, "")] if column.printed else [column.text(value)]
        return cells

    def text(self, found: Found, label: str, column: Column, group: int = 0) -> str:
        """One number of the table as it stands there."""
        return column.text(self.value(found, label, column, group))

    def number(self, found: Found, label: str, column: Column, group: int = 0) -> float:
        """One number of the table."""
        value = self.value(found, label, column, group)
        assert value is not None
        return value.mean

    def dots(self, *columns: Column) -> Callable[[Found], bytes]:
        """A plot of these columns, a panel each and group: a difference as a point with its interval, a number as a bar."""

        def plot(found: Found) -> bytes:
            from hwm.evaluate.page.plots import Panel, draw

            panels = []
            for i, column in itertools.product(range(len(self.groups)), columns):
                values = [(label, self.value(found, label, column, i)) for label in self.rows]
                rows = [(label, value) for label, value in values if value is not None]
                zero = {"_zero": 0.0} if column.over else {}
                panels.append(Panel(self.groups[i], column.title, rows=rows, bars=not column.over, levels=zero))
            return draw(panels, height=0.42 * len(self.rows) + 1.3)

        return plot

    def curves(self, x: str, *columns: Column, log: bool = True) -> Callable[[Found], bytes]:
        """A plot of these columns against the labels, which are numbers of x: a panel each, in it a curve a group."""

        def plot(found: Found) -> bytes:
            from hwm.evaluate.page.plots import Panel, draw

            places, panels, scores = [float(label.split()[0]) for label in self.rows], [], self._any(found)
            for column in columns:
                curves = {}
                for i, group in enumerate(self.groups):
                    values = [self.value(found, label, column, i) for label in self.rows]
                    curves[group or column.title] = [(at, value) for at, value in zip(places, values) if value is not None]
                firsts = [next(filter(None, keys)) for keys in zip(*self.rows.values())]
                copied = {value.mean for key in firsts if (value := column.copied(found[key])) is not None}
                levels = {str(scores.settings["copy"]): copied.pop()} if len(copied) == 1 else {}  # of one protocol
                panels.append(Panel("", x, column.title, curves, levels=levels, log=log, ticks=places))
            return draw(panels, height=3.6)

        return plot

    def _any(self, found: Found) -> Scores:
        return found[next(key for keys in self.rows.values() for key in keys if key)]


@dataclass(frozen=True)
class Across:
    """One score of every row of these roles, a column a scoring.  keys: scorings by the head of their column.

    head: above the rows.  span, reference: the verdict's by default.
    """

    metric: str
    keys: Mapping[str, str]
    roles: tuple[Role, ...]
    head: str = "row"
    span: str = ""
    reference: str = ""

    def rows(self, found: Found) -> list[str]:
        """The rows that the first scoring has."""
        scores = found[next(iter(self.keys.values()))]
        return [row for row in scores.names(*self.roles) if scores.select(row=row, metric=self.metric)]

    def value(self, found: Found, column: str, row: str) -> Interval:
        """One number of the table."""
        return found[self.keys[column]].of(row, self.metric, reference=self.reference, span=self.span)

    def __call__(self, found: Found) -> Table:
        """The table as text."""
        from hwm.evaluate.metrics import shown

        look = shown(self.metric)
        rows = [[row, *(self.value(found, column, row).text(look.digits) for column in self.keys)] for row in self.rows(found)]
        return Table(look.head, [self.head, *self.keys], rows)

    def dots(self, level: float = 0.0) -> Callable[[Found], bytes]:
        """A plot of a panel a scoring, every number as a point with its interval.  level: where a line stands."""

        def plot(found: Found) -> bytes:
            from hwm.evaluate.page.plots import Panel, draw

            rows, at = self.rows(found), {"_at": level}
            of = {column: [(row, self.value(found, column, row)) for row in rows] for column in self.keys}
            panels = [Panel(column, self.metric, rows=values, levels=at) for column, values in of.items()]
            return draw(panels, height=0.25 * len(rows) + 1)

        return plot
