"""results.json and report.html of an evaluation: one file with curves, tables and videos, readable anywhere.

The page is made from results.json alone, plus the pictures; it loads nothing and runs no script.
"""

from __future__ import annotations

import json
import platform
import shlex
import sys
from datetime import UTC, datetime
from pathlib import Path

import torch

import hwm
from hwm.evaluate_old import page, sections
from hwm.evaluate_old.old_table import cost_rows, verdict
from hwm.evaluate_old.page import Json
from hwm.evaluate_old.results import EvaluationResult, Example
from hwm.safe_load.paths import is_file
from hwm.safe_load.text import read_json_lines, read_toml
from hwm.work.files import atomic_path

RESULTS = "results.json"
MAX_TRAINING_POINTS = 400
"""Training records kept for the curves; more cannot be told apart."""


def write_report(
    out: str | Path, result: EvaluationResult, *, run_folder: str | Path | None = None, command: str = ""
) -> Path:
    """Write `out`/results.json and `out`/report.html and return the page's path.

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
        "examples": [
            {"clip": e.clip, "psnr": e.psnr, "psnr_copy": e.psnr_copy, "gain": e.psnr - e.psnr_copy} for e in result.examples
        ],
    }
    markup = render(record, result.examples, [] if result.cost is None else cost_rows(result.cost))
    # The JSON last: where it is, the page is.
    for name, text in (("report.html", markup), (RESULTS, json.dumps(record, indent=1, allow_nan=False) + "\n")):
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


def render(record: Json, examples: list[Example], costs: list[tuple[str, str]]) -> str:
    """The page as one string of HTML.  costs: what a prediction costs, in words."""
    recipe = record["config"].get("recipe", "")
    parts = [
        sections.header(record, recipe),
        sections.predictions(examples),
        sections.horizon(record),
        sections.differences(record),
        sections.perceptual(record),
        sections.tokens(record),
        sections.cost(costs),
        sections.training(record),
        sections.method(record),
    ]
    return page.document(f"hwm evaluation {recipe}".strip(), parts)


def read_run(folder: Path) -> tuple[Json, list[Json]]:
    """The configuration and a thinned training trace of a run folder; lines that a kill tore are skipped."""
    config = read_toml(folder / "config.toml") if is_file(folder / "config.toml") else {}
    lines = read_json_lines(folder / "metrics.jsonl") if is_file(folder / "metrics.jsonl") else ()
    records: list[Json] = [value for value in lines if isinstance(value.get("step"), int)]
    scored = [r for r in records if any(key.startswith("val/") for key in r)]
    plain = [r for r in records if r not in scored]
    step = max(1, -(-len(plain) // MAX_TRAINING_POINTS))
    return config, sorted(plain[::step] + scored, key=lambda r: r["step"])
