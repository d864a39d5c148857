"""The results of an evaluation as JSON and as one page with curves, tables and videos, readable anywhere.

The page is made from the table of scores and the pictures; it loads nothing, and runs nothing but `player.js` inside it, which
plays its videos.  It names no metric and no row, so that new ones appear by themselves.
"""

import base64
import hashlib
import json
import platform
import shlex
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import torch

import hwm
from hwm.evaluate import table
from hwm.evaluate.intervals import Interval
from hwm.evaluate.metrics import CHANGE, METRICS, Metric, shown
from hwm.evaluate.page import pictures, plots
from hwm.evaluate.protocols import UNIGRAM, Protocol
from hwm.evaluate.scores import ALL, ALL_GRIDS, LAST, TOKENS, Example, Scores
from hwm.evaluate.table import text_table, verdict
from hwm.safe_load.paths import is_file
from hwm.safe_load.text import read_toml
from hwm.training.run_folder import read_metrics
from hwm.work.files import atomic_path, sealed

__all__ = ["render", "text_table", "verdict", "write_report"]

Json = dict[str, Any]
TEMPLATES = Path(hwm.__file__).parent
MAX_TRAINING_POINTS = 400
"""Training records kept for the curves; more cannot be told apart."""
PLOT_SCALE = 0.65
"""Pixels of the page a pixel of a plot: the widest plot then fills the page."""


