"""Results in words and in plain text for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from hwm.evaluate.intervals import Interval
from hwm.evaluate_old.results import (
    AUTOREGRESSIVE,
    COPY_FRAME,
    PERCEPTUAL_DIGITS,
    PERMUTED,
    RECONSTRUCTION,
    SCORED_FRAME,
    Cost,
    EvaluationResult,
)


def verdict(result: EvaluationResult) -> list[str]:
    """What the numbers say about the headline row, in three plain sentences: outcome, use of the states, evidence."""
    settings, frames, span = result.settings, result.settings["future_frames"], result.settings["headline_span"]
    row = result.pixel_row(result.headline)
    gain, states = (
        result.difference(result.headline, other, metric="psnr", span=span, reference=RECONSTRUCTION).difference
        for other in (COPY_FRAME, PERMUTED)
    )
    start = f"{frames} frames ahead the prediction" if span == SCORED_FRAME else f"Over {frames} frames the prediction"
    segments = "" if settings["num_segments"] is None else f" from {settings['num_segments']} segments"
    evidence = (
        f"It reaches {row.psnr(span).mean:.2f} dB against the tokenizer's reconstruction of the truth, "
        f"over {settings['num_clips']} clips{segments}."
    )
    return [over_copying(start, gain), use_of_states("it", states), evidence]


def over_copying(what: str, gain: Interval) -> str:
    """A sentence on the difference in dB to repeating the last frame.  what: its subject."""
    if gain.low is None:
        return f"{what} differs by {gain.mean:+.2f} dB from repeating the last frame; one segment gives no interval."
    if not gain.excludes_zero():
        return f"{what} is not shown to differ from repeating the last frame: {size(gain)}."
    return f"{what} {'beats' if gain.mean > 0 else 'loses to'} repeating the last frame by {size(gain)}."


def use_of_states(what: str, loss: Interval) -> str:
    """A sentence on the loss in dB with another clip's states.  what: its subject."""
    start = f"Given another clip's states {what} scores"
    if loss.excludes_zero() and loss.mean > 0:
        return f"{start} lower by {size(loss)}: it uses the states."
    if loss.excludes_zero():
        return f"{start} higher by {size(loss)}: the states mislead it."
    return f"{start} lower by {size(loss)}: use of the states is not shown."


def size(value: Interval) -> str:
    """The size of a difference; one that excludes zero is given without its sign: "1.23 dB (95 % interval 0.90 to 1.60)"."""
    if value.low is None or value.high is None:
        return f"{value.mean:+.2f} dB (no interval)"
    if not value.excludes_zero():
        return f"{value.mean:+.2f} dB (95 % interval {value.low:+.2f} to {value.high:+.2f})"
    low, high = sorted((abs(value.low), abs(value.high)))
    return f"{abs(value.mean):.2f} dB (95 % interval {low:.2f} to {high:.2f})"


def text_table(result: EvaluationResult) -> str:
    """The scores as text of about 100 columns: pictures against every reference, tokens, networks, differences, cost."""
    horizon, span = result.settings["future_frames"], result.settings["headline_span"]
    blocks = []
    for reference in result.settings["references"]:
        pictures = [
            (
                row.name + (" *" if row.name == result.headline else ""),
                number(row.psnr_scored, 2),
                number(row.psnr_mean, 2),
                number(row.ssim_scored, 3),
            )
            for row in sorted(result.pixels, key=lambda row: -row.psnr(span).mean)
            if row.reference == reference
        ]
        head = (f"against the {reference}", f"PSNR frame {horizon}", f"PSNR frames 1-{horizon}", f"SSIM frame {horizon}")
        blocks.append(align([head, *pictures]))
    if result.tokens:
        blocks.append(align([("tokens", "cross-entropy, nats", "accuracy"), *_token_rows(result)]))
    metrics = result.settings["perceptual"]
    if metrics:
        scores = {(row.name, row.metric): number(row.all_frames, PERCEPTUAL_DIGITS[row.metric]) for row in result.perceptual}
        names = list(dict.fromkeys(row.name for row in result.perceptual))
        titles = ("as networks see it, lower is better", *(f"{metric} frames 1-{horizon}" for metric in metrics))
        blocks.append(align([titles, *((name, *(scores[name, metric] for metric in metrics)) for name in names)]))
    blocks.append(align(_difference_rows(result)))
    if result.cost is not None:
        blocks.append(align([("cost of a prediction", ""), *cost_rows(result.cost)]))
    return "\n\n".join(blocks) + "\n\n" + "\n".join(verdict(result))


def cost_rows(cost: Cost) -> list[tuple[str, str]]:
    """Names and values of what a prediction costs, in words."""
    peak = "-" if cost.peak_bytes is None else f"{cost.peak_bytes / 2**20:.1f} MiB"
    return [
        ("parameters", f"{cost.parameters:,}"),
        ("weights", f"{cost.weight_bytes / 2**20:.1f} MiB"),
        ("predictions a second", f"{cost.samples_per_second:.2f}"),
        ("predictions a second, decoded", f"{cost.samples_per_second_decoded:.2f}"),
        ("peak memory of prediction", f"{peak} ({cost.peak_meaning})"),
        ("measured on", f"{cost.device}, {cost.batch_size} clips at a time, median of {cost.repeats}"),
    ]


def _token_rows(result: EvaluationResult) -> list[tuple[str, str, str]]:
    rows = [(t.name, number(t.cross_entropy, 3), number(t.accuracy, 3)) for t in result.tokens]
    if result.coverage is not None:
        floor = next(row for row in result.top_k if row.policy == "floor")
        top = f"{AUTOREGRESSIVE}, top {result.settings['top_k']} (floor)"
        rows.append((top, number(floor.cross_entropy, 3), f"coverage {result.coverage.mean:.4f}"))
    return rows


def _difference_rows(result: EvaluationResult) -> list[tuple[str, str, str]]:
    """The headline row minus the others: PSNR over the span of the verdict."""
    horizon, span = result.settings["future_frames"], result.settings["headline_span"]
    where = f"frame {horizon}" if span == SCORED_FRAME else f"frames 1-{horizon}"
    rows = [
        (f"  {d.second}", number(d.difference, 2, sign=True), "-" if d.share_higher is None else f"{d.share_higher:.0%}")
        for d in result.differences
        if (d.metric, d.reference, d.span) == ("psnr", RECONSTRUCTION, span)
    ]
    return [(f"{result.headline} minus ({where}, reconstruction)", "dB", "clips higher"), *rows]


def number(value: Interval | None, digits: int, *, sign: bool = False) -> str:
    """A mean with its interval: "1.23 [0.90, 1.60]"."""
    if value is None:
        return "-"
    form = f"{'+' if sign else ''}.{digits}f"
    return f"{value.mean:{form}}" + ("" if value.low is None else f" [{value.low:{form}}, {value.high:{form}}]")


def align(rows: Sequence[tuple[str, ...]]) -> str:
    """Rows in columns, the first one underlined."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
