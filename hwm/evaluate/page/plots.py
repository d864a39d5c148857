"""Curves, points and bars with their intervals as PNG pictures, in one style: of an evaluation and of experiments."""

import io
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hwm.evaluate.intervals import Interval
from hwm.evaluate.metrics import METRICS, shown
from hwm.evaluate.protocols import mean_of
from hwm.evaluate.scores import TOKENS, Scores, frame_span, grid_span
from hwm.evaluate.table import OF_PICTURES, compared_tokens, judged, places, short, verdict_differences
from hwm.evaluate.tuning import Saturation

Json = dict[str, Any]
Points = Sequence[tuple[float, Interval]]
INK, MUTED, GRID = "#1f2328", "#6b7280", "#e5e7eb"
ACCENT, PALE, OTHER, THIRD, FOURTH = "#1d4ed8", "#60a5fa", "#d97706", "#be185d", "#059669"
CYCLE = (ACCENT, OTHER, FOURTH, THIRD, "#7c3aed", "#0891b2", MUTED, "#84cc16")
"""Colours of curves that nothing else decides."""
ROLES: dict[str, tuple[tuple[str, str], ...]] = {
    "model": ((PALE, "-"), (FOURTH, "-"), ("#7c3aed", "-"), ("#0891b2", "-")),
    "states": ((THIRD, "--"), ("#f472b6", "--")),
    "baseline": ((OTHER, "-"), ("#a16207", "-"), ("#9ca3af", "-"), ("#9ca3af", "--")),
    "ceiling": (("#111827", "-."),),
}
"""Colour and dashes of the rows of an evaluation by their role; the headline is drawn in `ACCENT`."""
AVERAGED = "mean of N samples"
"""Label of the growing means of an ensemble."""
NEARLY_PERFECT = 60
"""dB above which a row would squeeze all others, and is left out of a plot."""


@dataclass(frozen=True)
class Panel:
    """One pair of axes: curves of points with a band, or rows of points (or bars) with a bar of error, or columns.

    curves: by label; a band is drawn where `styles` says so or there is no style.  rows: the first on top.
    levels: straight lines by label, across the panel for curves, upright for rows; a nameless one starts with "_".
    marks: words at the points of a curve, by its label.  columns: heights from x = 0 on.
    limits: of the axis of values; None: as the numbers need.
    """

    title: str = ""
    x: str = ""
    y: str = ""
    curves: Mapping[str, Points] = field(default_factory=dict)
    rows: Sequence[tuple[str, Interval]] = ()
    bars: bool = False
    columns: Sequence[float] = ()
    levels: Mapping[str, float] = field(default_factory=dict)
    marks: Mapping[str, Sequence[str]] = field(default_factory=dict)
    log: bool = False
    ticks: Sequence[float] = ()
    limits: tuple[float | None, float | None] = (None, None)


