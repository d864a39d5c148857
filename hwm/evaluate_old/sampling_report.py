"""results_sampling.json and report_sampling.html: the sampling protocol on one page, which loads nothing."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from hwm.evaluate_old import old_pictures as pictures
from hwm.evaluate_old import page, sampling_plots, sections
from hwm.evaluate_old.metrics import PSNR_CAP
from hwm.evaluate_old.old_report import environment, read_run
from hwm.evaluate_old.page import Json
from hwm.evaluate_old.results import COPY_FRAME, PERCEPTUAL_DIGITS
from hwm.evaluate_old.sampling_pictures import FULL_SCALE, panels
from hwm.evaluate_old.sampling_results import ONE_SAMPLE, FrameExample, SamplingResult, mean_of, permuted
from hwm.evaluate_old.sampling_table import cost_rows, verdict
from hwm.work.files import atomic_path

RESULTS, REPORT = "results_sampling.json", "report_sampling.html"


def write_sampling_report(
    out: str | Path, result: SamplingResult, *, run_folder: str | Path | None = None, command: str = ""
) -> Path:
    """Write `out`/results_sampling.json and `out`/report_sampling.html and return the page's path.

    run_folder: a run, whose config.toml and metrics.jsonl give the configuration and the training curves.
    command: what was called; default: the command line of this process.
    Raises ValueError where matplotlib is missing.
    """
    out = Path(out)
    config, training = read_run(Path(run_folder)) if run_folder is not None else ({}, [])
    record = {
        "verdict": verdict(result),
        **result.to_json(),
        "training": training,
        "config": config,
        "command": command or shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment(),
        "examples": [{"clip": e.clip, "psnr": e.psnr} for e in result.examples],
    }
    markup = render(record, result.examples, [] if result.cost is None else cost_rows(result.cost))
    # The JSON last: where it is, the page is.
    for name, text in ((REPORT, markup), (RESULTS, json.dumps(record, indent=1, allow_nan=False) + "\n")):
        with atomic_path(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return out / REPORT


def render(record: Json, examples: Sequence[FrameExample], costs: list[tuple[str, str]]) -> str:
    """The page as one string of HTML.  costs: what a prediction costs, in words."""
    recipe = record["config"].get("recipe", "")
    parts = [
        _header(record, recipe),
        _pictures(examples),
        _scores(record),
        _ensemble(record),
        _calibration(record),
        sections.cost(costs),
        sections.training(record),
        _method(record),
    ]
    return page.document(f"hwm sampling {recipe}".strip(), parts)


def _header(record: Json, recipe: str) -> str:
    rows, control = {row["name"]: row for row in record["rows"]}, record["control"]
    own, gaps = rows[record["headline"]], {(d["first"], d["second"], d["metric"]): d["difference"] for d in record["differences"]}
    copied = gaps[record["headline"], COPY_FRAME, "psnr"]
    states = gaps[mean_of(control), permuted(control), "psnr"]
    tiles = [
        ("PSNR at frame 76", page.number(own["psnr"], 2, " dB"), "copying " + page.number(rows[COPY_FRAME]["psnr"], 2, " dB")),
        ("over copying", page.number(copied, 2, " dB", sign=True), page.interval(copied, 2)),
        ("over permuted states", page.number(states, 2, " dB", sign=True), page.interval(states, 2)),
    ]
    if record["headline"] != ONE_SAMPLE:
        gain = gaps[record["headline"], ONE_SAMPLE, "psnr"]
        tiles.append(("over one sample", page.number(gain, 2, " dB", sign=True), page.interval(gain, 2)))
    tiles.append(("sharpness (truth: 1)", page.number(own["sharpness"], 2, ""), _sample_sharpness(rows)))
    cells = "".join(
        f"<div><dt>{page.text(a)}</dt><dd>{b}</dd><dd class=small>{page.text(c)}</dd></div>" for a, b, c in tiles
    )
    kicker = " · ".join(["Sampling track", recipe] if recipe else ["Sampling track"])
    return (
        f"<header><p class=kicker>{page.text(kicker)}</p><h1>{page.text(record['verdict'][0])}</h1>"
        f"<p class=lead>{page.text(' '.join(record['verdict'][1:]))}</p><dl class=tiles>{cells}</dl></header>"
    )


def _sample_sharpness(rows: Json) -> str:
    return f"{ONE_SAMPLE} " + page.number(rows[ONE_SAMPLE]["sharpness"], 2, "")


def _pictures(examples: Sequence[FrameExample]) -> str:
    if not examples:
        return ""
    about = (
        "From each equal part of the clips the one whose frame 76 differs most from frame 16, whatever the model made of it. "
        "Frame 16 is the last that was seen and what copying predicts. Spread: how much the samples differ; error: of the "
        f"mean. Both from violet, none, to yellow, {FULL_SCALE} levels of 255 and more."
    )
    shown = [panels(example) for example in examples]
    head = "".join(f"<th>{page.text(name)}</th>" for name in shown[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{_picture(picture, psnr)}</td>" for picture, psnr in row.values()) + "</tr>" for row in shown
    )
    return page.section("Frame 76", about, f"<table class=strip><tr>{head}</tr>{body}</table>")


def _picture(picture: np.ndarray, psnr: float | None) -> str:
    note = "&nbsp;" if psnr is None else f"{psnr:.2f} dB"
    return f'<img alt="" src="data:image/jpeg;base64,{page.encoded(pictures.jpeg(picture, 92))}"><span class=note>{note}</span>'


def _scores(record: Json) -> str:
    metrics = record["settings"]["perceptual"]
    about = (
        "Mean over clips of frame 76 against the recorded frame, with 95 % intervals over segments. GMSD: gradient magnitude "
        "similarity deviation, lower is better. Sharpness: gradient energy over the truth's; noise counts as detail. Other "
        f"states: {mean_of(record['control'])} with the states of another segment's clip, and with neutral ones."
    )
    head = ["row", "PSNR, dB", "pooled", "SSIM", "GMSD", "sharpness", *metrics]
    body = [
        (
            row["name"],
            page.cell(row["psnr"], 2),
            f"{row['pooled_psnr']:.2f}",
            *(page.number(row[key], 3, "") for key in ("ssim", "gmsd", "sharpness")),
            *(page.number(row["perceptual"][metric], PERCEPTUAL_DIGITS[metric], "") for metric in metrics),
        )
        for row in sorted(record["rows"], key=lambda row: -row["psnr"]["mean"])
    ]
    differences = [
        (
            f"{d['first']} minus {d['second']}",
            "PSNR, dB" if d["metric"] == "psnr" else d["metric"],
            page.cell(d["difference"], 2 if d["metric"] == "psnr" else 3, sign=True),
        )
        for d in record["differences"]
        if d["metric"] not in metrics
    ]
    tables = page.table("Scores", head, body, strong=record["headline"])
    tables += page.table("Paired differences over clips", ["rows", "score", "difference"], differences)
    return page.section("Scores", about, tables)


def _ensemble(record: Json) -> str:
    if len(record["sizes"]) < 2:
        return ""
    about = (
        "The mean of N samples is the first N of the largest ensemble. Independent samples make its squared error a floor plus "
        "a variance over N; the limit is what averaging cannot exceed."
    )
    return page.section("Averaging samples", about, page.image(sampling_plots.ensemble_plot(record), "PSNR against N"))


def _calibration(record: Json) -> str:
    found = record["calibration"]
    if found is None:
        return ""
    ratio = "infinite" if found["error_to_spread"] is None else f"{found['error_to_spread']:.2f}"
    about = (
        "Whether the spread of the samples tells where their mean is wrong. On the diagonal of the reliability curve error "
        "is what the spread predicts; removing the most uncertain pixels should lower the error of the rest; the truth should "
        "fall on every rank among the samples equally often."
    )
    facts = {
        "error over predicted error": f"{ratio} (1 is calibrated, above is overconfident)",
        "rank correlation, pixels": f"{found['pixel_correlation']:.3f}",
        "rank correlation, clips": f"{found['clip_correlation']:.3f}",
        "area to the best order": f"{found['ause']:.3f}, without order {found['ause_random']:.3f}",
        "expected calibration error": f"{found['expected_calibration_error']:.2f} levels of 255",
    }
    plot = page.image(sampling_plots.calibration_plot(record), "Reliability, sparsification and ranks")
    return page.section("Does it know where it is guessing", about, plot + page.facts(facts))


def _method(record: Json) -> str:
    s, tuning = record["settings"], record["tuning"]
    own = "the model's own: " if s["own_sampling"] else ""
    way = f"every {s['frame_step']}th frame, in one prediction" if s["frame_step"] > 1 else "by rollout"
    blend = "" if tuning["tolerance"] is None else f", tolerance of the blend {tuning['tolerance']:g} levels"
    sizes = [" x ".join(map(str, s[key])) for key in ("recorded_size", "image_size", "score_size")]
    rows = {
        "command": record["command"],
        "protocol": f"17 frames seen, 77 states given, frame 76 predicted ({way}) and scored as 8-bit RGB",
        "clips": f"{s['num_clips']} of 77 frames that share none, evenly spread over the data"
        + ("" if s["num_segments"] is None else f", from {s['num_segments']} segments"),
        "sizes": f"recorded {sizes[0]}, predicted at {sizes[1]}, scored at {sizes[2]}",
        "headline": f"{record['headline']} (chosen beforehand)",
        "tuned": f"on {tuning['num_clips']} clips, {tuning['source']}: blur of a sample {tuning['sigma_sample']:g} pixels, "
        f"of the copy {tuning['sigma_copy']:g}{blend}",
        "sampling": f"{own}temperature {s['sampling']['temperature']}, top-k {s['sampling']['top_k']}, "
        f"top-p {s['sampling']['top_p']}",
        "seed": str(s["seed"]),
        "tokenizer": f"{s['tokenizer']} ({s['tokenizer_fingerprint'][:16]})",
        "states zeroed": "every row replaced by the state that the model's normalisation maps to zero",
        "states permuted": "each clip gets the states of a clip of another segment",
        "intervals": f"{s['confidence']:.0%}, bootstrap over segments (clips where segments are unknown)",
        "pictures": f"PSNR of identical pictures counts as {PSNR_CAP:g} dB; SSIM with a 7x7 uniform window",
        "time": ", ".join(f"{name} {value:.1f} s" for name, value in record["seconds"].items()),
        "written": record["written"],
        **record["environment"],
    }
    config = page.text(json.dumps(record["config"], indent=1))
    details = page.details("Configuration of the run", f"<pre>{config}</pre>") if record["config"] else ""
    return page.section("How this was measured", "", page.facts(rows) + details)