def write_report(
    out: str | Path, scores: Scores, *, protocol: Protocol, run_folder: str | Path | None = None, command: str = "",
    words: Callable[[Scores], list[str]] = verdict, lay_out: Callable[[Scores, Protocol, Json], str] | None = None,
) -> Path:
    """Write the results and the page of `protocol` into `out` and return the page's path.

    run_folder: a run, whose config.toml and metrics.jsonl give the configuration and the training curves.
    command: what was called; default: the command line of this process.
    words, lay_out: the verdict, and the page of scores, protocol and record; default: those of pictures.
    """
    out = Path(out)
    config, training = read_run(Path(run_folder)) if run_folder is not None else ({}, [])
    copy = scores.settings["copy"]
    record = {
        "verdict": words(scores),
        **scores.to_json(),
        "training": training,
        "config": config,
        "command": command or shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment(),
        "examples": [{"clip": e.clip, "psnr": e.psnr, "gain": e.psnr[scores.headline] - e.psnr[copy]} for e in scores.examples],
    }
    # The JSON last: where it is, the page is.
    for name, text in ((protocol.report, (lay_out or page)(scores, protocol, record)), (protocol.results, sealed(record))):
        with atomic_path(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    return out / protocol.report


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


def read_run(folder: Path) -> tuple[Json, list[Json]]:
    """The configuration and a thinned training trace of a run folder; lines that a kill tore are skipped."""
    config = read_toml(folder / "config.toml") if is_file(folder / "config.toml") else {}
    records: list[Json] = list(read_metrics(folder / "metrics.jsonl"))
    scored = [r for r in records if any(key.startswith("val/") for key in r)]
    plain = [r for r in records if r not in scored]
    step = max(1, -(-len(plain) // MAX_TRAINING_POINTS))
    return config, sorted(plain[::step] + scored, key=lambda r: r["step"])


def render(template: str, **values: Any) -> str:
    """A page from one of the package's templates, as "evaluate/page/report.html.j2"; every text is escaped, every name needed."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["json"] = lambda value: json.dumps(value, indent=1)
    environment.filters["uri"] = lambda data, kind: f"data:{kind};base64,{base64.b64encode(data).decode()}"
    environment.filters["allowed"] = allowed
    environment.filters["width"] = lambda png: round(int.from_bytes(png[16:20], "big") * PLOT_SCALE)
    return environment.get_template(template).render(**values)


def allowed(script: str) -> str:
    """The source of a page's policy by which this script may run, and no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" if script else "'none'"


def page(scores: Scores, protocol: Protocol, record: Json) -> str:
    """The page as one string of HTML.  record: what results.json holds."""
    recipe, moving, span = record["config"].get("recipe", ""), protocol.in_a_row, scores.settings["span"]
    calibration = scores.facts.get("calibration")
    metrics, networks = dict.fromkeys(score.metric for score in scores.scores), scores.settings["perceptual"]
    found = dict.fromkeys((s.reference, s.span) for s in scores.scores if s.metric in table.OF_PICTURES)
    tables = {s: [table.pictures_table(scores, reference, s) for reference, own in found if own == s] for s in (span, LAST, ALL)}
    return render(
        "evaluate/page/report.html.j2",
        title=f"hwm {protocol.title} {recipe}".strip(),
        kicker=" · ".join(filter(None, ["Evaluation", protocol.title, recipe])),
        scores=scores,
        settings=scores.settings,
        protocol=protocol,
        place=table.places(scores, span),
        truth=table.TRUTHS[scores.settings["reference"]],
        judged=table.judged(scores),
        record=record,
        references={reference for reference, _ in found},
        full_scale=pictures.FULL_SCALE,
        fps=pictures.slow(scores.settings.get("hz")),
        player=(Path(__file__).parent / "player.js").read_text(encoding="utf-8"),
        rows={row.name: row.about for row in scores.rows if row.about},
        tiles=list(_tiles(scores, protocol)),
        videos=[_video(example, scores) for example in scores.examples] if moving else [],
        strip=_strip(scores) if moving and scores.examples else None,
        stills=[] if moving else [_stills(example, scores) for example in scores.examples],
        groups=list(filter(None, (table.groups_table(scores, reference, span) for reference, own in found if own == span))),
        tables=tables.pop(span),
        other_tables=[t for others in tables.values() for t in others],
        differences=table.differences_table(scores, scores.differences, "paired differences over clips"),
        changes=table.changes_table(scores),
        of_changes=shown(CHANGE).about,
        networks=table.networks_tables(scores),
        tokens=table.tokens_tables(scores),
        doubts=table.doubts_table(scores),
        of_doubts=dict.fromkeys(filter(None, (shown(s.metric).about for s in scores.scores if s.row in scores.names("doubt")))),
        of_pictures=dict.fromkeys(shown(metric).about for metric in metrics if metric in table.OF_PICTURES),
        of_networks=dict.fromkeys(shown(metric).about for metric in networks),
        left_out=dict.fromkeys(line for place in found for line in table.left_out(scores, *place)),
        notes=dict.fromkeys(f"{s.metric}: {s.note}." for s in scores.scores if s.note and s.metric in networks),
        plots={
            "frames": plots.frames_plot(scores),
            "differences": plots.differences_plot(scores),
            "networks": plots.networks_plot(scores),
            "grids": plots.grids_plot(scores),
            "ensemble": plots.ensemble_plot(scores),
            "calibration": None if calibration is None else plots.calibration_plot(calibration),
            "training": plots.training_plot(record["training"]),
        },
        calibration=calibration,
        times=[f"{name} {value:.1f} s" for name, value in scores.seconds.items()],
        cost={} if scores.cost is None else {row[0]: row[1] for row in table.cost_table(scores.cost).rows},
    )


def _tiles(scores: Scores, protocol: Protocol) -> Iterator[tuple[str, str, str]]:
    """Title, number and small print of the numbers behind the verdict."""
    s, (first, *rest), headline, copy = scores.settings, METRICS, scores.headline, scores.settings["copy"]

    def against(title: str, one: str, other: str, metric: Metric = first) -> tuple[str, str, str]:
        found, digits = scores.difference(one, other, metric.name).value, metric.digits
        return title, f"{found.mean:+.{digits}f} {metric.unit}", _ends(found, digits)

    if s["reference"] == TOKENS:
        compared = {(d.second, d.metric) for d in scores.differences}
        words = {s["controls"]["permuted"]: "against permuted states", UNIGRAM: "against frequencies"}
        yield from (against(words[o], headline, o, shown(m)) for o, m in sorted(compared) if o in words)
        if (copy, "accuracy") in compared:
            yield against("accuracy over copying", headline, copy, shown("accuracy"))
    else:
        psnr, copied = (scores.of(row, first.name).mean for row in (headline, copy))
        yield f"PSNR, {table.places(scores, s['span'])}", f"{psnr:.2f} dB", f"copying {copied:.2f} dB"
        yield against("over copying", headline, copy)
        yield against("over permuted states", s["control"], s["controls"]["permuted"])
    if changed := scores.select(row=s["controls"]["permuted"], metric=CHANGE, reference=s["reference"], span=s["span"]):
        change, digits = changed[0].value, shown(CHANGE).digits
        yield "other states change it by", f"{change.mean:.{digits}f} levels", f"{_ends(change, digits)} of 255".strip()
    if single := table.one_sample(scores):
        yield against(f"over {single}", headline, single)
    for metric in [m.name for m in rest if m.better == "one"] + list(s["perceptual"]):
        of_verdict = {"metric": metric, "reference": s["reference"], "span": s["span"]}
        own = scores.select(**of_verdict) or [x for x in scores.select(metric=metric) if x.span in (LAST, ALL)]
        look, found = shown(metric), {x.row: x.value.mean for x in own}
        way = "truth: 1" if look.better == "one" else f"{look.better} is better"
        if headline in found and copy in found:
            yield f"{look.title} ({way})", f"{found[headline]:.{look.digits}f}", f"copying {found[copy]:.{look.digits}f}"
    if row := table.compared_tokens(scores):
        found = {x.metric: x.value.mean for x in scores.select(row=row, reference=TOKENS, span=ALL_GRIDS)}
        accuracy = f"accuracy {found['accuracy']:.1%}" if "accuracy" in found else ""
        yield "cross-entropy of the tokens", f"{found['cross-entropy']:.3f} nats", accuracy


def _ends(value: Interval, digits: int) -> str:
    """An interval in words, empty without."""
    return "" if value.low is None else f"{value.low:.{digits}f} to {value.high:.{digits}f}"


def _video(example: Example, scores: Scores) -> Json:
    panels = pictures.comparison(example, scores.headline)
    frames = pictures.side_by_side(panels.values(), len(example.pictures[pictures.SEEN]))
    own, copied = example.psnr[scores.headline], example.psnr[scores.settings["copy"]]
    caption = f"clip {example.clip}: last frame {own:.2f} dB, {own - copied:+.2f} dB over copying"
    names = ["prediction" if name == scores.headline else name for name in panels]
    first = next(iter(panels.values()))
    high, wide = (side * pictures.enlargement(first) for side in first.shape[1:3])
    return {
        "panels": names, "mp4": pictures.mp4(frames, fps=pictures.slow(scores.settings.get("hz"))), "caption": caption,
        "poster": pictures.jpeg(frames[-1]), "frames": len(first), "seen": len(example.pictures[pictures.SEEN]),
        "wide": wide, "high": high, "gap": pictures.GAP,
    }  # fmt: skip


def _strip(scores: Scores) -> Json:
    """The clip that moves most, frame by frame."""
    example = min(scores.examples, key=lambda e: e.psnr[scores.settings["copy"]])
    columns = pictures.strip_columns(len(example.pictures[pictures.TRUTH]), 6) + 1
    words = {scores.headline: "prediction", pictures.SEEN: "last seen frame"}
    strip = pictures.film_strip(example, scores.headline)
    rows = {words.get(name, name): [pictures.jpeg(frame) for frame in frames] for name, frames in strip.items()}
    return {"clip": example.clip, "columns": columns.tolist(), "rows": rows}


def _stills(example: Example, scores: Scores) -> dict[str, tuple[bytes, str]]:
    found = pictures.stills(example, scores.headline, scores.settings["copy"])
    return {name: (pictures.jpeg(p, 92), "" if psnr is None else f"{psnr:.2f} dB") for name, (p, psnr) in found.items()}