def missing() -> str:
    """Why there are no plots, in words; empty where there are."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return "There are no plots, for matplotlib is not installed: pip install 'humanoid-world-models[report]'."
    return ""


def draw(
    panels: Sequence[Panel], styles: Mapping[str, Json] | None = None, *, across: int = 2, height: float = 3.4, note: str = ""
) -> bytes:
    """All panels in one picture, PNG; the same bytes for the same panels.

    styles: what matplotlib draws a label with, and "band".  across: panels beside each other.  height: inches of a line of them.
    note: a line of small words below.  Empty without matplotlib; `missing` says so beforehand.
    """
    if missing():
        return b""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    look: Any = {"font.size": 9, "axes.edgecolor": MUTED, "axes.labelcolor": INK, "axes.axisbelow": True, "grid.color": GRID}
    look |= {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "xtick.color": MUTED, "ytick.color": MUTED}
    look |= {"figure.facecolor": "white"}
    columns = min(across, len(panels))
    lines = -(-len(panels) // columns)
    wide = columns > 1 or any(len(name) > 30 for panel in panels for name, _ in panel.rows)
    with rc_context(look):
        figure = Figure(figsize=(9.2 if wide else 5.6, height * lines), dpi=170)
        axes = figure.subplots(lines, columns, squeeze=False).flatten()
    labels = list(dict.fromkeys(label for panel in panels for label in panel.curves))
    known = {label: {"color": CYCLE[i % len(CYCLE)], "linewidth": 1.8, "band": True} for i, label in enumerate(labels)}
    known |= styles or {}
    for axis in axes[len(panels) :]:
        axis.remove()
    for number, (panel, axis) in enumerate(zip(panels, axes)):
        _curves(axis, panel, known)
        named = number % columns == 0 or [name for name, _ in panel.rows] != [name for name, _ in panels[number - 1].rows]
        _rows(axis, panel, known, named=named)
        if panel.columns:
            axis.bar(range(len(panel.columns)), panel.columns, color=ACCENT, width=0.85)
        axis.set_title(panel.title, loc="left", fontsize=9.5, color=INK)
        axis.set_xlabel(panel.x)
        axis.set_ylabel(panel.y)
        if panel.log:
            axis.set_xscale("log")
            axis.minorticks_off()
        if panel.ticks:
            axis.set_xticks(panel.ticks, [f"{tick:g}" for tick in panel.ticks])
        (axis.set_xlim if panel.rows else axis.set_ylim)(*panel.limits)
    _legend_below(figure, axes[: len(panels)], note)
    data = io.BytesIO()
    FigureCanvasAgg(figure).print_png(data, metadata={"Software": None})  # `savefig` would draw twice
    return data.getvalue()


def _curves(axis: Any, panel: Panel, styles: Mapping[str, Json]) -> None:
    for label, points in panel.curves.items():
        style = dict(styles[label])
        band, x = style.pop("band", False), [place for place, _ in points]
        few = {"marker": "o", "markersize": 3.5} if len(points) < 8 else {}
        axis.plot(x, [value.mean for _, value in points], label=label, **(few | style))
        if band and all(value.low is not None for _, value in points):
            low, high = [value.low for _, value in points], [value.high for _, value in points]
            axis.fill_between(x, low, high, color=style["color"], alpha=0.12, linewidth=0)
        for words, (place, value) in zip(panel.marks.get(label, ()), points):
            offset = {"textcoords": "offset points", "xytext": (5, 3)}
            axis.annotate(words, (place, value.mean), fontsize=7.5, color=MUTED, **offset)
    straight = axis.axvline if panel.rows else axis.axhline
    for i, (label, level) in enumerate(panel.levels.items()):
        plain = {"color": MUTED, "linewidth": 1.2, "linestyle": ("--", ":")[i % 2]}
        look = styles.get(label, {"color": INK, "linewidth": 1} if label.startswith("_") else plain)
        line = {key: look[key] for key in ("color", "linewidth", "linestyle") if look.get(key)}
        straight(level, label=label, zorder=1, **line)


def _rows(axis: Any, panel: Panel, styles: Mapping[str, Json], *, named: bool) -> None:
    if not panel.rows:
        return
    for place, (name, value) in enumerate(panel.rows):
        colour = styles.get(name, {"color": ACCENT})["color"]
        if panel.bars:
            axis.barh(place, value.mean, color=colour, height=0.62)
            axis.annotate(f"{value.mean:.2f}", (1.02, place), xycoords=("axes fraction", "data"), va="center", fontsize=8)
        if value.low is not None:
            bar = {"color": INK, "linewidth": 1} if panel.bars else {"color": colour, "linewidth": 2.4}
            axis.plot([value.low, value.high], [place] * 2, solid_capstyle="butt", **bar)
        if not panel.bars:
            axis.plot(value.mean, place, "o", color=colour, markersize=6)
    axis.set_yticks(range(len(panel.rows)), [name if named else "" for name, _ in panel.rows])
    axis.set_ylim(len(panel.rows) - 0.4, -0.6)
    axis.grid(axis="y", visible=False)


def _legend_below(figure: Any, axes: Iterable[Any], note: str) -> None:
    """One legend of all panels below them, each name once, and a note at the foot."""
    entries: dict[str, Any] = {}
    for axis in axes:
        for handle, name in zip(*axis.get_legend_handles_labels()):
            entries.setdefault(name, handle)
    width, height = figure.get_size_inches()
    columns = max(1, int(width / 2.2))  # an entry is at most about two inches wide
    rows = -(-len(entries) // columns)
    foot = 0.22 / height if note else 0
    figure.tight_layout(rect=(0, 0.22 * rows / height + 0.01 * bool(rows) + foot, 1, 1))
    if note:
        figure.text(0.5, 0.25 * foot, note, fontsize=8, color=MUTED, ha="center", va="bottom")
    if entries:
        place: Json = {"loc": "lower center", "bbox_to_anchor": (0.5, foot)}
        place |= {"ncols": columns, "frameon": False, "fontsize": 8.5, "labelcolor": INK}
        figure.legend(entries.values(), entries.keys(), **place)


def _note(scores: Scores) -> str:
    return scores.settings.get("no_intervals", "")


def row_styles(scores: Scores) -> dict[str, Json]:
    """How the rows of an evaluation are drawn: by their role, the headline above all."""
    found: dict[str, Json] = {}
    copy = scores.settings["copy"]
    for role, looks in ROLES.items():
        own = [row.name for row in scores.rows if row.role == role and row.name != scores.headline]
        own.sort(key=lambda name: name != copy)
        for name, (colour, dashes) in zip(own, itertools.cycle(looks)):
            width = 1.8 if role == "model" or name == copy else 1.2
            found[name] = {"color": colour, "linestyle": dashes, "linewidth": width, "band": name == copy}
    found[scores.headline] = {"color": ACCENT, "linewidth": 2.2, "band": True}
    return found


def over(scores: Scores, metric: str, reference: str, span: Callable[[int], str]) -> dict[str, list[tuple[float, Interval]]]:
    """Every row's scores over frames or grids.  span: gives the span of a number, `frame_span` or `grid_span`."""
    ends = max(scores.settings.get("future_frames", 0), scores.settings.get("future_grids", 0)) + 1
    ahead = scores.settings.get("ahead", range(1, ends)) if span is frame_span else range(1, ends)
    numbers = {span(k): float(frames) for k, frames in enumerate(ahead, 1)}
    found: dict[str, list[tuple[float, Interval]]] = {}
    for score in scores.select(metric=metric, reference=reference):
        if score.span in numbers and math.isfinite(score.value.mean):
            found.setdefault(score.row, []).append((numbers[score.span], score.value))
    return {row: points for row, points in found.items() if len(points) > 1}


