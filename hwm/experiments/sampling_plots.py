"""Plots of the sampling experiment as PNG pictures, in the style of the reports."""

from __future__ import annotations

from typing import Any

from hwm.evaluate_old.old_plots import INK, MUTED, legend_below, new_figure, png, title
from hwm.evaluate_old.results import COPY_FRAME
from hwm.evaluate_old.sampling_results import ONE_SAMPLE, STILL
from hwm.experiments.sampling_cells import name_of

Json = dict[str, Any]
ACCENT, PALE, OTHER, THIRD = "#1d4ed8", "#93c5fd", "#d97706", "#be185d"
BLOCK_COLOURS = {1: "#60a5fa", 2: "#1d4ed8", 3: "#1e3a8a"}


def bars_plot(record: Json) -> bytes:
    """PSNR of the table's rows as the slides draw it: ours left, the published ones right, each on an axis of its own."""
    rows, printed = record["rows"], record["published"]
    figure, (left, right) = new_figure(2, height=0.34 * max(len(rows) + 1, len(printed)) + 1.3)
    _bars(left, [name_of(row) for row in rows], [row["psnr"]["mean"] for row in rows], [row["block"] for row in rows])
    for place, row in enumerate(rows):
        if row["psnr"]["low"] is not None:
            left.plot([row["psnr"]["low"], row["psnr"]["high"]], [place] * 2, color=INK, linewidth=1)
    copied = record["copy"]["psnr"]["mean"]
    left.axvline(copied, color=OTHER, linewidth=1.4)
    left.annotate(COPY_FRAME, (copied, len(rows) - 0.45), fontsize=7.5, color=OTHER, textcoords="offset points", xytext=(4, -4))
    _limits(left, [copied, *(v for row in rows for v in row["psnr"].values() if v is not None)])
    left.set_ylim(len(rows) - 0.1, -0.6)
    title(left, "ours, unseen rooms")
    names = [name_of(row) + (" *" if row["remark"].startswith("1st") else "") for row in printed]
    _bars(right, names, [row["val_psnr"] for row in printed], [row["block"] for row in printed])
    right.plot([row["test_psnr"] for row in printed], range(len(printed)), "D", color=OTHER, markersize=4.5)
    _limits(right, [v for row in printed for v in (row["val_psnr"], row["test_psnr"])])
    right.set_ylim(len(printed) - 0.4, -0.6)
    title(right, "published (diamonds: test)")
    left.set_xlabel("PSNR, dB (axis cut)")
    right.set_xlabel("PSNR, dB (axis cut); * see the remark")
    for panel in (left, right):
        panel.grid(axis="y", visible=False)
    figure.tight_layout()
    return png(figure)


def _bars(panel: Any, names: list[str], values: list[float], blocks: list[int]) -> None:
    """Horizontal bars, the first row on top; the numbers stand right of the panel, where no interval crosses them."""
    panel.barh(range(len(names)), values, color=[BLOCK_COLOURS[block] for block in blocks], height=0.62)
    panel.set_yticks(range(len(names)), names)
    for place, number in enumerate(values):
        where = {"xycoords": ("axes fraction", "data"), "va": "center"}
        panel.annotate(f"{number:.2f}", (1.02, place), fontsize=8, color=INK, **where)


def _limits(panel: Any, values: list[float]) -> None:
    low, high = min(values), max(values)
    room = 0.15 * (high - low) + 0.2
    panel.set_xlim(max(0, low - room), high + room)


def tradeoff_plot(record: Json) -> bytes:
    """PSNR against GMSD as samples are averaged, against solver steps, and against guidance."""
    steps, guided = record["steps"]["points"], record["guidance"]["points"]
    figure, panels = new_figure(1 + bool(steps) + bool(guided), height=3.5)
    _gmsd(panels[0], record)
    if steps:
        _steps(panels[1], record)
    if guided:
        _guidance(panels[-1], record)
    for panel in panels:
        panel.set_ylabel("PSNR, dB")
    legend_below(figure, panels)
    return png(figure)


