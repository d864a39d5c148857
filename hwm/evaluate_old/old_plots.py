"""Curves of an evaluation as PNG pictures, drawn from the plain values in results.json."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

from hwm.evaluate_old.results import (
    AUTOREGRESSIVE,
    CEILING,
    COPY_FRAME,
    COPY_GRID,
    EXPECTED_CODE,
    LIKELY_TOKENS,
    MEAN_OF_CONTEXT,
    ORIGINAL,
    PERMUTED,
    RECONSTRUCTION,
    SAMPLED_LATENTS,
    SAMPLED_TOKENS,
    SCORED_FRAME,
    STILL_LATENTS,
    TEACHER_FORCED,
    ZEROED,
)

Json = dict[str, Any]
INK, MUTED, GRID = "#1f2328", "#6b7280", "#e5e7eb"
STYLES: dict[str, Json] = {
    EXPECTED_CODE: {"color": "#1d4ed8", "linewidth": 2.2},
    LIKELY_TOKENS: {"color": "#60a5fa", "linewidth": 1.6},
    SAMPLED_TOKENS: {"color": "#60a5fa", "linewidth": 1.6},
    STILL_LATENTS: {"color": "#1d4ed8", "linewidth": 2.2},
    SAMPLED_LATENTS: {"color": "#60a5fa", "linewidth": 1.6},
    COPY_FRAME: {"color": "#d97706", "linewidth": 1.8},
    COPY_GRID: {"color": "#d97706", "linewidth": 1.1, "linestyle": ":"},
    MEAN_OF_CONTEXT: {"color": "#9ca3af", "linewidth": 1.1},
    ZEROED: {"color": "#be185d", "linewidth": 1.2, "linestyle": "--"},
    PERMUTED: {"color": "#be185d", "linewidth": 1.2, "linestyle": ":"},
    CEILING: {"color": "#111827", "linewidth": 1.1, "linestyle": "-."},
    TEACHER_FORCED: {"color": "#059669", "linewidth": 1.8},
    AUTOREGRESSIVE: {"color": "#1d4ed8", "linewidth": 1.8},
    "unigram": {"color": "#9ca3af", "linewidth": 1.2},
}
TITLES = {RECONSTRUCTION: "against the tokenizer's reconstruction", ORIGINAL: "against the recorded video"}
MODEL_ROWS = {EXPECTED_CODE, LIKELY_TOKENS, SAMPLED_TOKENS, STILL_LATENTS, SAMPLED_LATENTS}
BANDS = MODEL_ROWS | {COPY_FRAME, TEACHER_FORCED, AUTOREGRESSIVE}
"""Rows whose interval is shaded; more would hide each other."""


def horizon_plot(result: Json, score: str, label: str) -> bytes:
    """A score over the future frames, one panel a reference.  score: "psnr" or "ssim"."""
    references = result["settings"]["references"]
    figure, panels = new_figure(len(references), height=3.6, share=False)
    for panel, reference in zip(panels, references):
        rows = [row for row in result["pixels"] if row["reference"] == reference]
        shown = [row for row in rows if row["name"] != CEILING or score != "psnr" or row["psnr_mean"]["mean"] < 60]
        for row in shown:
            _curve(panel, row["name"], row[f"{score}_per_frame"])
        title(panel, TITLES[reference])
        panel.set_xlabel("frames into the future")
        panel.set_ylabel(label)
        panel.set_xlim(1, result["settings"]["future_frames"])
        # Early frames of a still scene are near perfect; they would squeeze the horizon that is scored.
        if score == "psnr":
            means = [v["mean"] for row in shown for v in row["psnr_per_frame"]]
            panel.set_ylim(min(means) - 1, min(max(means), 45) + 1)
    legend_below(figure, panels)
    return png(figure)


def grid_plot(result: Json) -> bytes:
    """Cross-entropy and accuracy of every future grid."""
    figure, panels = new_figure(2, height=3.2)
    for panel, score, label in zip(panels, ("cross_entropy", "accuracy"), ("cross-entropy, nats", "accuracy")):
        for row in result["tokens"]:
            if row[f"{score}_per_grid"] is not None:
                _curve(panel, row["name"], row[f"{score}_per_grid"], marker="o", markersize=3.5)
        panel.set_xlabel("future grid")
        panel.set_ylabel(label)
        panel.set_xticks(range(1, result["settings"]["future_grids"] + 1))
    legend_below(figure, panels)
    return png(figure)


def difference_plot(result: Json) -> bytes:
    """Paired differences of the headline row to every other, with intervals: right of zero is better."""
    frames, span = result["settings"]["future_frames"], result["settings"]["headline_span"]
    where = f"frame {frames}" if span == SCORED_FRAME else f"frames 1–{frames}"
    figure, panels = new_figure(len(result["settings"]["references"]), height=2.5, share=True)
    for panel, reference in zip(panels, result["settings"]["references"]):
        wanted = ("psnr", reference, span)
        rows = [d for d in result["differences"] if (d["metric"], d["reference"], d["span"]) == wanted][::-1]
        _points(panel, [(row["second"], row["difference"]) for row in rows])
        panel.axvline(0, color=INK, linewidth=0.9, zorder=1)
        panel.set_xlabel(f"{result['headline']} minus the row, dB")
        title(panel, f"{where}, {TITLES[reference]}")
    figure.tight_layout()
    return png(figure)


def perceptual_plot(result: Json) -> bytes:
    """Distances of every row to the truth as networks see it, one panel a metric: left is better."""
    metrics = result["settings"]["perceptual"]
    figure, panels = new_figure(len(metrics), height=2.6, share=True)
    for panel, metric in zip(panels, metrics):
        _points(panel, [(r["name"], r["all_frames"]) for r in result["perceptual"] if r["metric"] == metric][::-1])
        panel.set_xlim(left=min(0, panel.get_xlim()[0]))
        panel.set_xlabel(f"{metric}, lower is better")
    figure.tight_layout()
    return png(figure)


def training_plot(records: list[Json]) -> bytes | None:
    """Training loss beside validation, by the names that the families log; None where nothing was logged."""
    panels_wanted = [
        (
            "cross-entropy, nats",
            [
                ("loss", "training"),
                ("val/ce_masked", "validation"),
                ("val/ce_teacher", TEACHER_FORCED),
                ("val/ce_auto", AUTOREGRESSIVE),
            ],
        ),
        (
            "accuracy",
            [
                ("accuracy", "training"),
                ("val/accuracy", "validation"),
                ("val/accuracy_teacher", TEACHER_FORCED),
                ("val/accuracy_auto", AUTOREGRESSIVE),
            ],
        ),
    ]
    if any("flow_mse" in r or "val/flow_mse" in r for r in records):
        panels_wanted = [
            ("squared error of the velocity", [("flow_mse", "training"), ("val/flow_mse", "validation")]),
            ("squared error of the latents", [("val/latent_mse", "validation"), ("val/latent_mse_copy", COPY_GRID)]),
        ]
    panels_wanted = [p for p in panels_wanted if any(r.get(key) is not None for r in records for key, _ in p[1])]
    if not panels_wanted:
        return None
    figure, panels = new_figure(len(panels_wanted), height=3.2)
    for panel, (label, series) in zip(panels, panels_wanted):
        for key, name in series:
            points = [(r["step"], r[key]) for r in records if r.get(key) is not None]
            if points:
                plain = {"color": "#1d4ed8", "linewidth": 1.8} if name == "validation" else {"color": "#9ca3af", "linewidth": 1.0}
                style, shown = STYLES.get(name, plain), name.replace("model", "validation")
                panel.plot(*zip(*points), label=shown, marker="o" if len(points) < 30 else "", markersize=3, **style)
        panel.set_xlabel("step")
        panel.set_ylabel(label)
    legend_below(figure, panels)
    return png(figure)


def new_figure(num_panels: int, *, height: float, share: bool = False) -> tuple[Any, Any]:
    """A figure in the style of the reports and its panels.  height: inches.  Raises ValueError without matplotlib."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("the report needs matplotlib: pip install 'humanoid-world-models[report]'") from None
    style: Any = {
        "font.size": 9,
        "axes.edgecolor": MUTED,
        "axes.labelcolor": INK,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": GRID,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
    }
    with rc_context(style):
        figure = Figure(figsize=(9.2 if num_panels > 1 else 5.6, height), dpi=170)
        panels = figure.subplots(1, num_panels, squeeze=False, sharey=share)[0]
    return figure, panels