def frames_plot(scores: Scores) -> bytes | None:
    """Every score of pictures over the future frames, one panel a reference; None for a single frame."""
    panels = []
    references = list(dict.fromkeys(score.reference for score in scores.scores if score.reference != TOKENS))
    for metric in OF_PICTURES:
        for reference in references:
            look, curves = shown(metric), over(scores, metric, reference, frame_span)
            limits: tuple[float | None, float | None] = (None, None)
            if look.unit == "dB" and curves:
                curves = {row: own for row, own in curves.items() if max(v.mean for _, v in own) < NEARLY_PERFECT} or curves
                means = [value.mean for own in curves.values() for _, value in own]
                # Early frames of a still scene are near perfect; they would squeeze those that are scored.
                limits = min(means) - 1, min(max(means), 45) + 1
            if curves:
                panels.append(Panel(f"against {short(reference)}", "frames into the future", look.head, curves, limits=limits))
    return draw(panels, row_styles(scores), note=_note(scores)) if panels else None


def grids_plot(scores: Scores) -> bytes | None:
    """Scores of token distributions over the future grids; None for a single grid."""
    panels = []
    for metric in dict.fromkeys(score.metric for score in scores.select(reference=TOKENS)):
        if curves := over(scores, metric, TOKENS, grid_span):
            ticks = [place for place, _ in next(iter(curves.values()))]
            panels.append(Panel("", "future grid", shown(metric).head, curves, ticks=ticks))
    styles = row_styles(scores)
    styles[compared_tokens(scores)] = styles[scores.headline]
    return draw(panels, styles, height=3.2, note=_note(scores)) if panels else None


