"""Curves of the sampling protocol as PNG pictures, drawn from the plain values in results_sampling.json."""

from __future__ import annotations

from hwm.evaluate_old.old_plots import INK, MUTED, legend_below, new_figure, png, title
from hwm.evaluate_old.page import Json
from hwm.evaluate_old.results import COPY_FRAME
from hwm.evaluate_old.sampling_results import STILL
from hwm.evaluate_old.tuning import Saturation

ACCENT, OTHER, THIRD = "#1d4ed8", "#d97706", "#be185d"


def ensemble_plot(record: Json) -> bytes:
    """PSNR of the mean against its number of members with the fitted saturation, and against its sharpness."""
    sizes, rows = record["sizes"], {row["name"]: row for row in record["rows"]}
    numbers = [point["num_members"] for point in sizes]
    psnr = [point["psnr"]["mean"] for point in sizes]
    figure, (left, right) = new_figure(2, height=3.5)
    left.plot(numbers, psnr, "o-", color=ACCENT, markersize=4, label="mean of N samples")
    if all(point["psnr"]["low"] is not None for point in sizes):
        low, high = ([point["psnr"][end] for point in sizes] for end in ("low", "high"))
        left.fill_between(numbers, low, high, color=ACCENT, alpha=0.12, linewidth=0)
    pooled = [point["pooled_psnr"] for point in sizes]
    left.plot(numbers, pooled, "o", color=MUTED, markersize=3.5, label="the same, pooled over clips")
    fit = record["saturation"]
    if fit is not None:
        fine = [numbers[0] * (numbers[-1] / numbers[0]) ** (i / 60) for i in range(61)]
        saturation = Saturation(fit["floor"], fit["variance"])
        curve = [saturation.psnr_at(n) for n in fine]
        left.plot(fine, curve, color=MUTED, linewidth=1, label="fit: pooled error = floor + variance / N")
        if not saturation.clipped:
            left.axhline(saturation.psnr_limit, color=MUTED, linewidth=1, linestyle="--", label="limit of the fit")
    left.axhline(rows[COPY_FRAME]["psnr"]["mean"], color=OTHER, linewidth=1.4, label=COPY_FRAME)
    left.set_xscale("log")
    left.set_xticks(numbers, [str(n) for n in numbers])
    left.minorticks_off()
    left.set_xlabel("samples averaged")
    left.set_ylabel("PSNR, dB")
    title(left, "PSNR against samples averaged")

    sharp = [point["sharpness"]["mean"] for point in sizes]
    right.plot(sharp, psnr, "o-", color=ACCENT, markersize=4)
    for number, x, y in zip(numbers, sharp, psnr):
        right.annotate(str(number), (x, y), textcoords="offset points", xytext=(5, 3), fontsize=7.5, color=MUTED)
    others = [row for row in record["rows"] if row["name"].startswith(("medoid", "blend", "one sample,", STILL))]
    for row, marker in zip(others, "^DsPvX*"):
        right.plot(row["sharpness"]["mean"], row["psnr"]["mean"], marker, color=THIRD, markersize=6, label=row["name"])
    right.plot(rows[COPY_FRAME]["sharpness"]["mean"], rows[COPY_FRAME]["psnr"]["mean"], "o", color=OTHER, label=COPY_FRAME)
    right.set_xlabel("gradient energy over the truth's (1: as sharp)")
    right.set_ylabel("PSNR, dB")
    title(right, "PSNR against sharpness")
    legend_below(figure, (left, right))
    return png(figure)


def calibration_plot(record: Json) -> bytes:
    """Predicted against real error, error left when the most uncertain pixels are removed, and ranks of the truth."""
    found = record["calibration"]
    figure, (reliability, sparsification, ranks) = new_figure(3, height=3.2)
    top = 1.05 * max(*found["predicted"], *found["rmse"], 1)
    reliability.plot([0, top], [0, top], color=MUTED, linewidth=1, linestyle="--", label="calibrated")
    reliability.plot(found["predicted"], found["rmse"], "o-", color=ACCENT, markersize=3.5, label="ensemble")
    reliability.set_xlim(0, 1.05 * max(*found["predicted"], 1))
    reliability.set_ylim(0, top)
    reliability.set_xlabel("error that the spread predicts, levels")
    reliability.set_ylabel("real error, levels")
    title(reliability, "reliability")

    removed = [100 * fraction for fraction in found["fractions"]]
    styles = {
        "random": ("any pixels removed", {"color": MUTED, "linewidth": 1, "linestyle": "--"}),
        "sparsification": ("most uncertain removed", {"color": ACCENT, "linewidth": 2}),
        "oracle": ("most wrong removed", {"color": INK, "linewidth": 1, "linestyle": ":"}),
    }
    for key, (name, style) in styles.items():
        sparsification.plot(removed, [value**0.5 for value in found[key]], label=name, **style)
    sparsification.set_ylim(bottom=0)
    sparsification.set_xlabel("pixels removed, %")
    sparsification.set_ylabel("error of the rest, levels")
    title(sparsification, "sparsification")

    ranks.bar(range(len(found["ranks"])), [100 * share for share in found["ranks"]], color=ACCENT, width=0.85)
    ranks.set_xticks(sorted({round(i * (len(found["ranks"]) - 1) / 5) for i in range(6)}))
    ranks.axhline(100 / len(found["ranks"]), color=MUTED, linewidth=1, linestyle="--")
    ranks.set_xlabel("samples below the truth")
    ranks.set_ylabel("pixels, %")
    title(ranks, "rank of the truth")
    legend_below(figure, (reliability, sparsification, ranks))
    return png(figure)

