"""The tables of the sampling experiment as plain text, and what they say in sentences."""

from __future__ import annotations

from typing import Any

from hwm.evaluate_old.results import COPY_FRAME, PERCEPTUAL_DIGITS
from hwm.evaluate_old.sampling_results import mean_of
from hwm.experiments import pages

Json = dict[str, Any]
Cells = tuple[list[str], list[list[str]]]
BLOCKS = {
    1: "trained without condition dropout",
    2: "trained with condition dropout",
    3: "the same, more solver steps",
}
SLASH = "\u00a0/\u00a0"
"""Between the scores of one sample and of the mean, which stay on one line."""
PUBLISHED = "1X validation and test clips at 512x512, Wan2.2 TI2V-5B; not comparable with ours"


def value(found: Json, digits: int, *, sign: bool = False) -> str:
    """A mean with its interval in brackets."""
    if found["mean"] is None:
        return "–"
    inside = "" if found["low"] is None else f" [{found['low']:.{digits}f}, {found['high']:.{digits}f}]"
    return f"{found['mean']:{'+' if sign else ''}.{digits}f}{inside}"


def name_of(row: Json) -> str:
    """A row of Table 2 in words: steps and samples."""
    samples = f"{row['samples']} sample{'s' if row['samples'] > 1 else ''}"
    guidance = "" if row["guidance"] is None else f", guidance {row['guidance']:.1f}"
    return ", ".join([*([] if row["steps"] is None else [f"{row['steps']} steps"]), samples]) + guidance


def ours(record: Json) -> Cells:
    """Our Table 2, then copying the last frame."""
    metrics = record["settings"]["perceptual"]
    head = ["ours", "block", "PSNR, dB", "pooled", "SSIM", "GMSD", "sharpness", *metrics, "s a clip"]
    rows = [[name_of(row), str(row["block"]), *_scores(row, metrics), f"{row['seconds']:.2f}"] for row in record["rows"]]
    return head, [*rows, [COPY_FRAME, "", *_scores(record["copy"], metrics), ""]]


def _scores(row: Json, metrics: list[str]) -> list[str]:
    return [
        value(row["psnr"], 2),
        f"{row['pooled_psnr']:.2f}",
        *(f"{row[key]['mean']:.3f}" for key in ("ssim", "gmsd", "sharpness")),
        *(f"{row['perceptual'][metric]['mean']:.{PERCEPTUAL_DIGITS[metric]}f}" for metric in metrics),
    ]


def published(record: Json) -> Cells:
    """The rows of the report's Table 2."""
    head = ["published", "block", "val. PSNR, dB", "test PSNR, dB", "val. SSIM", "val. LPIPS", "val. FID", "remark"]
    rows = []
    for row in record["published"]:
        numbers = [f"{row['val_psnr']:.2f}", f"{row['test_psnr']:.2f}", f"{row['val_ssim']:.3f}", f"{row['val_lpips']:.3f}"]
        rows.append([name_of(row), str(row["block"]), *numbers, f"{row['val_fid']:.2f}", row["remark"]])
    return head, rows


def families(record: Json) -> Cells:
    """Every run at frame 76."""
    samples = record["settings"]["samples"]
    head = [
        "run",
        "PSNR of 1, dB",
        f"of {samples}, dB",
        "over copying, dB",
        "over permuted states, dB",
        f"SSIM 1 / {samples}",
        f"GMSD 1 / {samples}",
        f"sharpness 1 / {samples}",
    ]
    rows = []
    for row in record["families"]:
        both = [f"{row['one'][key]['mean']:.3f}{SLASH}{row['mean'][key]['mean']:.3f}" for key in ("ssim", "gmsd", "sharpness")]
        other = "" if row["over_copy_of"] == mean_of(samples) else f" ({row['over_copy_of']})"
        gain = value(row["over_copy"], 2, sign=True)
        rows.append(
            [
                row["label"],
                value(row["one"]["psnr"], 2),
                value(row["mean"]["psnr"], 2),
                gain.replace(" [", f"{other} [", 1) if " [" in gain else gain + other,
                value(row["over_permuted"], 2, sign=True),
                *both,
            ]
        )
    copied = record["copy"]
    same = [f"{copied[key]['mean']:.3f}" for key in ("ssim", "gmsd", "sharpness")]
    return head, [*rows, [COPY_FRAME, value(copied["psnr"], 2), "", "", "", *same]]


def alternatives(record: Json) -> Cells:
    """What can be made of the samples of the studied run, best PSNR first."""
    found = record["study"]["results"]
    rows = sorted((row for row in found["rows"] if ", states " not in row["name"]), key=lambda row: -row["psnr"]["mean"])
    metrics = record["settings"]["perceptual"]
    return ["frame 76", "PSNR, dB", "pooled", "SSIM", "GMSD", "sharpness", *metrics], [
        [row["name"], *_scores(row, metrics)] for row in rows
    ]