def differences_plot(scores: Scores) -> bytes | None:
    """Paired differences in the verdict's score over its span, one panel a reference."""
    wanted, panels, styles = {(d.metric, d.span) for d in verdict_differences(scores)}, [], row_styles(scores)
    for reference in dict.fromkeys(d.reference for d in scores.differences):
        own = [d for d in scores.differences if (d.metric, d.span) in wanted and d.reference == reference]
        rows = []
        for d in own:
            name = d.second if d.first == scores.headline else f"{d.first} − {d.second}"
            styles[name] = styles.get(d.second, {"color": MUTED})
            rows.append((name, d.value))
        title = f"{places(scores, scores.settings['span'])}, against {short(reference)}"
        if rows:
            unit = judged(scores).unit
            panels.append(Panel(title, f"{scores.headline} minus the row, {unit}", rows=rows, levels={"_zero": 0}))
    height = 0.25 * max((len(p.rows) for p in panels), default=0) + 1.1
    return draw(panels, styles, height=height, note=_note(scores)) if panels else None


def networks_plot(scores: Scores) -> bytes | None:
    """Distances of every row to the truth as networks see it, one panel a network: left is better."""
    panels = []
    for metric in scores.settings["perceptual"]:
        wide = [s for s in scores.select(metric=metric) if s.row in scores.names("model", "states", "baseline", "ceiling")]
        rows = [(s.row, s.value) for s in wide if (s.reference, s.span) == (wide[0].reference, wide[0].span)]
        if rows:
            panels.append(Panel("", f"{metric}, lower is better", rows=rows, limits=(0, None)))
    height = 0.25 * max((len(p.rows) for p in panels), default=0) + 1
    return draw(panels, row_styles(scores), height=height, note=_note(scores)) if panels else None


def ensemble_plot(scores: Scores) -> bytes | None:
    """PSNR of the mean against its number of members with the fitted saturation, and against its sharpness; None for one size."""
    sizes, fit, copy = scores.settings["ensembles"], scores.facts.get("saturation"), scores.settings["copy"]
    if len(sizes) < 2:
        return None
    (psnr, pooled), means = OF_PICTURES[:2], [mean_of(n) for n in sizes]
    label, alike, limit = AVERAGED, "the same, pooled over clips", "limit of the fit"
    left: dict[str, Points] = {label: [(n, scores.of(row, psnr)) for n, row in zip(sizes, means)]}
    left[alike] = [(n, scores.of(row, pooled)) for n, row in zip(sizes, means)]
    styles = row_styles(scores) | {
        label: {"color": ACCENT, "linewidth": 1.8, "marker": "o", "markersize": 4, "band": True},
        alike: {"color": MUTED, "linestyle": "", "marker": "o", "markersize": 3.5},
        limit: {"color": MUTED, "linewidth": 1, "linestyle": "--"},
    }
    levels = {copy: scores.of(copy, psnr).mean}
    if fit is not None:
        fine = [sizes[0] * (sizes[-1] / sizes[0]) ** (i / 60) for i in range(61)]
        name = "fit: pooled error = floor + variance / N"
        saturation = Saturation(fit["floor"], fit["variance"])
        left[name] = [(n, Interval(saturation.psnr_at(n))) for n in fine]
        styles[name] = {"color": MUTED, "linewidth": 1, "marker": ""}
        levels |= {} if fit["clipped"] else {limit: fit["psnr_limit"]}
    right = against(scores, "PSNR against sharpness", "sharpness", "gradient energy over the truth's (1: as sharp)")
    others = [row for row in right.curves if row not in (label, copy)]
    for row, marker in [*zip(others, itertools.cycle("^DsPvX*")), (copy, "o")]:
        styles[row] = {"color": OTHER if row == copy else THIRD, "linestyle": "", "marker": marker, "markersize": 6}
    head, title = shown(psnr).head, "PSNR against samples averaged"
    averaged = Panel(title, "samples averaged", head, left, levels=levels, log=True, ticks=sizes)
    return draw([averaged, right], styles, height=3.7, note=_note(scores))