def _gmsd(panel: Any, record: Json) -> None:
    found = record["study"]["results"]
    sizes = found["sizes"]
    x, y = [p["gmsd"]["mean"] for p in sizes], [p["psnr"]["mean"] for p in sizes]
    panel.plot(x, y, "o-", color=ACCENT, markersize=4, label="mean of N samples")
    for point, a, b in zip(sizes, x, y):
        if point["num_members"] in (1, 2, 5, 10, 20, 50):
            panel.annotate(
                str(point["num_members"]), (a, b), textcoords="offset points", xytext=(5, 3), fontsize=7.5, color=MUTED
            )
    others = [row for row in found["rows"] if row["name"].startswith(("medoid", "blend", f"{ONE_SAMPLE},", STILL))]
    for row, marker in zip(others, "^DsPvX*"):
        panel.plot(row["gmsd"]["mean"], row["psnr"]["mean"], marker, color=THIRD, markersize=6, linestyle="", label=row["name"])
    copied = record["copy"]
    panel.plot(copied["gmsd"]["mean"], copied["psnr"]["mean"], "o", color=OTHER, linestyle="", label=COPY_FRAME)
    panel.set_xlabel("GMSD (lower is more alike)")
    title(panel, "averaging samples")


def _steps(panel: Any, record: Json) -> None:
    points = record["steps"]["points"]
    x = [p["steps"] for p in points]
    for key, name, colour in (("mean", f"mean of {record['settings']['half']}", ACCENT), ("one", ONE_SAMPLE, PALE)):
        _curve(panel, x, [p[key]["psnr"] for p in points], name, colour)
    panel.axhline(record["copy"]["psnr"]["mean"], color=OTHER, linewidth=1.4)
    panel.set_xscale("log")
    panel.set_xticks(x, [str(n) for n in x])
    panel.minorticks_off()
    panel.set_xlabel("steps of a prediction")
    title(panel, "steps")


def _guidance(panel: Any, record: Json) -> None:
    points, samples = record["guidance"]["points"], record["settings"]["samples"]
    for steps, style in zip(sorted({p["steps"] for p in points}), ("-", "--")):
        own = [p for p in points if p["steps"] == steps]
        x = [p["guidance"] for p in own]
        for key, name, colour in (("mean", f"mean of {samples}", "#1e3a8a"), ("one", ONE_SAMPLE, PALE)):
            _curve(panel, x, [p[key]["psnr"] for p in own], f"{name}, {steps} steps", colour, linestyle=style)
    panel.axhline(record["copy"]["psnr"]["mean"], color=OTHER, linewidth=1.4)
    panel.set_xticks(sorted({p["guidance"] for p in points}))
    panel.set_xlabel("scale of guidance by the states (1: none)")
    title(panel, "guidance")


def _curve(panel: Any, x: list[Any], values: list[Json], name: str, colour: str, **style: Any) -> None:
    panel.plot(x, [v["mean"] for v in values], marker="o", color=colour, markersize=4, label=name, **style)
    if name.startswith("mean") and all(v["low"] is not None for v in values):
        low, high = [v["low"] for v in values], [v["high"] for v in values]
        panel.fill_between(x, low, high, color=colour, alpha=0.1, linewidth=0)


def families_plot(record: Json) -> bytes:
    """What every run gains over copying the last frame, and what its states are worth to it, with intervals."""
    rows = record["families"]
    figure, panels = new_figure(2, height=0.42 * len(rows) + 1.3, share=True)
    wanted = (("over_copy", "over copying the last frame"), ("over_permuted", "true over permuted states"))
    for panel, (key, label) in zip(panels, wanted):
        for place, row in enumerate(rows):
            gain = row[key]
            if gain["low"] is not None:
                panel.plot([gain["low"], gain["high"]], [place] * 2, color=ACCENT, linewidth=2.2)
            panel.plot(gain["mean"], place, "o", color=ACCENT, markersize=6)
        panel.axvline(0, color=INK, linewidth=1)
        panel.set_yticks(range(len(rows)), [row["label"] for row in rows])
        panel.set_xlabel("PSNR, dB")
        panel.grid(axis="y", visible=False)
        title(panel, label)
    panels[0].set_ylim(len(rows) - 0.4, -0.6)
    figure.tight_layout()
    return png(figure)
