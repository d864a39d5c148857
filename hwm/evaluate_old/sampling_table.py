"""Results of the sampling protocol in words and as text for the terminal."""

from __future__ import annotations

from hwm.evaluate_old.old_table import align, number, over_copying, size, use_of_states
from hwm.evaluate_old.results import COPY_FRAME, PERCEPTUAL_DIGITS
from hwm.evaluate_old.sampling_results import ONE_SAMPLE, SamplingCost, SamplingResult, mean_of, permuted


def verdict(result: SamplingResult) -> list[str]:
    """What the numbers say in plain sentences: outcome, use of the states, gain of the ensemble, evidence."""
    settings, row, control = result.settings, result.row(result.headline), result.control
    gain = result.difference(result.headline, COPY_FRAME).difference
    loss = result.difference(mean_of(control), permuted(control)).difference
    segments = "" if settings["num_segments"] is None else f" from {settings['num_segments']} segments"
    sentences = [
        over_copying(f"Two seconds ahead {_the(result.headline)}", gain),
        use_of_states(_the(mean_of(control)), loss),
        f"It reaches {row.psnr.mean:.2f} dB (pooled {row.pooled_psnr:.2f}) at frame 76, over {settings['num_clips']} clips"
        f"{segments}.",
    ]
    if result.headline != ONE_SAMPLE:
        ensemble = result.difference(result.headline, ONE_SAMPLE).difference
        sharp = f"{row.sharpness.mean:.0%} of the truth's sharpness"
        sentences.append(f"Averaging gains {size(ensemble)} over {ONE_SAMPLE}, at {sharp}.")
    return sentences


def _the(row: str) -> str:
    return f"the {row}" if row != ONE_SAMPLE else row


def text_table(result: SamplingResult) -> str:
    """The scores as text: rows from the best PSNR down, paired differences, cost, verdict."""
    metrics = result.settings["perceptual"]
    head = ("frame 76", "PSNR, dB", "pooled", "SSIM", "GMSD", "sharpness", *metrics)
    body = [
        (
            row.name + (" *" if row.name == result.headline else ""),
            number(row.psnr, 2),
            f"{row.pooled_psnr:.2f}",
            *(f"{value.mean:.3f}" for value in (row.ssim, row.gmsd, row.sharpness)),
            *(f"{row.perceptual[metric].mean:.{PERCEPTUAL_DIGITS[metric]}f}" for metric in metrics),
        )
        for row in sorted(result.rows, key=lambda row: -row.psnr.mean)
    ]
    differences = [
        (f"{d.first} minus {d.second}", number(d.difference, 2, sign=True), f"{d.share_higher:.0%}")
        for d in result.differences
        if d.metric == "psnr"
    ]
    blocks = [align([head, *body]), align([("paired differences", "PSNR, dB", "clips higher"), *differences])]
    if result.cost is not None:
        blocks.append(align([("cost of a predicted picture", ""), *cost_rows(result.cost)]))
    return "\n\n".join(blocks) + "\n\n" + "\n".join(verdict(result))


def cost_rows(cost: SamplingCost) -> list[tuple[str, str]]:
    """Names and values of what a prediction costs, in words."""
    peak = "-" if cost.peak_bytes is None else f"{cost.peak_bytes / 2**20:.1f} MiB"
    return [
        ("parameters", f"{cost.parameters:,}"),
        ("weights", f"{cost.weight_bytes / 2**20:.1f} MiB"),
        ("one sample", f"{cost.seconds_one:.3f} s"),
        (f"{cost.ensemble} samples", f"{cost.seconds_ensemble:.3f} s"),
        ("peak memory of these", f"{peak} ({cost.peak_meaning})"),
        ("measured on", f"{cost.device}, one clip, {cost.members_at_once} samples at a time, encoding and decoding included"),
    ]