def title(panel: Any, text: str) -> None:
    """Title of a panel."""
    panel.set_title(text, loc="left", fontsize=9.5, color=INK)


def _points(panel: Any, rows: list[tuple[str, Json]]) -> None:
    """A point with its interval for every row, the first row lowest."""
    for y, (name, value) in enumerate(rows):
        color = STYLES[name]["color"]
        if value["low"] is not None:
            panel.plot([value["low"], value["high"]], [y, y], color=color, linewidth=2.4, solid_capstyle="butt")
        panel.plot([value["mean"]], [y], "o", color=color, markersize=6)
    panel.set_yticks(range(len(rows)), [name for name, _ in rows])
    panel.set_ylim(-0.6, len(rows) - 0.4)
    panel.grid(axis="y", visible=False)


def _curve(panel: Any, name: str, values: list[Json], **more: Any) -> None:
    x, style = range(1, len(values) + 1), STYLES[name]
    panel.plot(x, [v["mean"] for v in values], label=name, **style, **more)
    if name in BANDS and values[0]["low"] is not None:
        low, high = [v["low"] for v in values], [v["high"] for v in values]
        panel.fill_between(x, low, high, color=style["color"], alpha=0.12, linewidth=0)


def legend_below(figure: Any, panels: Iterable[Any]) -> None:
    """One legend of all panels below them, each name once."""
    entries: dict[str, Any] = {}
    for panel in panels:
        for handle, name in zip(*panel.get_legend_handles_labels()):
            entries.setdefault(name, handle)
    width, height = figure.get_size_inches()
    columns = max(1, int(width / 2))  # an entry is at most about two inches wide
    rows = -(-len(entries) // columns)
    figure.tight_layout(rect=(0, 0.22 * rows / height + 0.01, 1, 1))
    figure.legend(
        entries.values(), entries.keys(), loc="lower center", ncols=columns, frameon=False, fontsize=8.5, labelcolor=INK
    )


def png(figure: Any) -> bytes:
    """The figure as PNG, the same bytes for the same figure."""
    data = io.BytesIO()
    figure.savefig(data, format="png", facecolor="white", metadata={"Software": None})
    return data.getvalue()