def costs(record: Json) -> Cells:
    """Size and time of every run, and true against zeroed and permuted states."""
    samples = record["settings"]["samples"]
    head = ["run", "parameters, M", "s for 1 sample", f"s for {samples}"]
    head += ["states: mean of", "true over permuted, dB", "true over zeroed, dB"]
    rows = []
    for row in record["families"]:
        sizes = [f"{row['parameters'] / 1e6:.2f}", f"{row['seconds_one']:.2f}", f"{row['seconds']:.2f}", str(row["control"])]
        rows.append([row["label"], *sizes, *(value(row[key], 2, sign=True) for key in ("over_permuted", "over_zeroed"))])
    return head, rows


def missing(record: Json) -> list[str]:
    """Which blocks there are no runs for, in sentences."""
    there = {row["block"] for row in record["rows"]}
    sentences = []
    if 1 not in there:
        sentences.append("Block 1 is left out: no run of a Wan model trained without condition dropout was given.")
    if 2 not in there:
        sentences.append("Blocks 2 and 3 are left out: no run of a Wan model trained with condition dropout was given.")
    return sentences


def verdict(record: Json) -> list[str]:
    """What our rows say, each beside what the published ones say."""
    rows = {row["published"]: row["psnr"]["mean"] for row in record["rows"]}
    paper = [row["val_psnr"] for row in record["published"]]
    samples, steps = record["settings"]["samples"], record["settings"]["many_steps"]
    sentences = []
    for first, second, what in (
        (2, 0, f"Averaging {samples} samples instead of one changes PSNR by"),
        (6, 5, f"{steps} steps instead of 20 at guidance 1.5 by"),
        (5, 4, "guidance 1.5 instead of 2.0 by"),
        (7, 6, f"no guidance instead of 1.5 at {steps} steps by"),
    ):
        if first in rows and second in rows:
            gain, printed = rows[first] - rows[second], paper[first] - paper[second]
            sentences.append(f"{what[0].upper() + what[1:]} {gain:+.2f} dB (published rows: {printed:+.2f}).")
    fit = record["study"]["results"]["saturation"]
    if fit is not None and not fit["clipped"]:
        limit, run = fit["psnr_limit"], record["study"]["run"]
        sentences.append(f"By the fit of 1 / N averaging ends at a pooled PSNR of {limit:.2f} dB ({run}).")
    return sentences


def curves(record: Json) -> list[tuple[str, Cells]]:
    """The points of the curves: samples, steps, guidance."""
    found = []
    sizes = record["study"]["results"]["sizes"]
    head = ["PSNR, dB", "GMSD", "sharpness"]

    def cells(point: Json) -> list[str]:
        return [value(point["psnr"], 2), f"{point['gmsd']['mean']:.3f}", f"{point['sharpness']['mean']:.3f}"]

    found.append(
        (f"samples averaged, {record['study']['run']}", (["samples", *head], [[str(p["num_members"]), *cells(p)] for p in sizes]))
    )
    half, samples = record["settings"]["half"], record["settings"]["samples"]
    if record["steps"]["points"]:
        rows = [[str(p["steps"]), *cells(p["mean"]), value(p["one"]["psnr"], 2)] for p in record["steps"]["points"]]
        title = f"solver steps, {record['steps']['run']}, mean of {half}"
        found.append((title, (["steps", *head, "one sample: PSNR, dB"], rows)))
    if record["guidance"]["points"]:
        rows = [
            [f"{p['guidance']:g}, {p['steps']} steps", *cells(p["mean"]), value(p["one"]["psnr"], 2)]
            for p in record["guidance"]["points"]
        ]
        title = f"guidance, {record['guidance']['run']}, mean of {samples}"
        found.append((title, (["guidance", *head, "one sample: PSNR, dB"], rows)))
    return found


def markdown(record: Json) -> str:
    """All tables."""
    settings = record["settings"]
    parts = [
        "## Table 2 of the Revontuli report, on our data",
        f"{settings['data']}; scored on {settings['num_clips']} clips of unseen rooms, seed {settings['seed']}; PSNR of frame 76 "
        "against the recorded picture, mean over clips [95 % interval]",
        *missing(record),
        pages.markdown_table(*ours(record)),
        f"Published: {PUBLISHED}",
        pages.markdown_table(*published(record)),
        " ".join(verdict(record)),
        "## All families at frame 76",
        pages.markdown_table(*families(record)),
        pages.markdown_table(*costs(record)),
    ]
    for title, cells in (*curves(record), ("what to make of the samples", alternatives(record))):
        parts += [f"### {title[0].upper() + title[1:]}", pages.markdown_table(*cells)]
    return "\n\n".join(part for part in parts if part)


