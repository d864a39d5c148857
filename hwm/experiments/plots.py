"""Plots of the experiments as PNG pictures."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

Json = dict[str, Any]
INK, MUTED, ACCENT, OTHER = "#1f2328", "#6b7280", "#1d4ed8", "#d97706"


def variants_plot(rows: Sequence[Json]) -> bytes:
    """What every variant gains over copying the last frame, with its interval, and how many parameters it has."""
    figure, (left, right) = _figure(2, width=8.4, height=0.55 * len(rows) + 1.3)
    places = list(range(len(rows)))[::-1]
    for place, row in zip(places, rows):
        gain = row["over_copy"]
        left.plot([gain["low"], gain["high"]] if gain["low"] is not None else [gain["mean"]] * 2, [place] * 2, color=ACCENT)
        left.plot(gain["mean"], place, "o", color=ACCENT, markersize=6)
    left.axvline(0, color=INK, linewidth=1)
    left.set_yticks(places, [row["variant"] for row in rows])
    left.set_ylim(-0.6, len(rows) - 0.4)
    left.set_xlabel("PSNR over copying the last frame, dB")
    right.barh(places, [row["parameters"] / 1e6 for row in rows], color=ACCENT, height=0.5)
    right.set_yticks(places, [""] * len(rows))
    right.set_ylim(-0.6, len(rows) - 0.4)
    right.set_xlabel("parameters, M")
    return _png(figure)


def steps_plot(curves: Mapping[str, Sequence[Json]], copy: Json) -> bytes:
    """PSNR and TFD of sampled futures against the number of solver steps.  copy: scores of copying the last frame."""
    figure, panels = _figure(2, width=9.6, height=3.6)
    for panel, (score, label) in zip(panels, (("psnr", "PSNR, dB"), ("tfd", "TFD, lower is better"))):
        for (name, points), colour in zip(curves.items(), (ACCENT, OTHER)):
            steps = [point["steps"] for point in points]
            values = [point[score] for point in points]
            panel.plot(steps, [v["mean"] for v in values], "o-", color=colour, label=name, markersize=4)
            if all(v["low"] is not None for v in values):
                panel.fill_between(steps, [v["low"] for v in values], [v["high"] for v in values], color=colour, alpha=0.13)
        panel.axhline(copy[score]["mean"], color=MUTED, linewidth=1, linestyle="--", label="copy last frame")
        panel.set_xscale("log", base=2)
        ticks = sorted({point["steps"] for points in curves.values() for point in points})
        panel.set_xticks(ticks, [str(tick) for tick in ticks])
        panel.minorticks_off()
        panel.set_xlabel("solver steps")
        panel.set_ylabel(label)
    panels[0].legend(frameon=False, fontsize=8.5)
    return _png(figure)


def _figure(columns: int, *, width: float, height: float) -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("plots need matplotlib: pip install 'humanoid-world-models[report]'") from None
    figure = Figure(figsize=(width, height), layout="constrained")
    panels = figure.subplots(1, columns)
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(colors=MUTED, labelsize=9)
    return figure, panels


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=160)
    return buffer.getvalue()
