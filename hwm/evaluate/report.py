"""results.json and report.html of an evaluation: one file with curves, tables and videos, readable anywhere.

The page is made from results.json alone, plus the pictures; it loads nothing and runs no script.
"""

from __future__ import annotations

import base64
import html
import json
import platform
import shlex
import sys
import tomllib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import hwm
from hwm.data.files import atomic_path
from hwm.evaluate import pictures, plots
from hwm.evaluate.results import AUTOREGRESSIVE, ORIGINAL, PERMUTED, RECONSTRUCTION, CompressionResult, Example
from hwm.evaluate.table import verdict

Json = dict[str, Any]
MAX_TRAINING_POINTS = 400
"""Training records kept for the curves; more cannot be told apart."""


def write_report(
    out: str | Path, result: CompressionResult, *, run_folder: str | Path | None = None, command: str = ""
) -> Path:
    """Write `out`/results.json and `out`/report.html and return the page's path.

    run_folder: a run, whose config.toml and metrics.jsonl give the configuration and the training curves.
    command: what was called; default: the command line of this process.
    Raises ValueError where matplotlib is missing.
    """
    out = Path(out)
    config, training = _read_run(Path(run_folder)) if run_folder is not None else ({}, [])
    record = {
        "verdict": verdict(result),
        **result.to_json(),
        "training": training,
        "config": config,
        "command": command or shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment(),
        "examples": [
            {"clip": e.clip, "psnr": e.psnr, "psnr_copy": e.psnr_copy, "gain": e.psnr - e.psnr_copy} for e in result.examples
        ],
    }
    page = render(record, result.examples)
    for name, text in (("results.json", json.dumps(record, indent=1, allow_nan=False) + "\n"), ("report.html", page)):
        with atomic_path(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return out / "report.html"


def environment() -> dict[str, str]:
    """Versions and hardware that the numbers were made with."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    return {
        "hwm": hwm.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": device,
    }


def render(record: Json, examples: list[Example]) -> str:
    """The page as one string of HTML."""
    settings = record["settings"]
    recipe, recorded = record["config"].get("recipe", ""), ORIGINAL in settings["references"]
    sections = [
        f"<header><p class=kicker>{_text(' · '.join(['Evaluation', recipe] if recipe else ['Evaluation']))}</p>"
        f"<h1>{_text(record['verdict'][0])}</h1>"
        f"<p class=lead>{_text(' '.join(record['verdict'][1:]))}</p>{_tiles(record)}</header>",
        _section(
            "Predictions",
            f"Clips are chosen by how much their recorded future moves: from each {_ordinal(len(examples))} of the "
            f"evaluated clips the one that moves most, whatever the model made of it. The context panel stops at its "
            f"last frame, which is what copying predicts. Error: black is none, white a difference of "
            f"{pictures.FULL_ERROR} of 255 or more. The bar below is grey in the past and blue in the future.",
            f"<div class=videos>{''.join(_video(example) for example in examples)}</div>",
        )
        if examples
        else "",
        _section("One clip, frame by frame", "", _film_strip(max(examples, key=_motion))) if examples else "",
        _section(
            "Quality over the horizon",
            "Mean over clips with 95 % intervals over segments. Against the reconstruction, baselines pass through "
            "the same tokenizer" + ("; against the recorded video they start from recorded frames." if recorded else "."),
            _image(plots.horizon_plot(record, "psnr", "PSNR, dB"), "PSNR over the future frames")
            + _image(plots.horizon_plot(record, "ssim", "SSIM"), "SSIM over the future frames")
            + "".join(_pixel_table(record, reference) for reference in settings["references"]),
        ),
        _section(
            "Against every baseline, clip by clip",
            "Paired differences: what makes a clip easy or hard cancels. Right of zero the model is better.",
            _image(plots.difference_plot(record), "Paired differences in PSNR with intervals") + _difference_table(record),
        ),
        _section(
            "Tokens",
            f"Teacher-forced, the model sees the true grids before the one it predicts; autoregressive, its own. A "
            f"uniform guess over {settings['vocab_size']} ids costs {settings['uniform_cross_entropy']:.2f} nats.",
            _image(plots.grid_plot(record), "Cross-entropy and accuracy of every future grid")
            + _token_table(record)
            + _topk_table(record),
        ),
        _training(record),
        _method(record),
    ]
    style = (Path(__file__).parent / "report.css").read_text(encoding="utf-8")
    title = f"hwm evaluation {recipe}".strip()
    return (
        f"<!doctype html>\n<html lang=en><head><meta charset=utf-8><title>{_text(title)}</title>"
        f'<meta name=viewport content="width=device-width, initial-scale=1"><style>\n{style}</style></head>\n<body><main>\n'
        + "\n".join(section for section in sections if section)
        + "\n</main></body></html>\n"
    )


def _tiles(record: Json) -> str:
    horizon = record["settings"]["future_frames"]
    model = _row(record, record["headline"], RECONSTRUCTION)
    copied = _row(record, "copy last frame", RECONSTRUCTION)
    gaps = {
        d["second"]: d["difference"]
        for d in record["differences"]
        if (d["reference"], d["span"]) == (RECONSTRUCTION, "scored frame")
    }
    tokens = next((t for t in record["tokens"] if t["name"] == AUTOREGRESSIVE), None)
    copying = "copying " + _value(copied["psnr_scored"], 2, " dB")
    tiles = [
        (f"PSNR at frame {horizon}", _value(model["psnr_scored"], 2, " dB"), copying),
        ("over copying", _value(gaps["copy last frame"], 2, " dB", sign=True), _range(gaps["copy last frame"], 2)),
        ("over permuted states", _value(gaps[PERMUTED], 2, " dB", sign=True), _range(gaps[PERMUTED], 2)),
    ]
    if tokens is not None and tokens["cross_entropy"] is not None:
        accuracy = "" if tokens["accuracy"] is None else f"accuracy {tokens['accuracy']['mean']:.1%}"
        tiles.append(("cross-entropy, autoregressive", _value(tokens["cross_entropy"], 3, " nats"), accuracy))
    cells = "".join(f"<div><dt>{_text(a)}</dt><dd>{b}</dd><dd class=small>{_text(c)}</dd></div>" for a, b, c in tiles)
    return f"<dl class=tiles>{cells}</dl>"


def _video(example: Example) -> str:
    frames = pictures.comparison_frames(example)
    labels = "".join(f"<span>{name}</span>" for name in pictures.PANELS)
    data, poster = _base64(pictures.mp4(frames)), _base64(pictures.jpeg(frames[-1]))
    gain = example.psnr - example.psnr_copy
    return (
        f"<figure><div class=panels>{labels}</div>"
        f'<video autoplay loop muted playsinline controls poster="data:image/jpeg;base64,{poster}" '
        f'src="data:video/mp4;base64,{data}"></video>'
        f"<figcaption>clip {example.clip}: last frame {example.psnr:.2f} dB, {gain:+.2f} dB over copying</figcaption></figure>"
    )


def _film_strip(example: Example) -> str:
    columns = pictures.strip_columns(len(example.truth), 6)
    head = "".join(f"<th>frame {column + 1}</th>" for column in columns)
    body = "".join(
        f"<tr><th>{name}</th>"
        + "".join(f'<td><img alt="" src="data:image/jpeg;base64,{_base64(pictures.jpeg(f))}"></td>' for f in frames)
        + "</tr>"
        for name, frames in pictures.film_strip(example).items()
    )
    return f"<table class=strip><tr><th></th>{head}</tr>{body}</table><p class=note>Clip {example.clip}.</p>"


def _pixel_table(record: Json, reference: str) -> str:
    horizon = record["settings"]["future_frames"]
    names = {
        RECONSTRUCTION: "Against the tokenizer's own reconstruction of the truth",
        ORIGINAL: "Against the recorded video",
    }
    head = ["row", f"PSNR, frame {horizon}", f"PSNR, frames 1–{horizon}", f"SSIM, frame {horizon}", f"SSIM, frames 1–{horizon}",
            "pooled PSNR"]  # fmt: skip
    rows = sorted(
        (row for row in record["pixels"] if row["reference"] == reference), key=lambda row: -row["psnr_scored"]["mean"]
    )
    body = [
        (
            row["name"],
            _cell(row["psnr_scored"], 2),
            _cell(row["psnr_mean"], 2),
            _cell(row["ssim_scored"], 3),
            _cell(row["ssim_mean"], 3),
            f"{row['pooled_psnr_scored']:.2f}",
        )
        for row in rows
    ]
    return _table(names[reference], head, body, strong=record["headline"])


def _difference_table(record: Json) -> str:
    body = [
        (
            f"{d['first']} − {d['second'].removeprefix('model, ')}",
            d["reference"],
            d["span"],
            _cell(d["difference"], 3, sign=True) + (" nats" if d["metric"] == "cross entropy" else " dB"),
            f"{d['share_higher']:.0%}",
        )
        for d in record["differences"]
    ]
    table = _table("All paired differences", ["difference", "reference", "over", "mean", "clips above zero"], body)
    return f"<details><summary>All paired differences, in numbers</summary>{table}</details>"


def _token_table(record: Json) -> str:
    body = [(t["name"], _cell(t["cross_entropy"], 3), _cell(t["accuracy"], 3)) for t in record["tokens"]]
    return _table("Over all future grids", ["row", "cross-entropy, nats", "accuracy"], body, strong=AUTOREGRESSIVE)


def _topk_table(record: Json) -> str:
    if record["coverage"] is None:
        return ""
    meaning = {
        "floor": "softmax over the kept; a miss has probability 1e-8",
        "min": "a miss joins with the smallest kept logit",
        "uniform_rest": "a miss has an equal part of the probability left",
        "fill_min": "all others have the smallest kept logit",
        "ignore": "misses left out: optimistic, not for comparison",
    }
    body = [
        (row["policy"], meaning[row["policy"]], row["note"] if row["cross_entropy"] is None else _cell(row["cross_entropy"], 3))
        for row in record["top_k"]
    ]
    title = f"Top-{record['settings']['top_k']} cross-entropy, autoregressive; coverage {_cell(record['coverage'], 4)}"
    return _table(title, ["rule", "for tokens outside", "cross-entropy, nats"], body, strong="floor")


def _training(record: Json) -> str:
    picture = plots.training_plot(record["training"])
    if picture is None:
        return ""
    about = "Autoregressive validation is what the scores above are about; teacher-forced validation is not."
    return _section("Training", about, _image(picture, "Training and validation curves"))


def _method(record: Json) -> str:
    s = record["settings"]
    facts = {
        "command": record["command"],
        "clips": f"{s['num_clips']}, evenly spread over the data"
        + ("" if s["num_segments"] is None else f", from {s['num_segments']} segments"),
        "headline row": f"{record['headline']} (chosen beforehand: decode={s['decode']!r})",
        "sampling": f"temperature {s['sampling']['temperature']}, top-k {s['sampling']['top_k']}, top-p {s['sampling']['top_p']}",
        "seed": str(s["seed"]),
        "tokenizer": f"{s['tokenizer']} ({s['tokenizer_fingerprint'][:16]})",
        "clip": f"{s['context_grids']} context grids, {s['future_grids']} future grids, {s['future_frames']} future frames",
        "states zeroed": "every row replaced by the state that the model's normalisation maps to zero: "
        + ", ".join(f"{v:.3g}" for v in s["zeroed_states"]),
        "states permuted": "each clip gets the states of a clip of another segment",
        "intervals": f"{s['confidence']:.0%}, percentile bootstrap over segments (clips where segments are unknown)",
        "time": ", ".join(f"{name} {value:.1f} s" for name, value in record["seconds"].items()),
        "written": record["written"],
        **record["environment"],
    }
    rows = "".join(f"<tr><th>{_text(k)}</th><td>{_text(v)}</td></tr>" for k, v in facts.items())
    config = _text(json.dumps(record["config"], indent=1))
    details = f"<details><summary>Configuration of the run</summary><pre>{config}</pre></details>" if record["config"] else ""
    return _section("How this was measured", "", f"<table class=facts>{rows}</table>{details}")


def _read_run(folder: Path) -> tuple[Json, list[Json]]:
    """The configuration and a thinned training trace of a run folder; lines that a kill tore are skipped."""
    config = tomllib.loads((folder / "config.toml").read_text()) if (folder / "config.toml").is_file() else {}
    lines = (folder / "metrics.jsonl").read_text().splitlines() if (folder / "metrics.jsonl").is_file() else []
    records: list[Json] = []
    for line in lines:
        try:
            value = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(value, dict) and isinstance(value.get("step"), int):
            records.append(value)
    scored = [r for r in records if any(key.startswith("val/") for key in r)]
    plain = [r for r in records if r not in scored]
    step = max(1, -(-len(plain) // MAX_TRAINING_POINTS))
    return config, sorted(plain[::step] + scored, key=lambda r: r["step"])


def _row(record: Json, name: str, reference: str) -> Json:
    return next(r for r in record["pixels"] if (r["name"], r["reference"]) == (name, reference))


def _motion(example: Example) -> float:
    return -example.psnr_copy


def _section(title: str, about: str, content: str) -> str:
    return f"<section><h2>{_text(title)}</h2>{f'<p>{_text(about)}</p>' if about else ''}{content}</section>"


def _table(title: str, head: list[str], body: Sequence[tuple[Any, ...]], *, strong: str = "") -> str:
    """Cells of `body` after the first may hold markup made here; the first is text."""
    rows = "".join(
        f"<tr{' class=strong' if row[0] == strong else ''}><th>{_text(row[0])}</th>"
        + "".join(f"<td>{cell}</td>" for cell in row[1:])
        + "</tr>"
        for row in body
    )
    heads = "".join(f"<th>{_text(h)}</th>" for h in head)
    return f"<table class=numbers><caption>{title}</caption><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"


def _cell(value: Json | None, digits: int, *, sign: bool = False) -> str:
    return "–" if value is None else f"{_value(value, digits, '', sign=sign)} <small>{_range(value, digits)}</small>"


def _value(value: Json, digits: int, unit: str, *, sign: bool = False) -> str:
    return "–" if value["mean"] is None else f"{value['mean']:{'+' if sign else ''}.{digits}f}{unit}"


def _range(value: Json, digits: int) -> str:
    return "" if value["low"] is None else f"{value['low']:.{digits}f} to {value['high']:.{digits}f}"


def _ordinal(num: int) -> str:
    return {1: "whole", 2: "half", 3: "third", 4: "quarter", 6: "sixth", 8: "eighth"}.get(num, f"{num}th part")


def _image(png: bytes, what: str) -> str:
    return f'<img class=plot alt="{_text(what)}" src="data:image/png;base64,{_base64(png)}">'


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _text(value: str) -> str:
    return html.escape(str(value))