def against(scores: Scores, title: str, metric: str, x: str) -> Panel:
    """PSNR against another score of all that is made of the samples: a curve of growing means, a point each for the others."""
    psnr, means = METRICS[0], {mean_of(n): str(n) for n in scores.settings["ensembles"]}

    def place(row: str) -> tuple[float, Interval]:
        return scores.of(row, metric).mean, Interval(scores.of(row, psnr.name).mean)

    curves: dict[str, Points] = {AVERAGED: [place(row) for row in means]}
    rows = [row for row in scores.names("model") if row not in means and scores.select(row=row, metric=metric)]
    curves |= {row: [place(row)] for row in [*rows, scores.settings["copy"]]}
    return Panel(title, x, psnr.head, curves, marks={AVERAGED: list(means.values())})


def calibration_plot(found: Json) -> bytes:
    """Predicted against real error, error left when the most uncertain pixels are removed, and ranks of the truth."""

    def line(x: Sequence[float], y: Sequence[float]) -> Points:
        return [(a, Interval(b)) for a, b in zip(x, y)]

    top, removed = 1.05 * max(*found["predicted"], 1), [100 * share for share in found["fractions"]]
    dashed = {"color": MUTED, "linewidth": 1, "linestyle": "--", "marker": ""}
    styles: dict[str, Json] = {
        "calibrated": dashed,
        "ensemble": {"color": ACCENT, "marker": "o", "markersize": 3.5},
        "any pixels removed": dashed,
        "most uncertain removed": {"color": ACCENT, "linewidth": 2},
        "most wrong removed": {"color": INK, "linewidth": 1, "linestyle": ":"},
    }
    spread = {"calibrated": line([0, top], [0, top]), "ensemble": line(found["predicted"], found["rmse"])}
    keys = zip(list(styles)[2:], ("random", "sparsification", "oracle"))
    rest = {label: line(removed, [value**0.5 for value in found[key]]) for label, key in keys}
    ranks = [100 * share for share in found["ranks"]]
    ticks = sorted({round(i * (len(ranks) - 1) / 5) for i in range(6)})
    even = {"_even": 100 / len(ranks)}
    panels = [
        Panel("reliability", "error that the spread predicts, levels", "real error, levels", spread, limits=(0, None)),
        Panel("sparsification", "pixels removed, %", "error of the rest, levels", rest, limits=(0, None)),
        Panel("rank of the truth", "samples below the truth", "pixels, %", columns=ranks, levels=even, ticks=ticks),
    ]
    return draw(panels, styles, across=3, height=3.2)


TRAINING = {
    "ce": ("cross-entropy, nats", "cross_entropy"),
    "accuracy": ("accuracy", "accuracy"),
    "flow": ("squared error of the velocity", "flow_mse"),
    "latent": ("squared error of the latents", ""),
    "relative": ("squared error, relative", "relative_mse"),
    "pixel": ("squared error of the pixels", ""),
}
"""By the first word of the name of a validation score: what it measures, and the score of training steps beside it."""
SERIES = {"teacher": "teacher-forced", "auto": "autoregressive", "copy": "copying"}
"""By the last word of its name: which validation it is."""


def training_plot(records: Sequence[Json]) -> bytes | None:
    """Validation scores beside those of training, by the names that families log; None where nothing was logged."""
    names = list(dict.fromkeys(key for record in records for key, value in record.items() if value is not None))
    first = {key: key.removeprefix("val/").partition("_")[0] for key in names if key.startswith("val/")}
    logged = {group for group, (_, key) in TRAINING.items() if key in names}
    groups = [group for group in dict.fromkeys([*TRAINING, *first.values()]) if group in {*first.values(), *logged}]
    panels, styles = [], {"training": {"color": "#9ca3af", "linewidth": 1.0}, "validation": {"color": ACCENT, "linewidth": 1.8}}
    styles |= {"teacher-forced": {"color": FOURTH, "linewidth": 1.8}, "autoregressive": styles["validation"]}
    styles |= {"copying": {"color": OTHER, "linewidth": 1.8}}
    for group in groups:
        label, key = TRAINING.get(group, (group, group))
        own = {SERIES.get(name.rpartition("_")[2], "validation"): name for name, word in first.items() if word == group}
        curves = {
            series: [(r["step"], Interval(r[name])) for r in records if r.get(name) is not None]
            for series, name in ({"training": key} | own).items()
        }
        panels.append(Panel("", "step", label, {series: points for series, points in curves.items() if points}))
    return draw(panels, styles, height=3.2) if panels else None
