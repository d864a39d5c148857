"""Carrying an experiment out: it trains and scores what is not there yet, and lays tables and plots out as one page."""

import importlib
import json
import pkgutil
import re
import shlex
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_type_hints

from hwm.config import RunConfig
from hwm.evaluate.protocols import SAMPLING, Scoring
from hwm.evaluate.scores import Scores, plain
from hwm.experiments import declared
from hwm.experiments.experiment import PICTURES, Experiment, Found, Json, Plan, Train, slug
from hwm.work.claim import expect_apart
from hwm.work.files import atomic_path, new_folder
from hwm.work.jobs import Job, run_jobs
from hwm.work.server import warm

ALL_CLIPS = 1000
"""How many clips all of them are taken for, for the time left."""


def carry_out(name: str, experiment: Experiment, plan: Plan) -> Path | None:
    """Do what is not done yet; write the experiment's files and return its page, None where it has none.

    Raises ValueError for a training or a scoring that failed, Stopped where it was told to stop; the same call then goes on.
    """
    expect_apart(plan.out, plan.data)
    # What its trainings and scorings need, AdamW's torch._dynamo too, is imported once for all of them.
    warm("hwm.runs", "hwm.apply", "torch._dynamo", "matplotlib.backends.backend_agg")
    from hwm.evaluate.page.plots import missing

    if told := missing():
        print(told, flush=True)
    experiment = replace(experiment, runs=plan.given(experiment.runs))
    plan = replace(plan, data=experiment.makes()) if experiment.makes else plan
    found = Found(experiment, plan)
    trainings = [_training(found, label) for label, run in experiment.runs.items() if isinstance(run, Train)]
    parallel = plan.processes if experiment.threads else 1
    run_jobs([job for job in trainings if job is not None], parallel=parallel, what="training", unit="steps")
    scorings = sorted((_scoring(found, key) for key in experiment.scorings), key=lambda job: -job.work)
    run_jobs(scorings, parallel=1 if experiment.measured else parallel, what="scoring", unit="predictions")
    page = _write(name, found) if experiment.file else None
    experiment.finish(found)
    return page


def _training(found: Found, label: str) -> Job | None:
    """What is left of a training; None where it is complete."""
    from hwm.runs import check

    out, config = found.run(label), found.training(label)
    if check(config, out, world=1):
        return None
    return Job(out, out.with_name(f"{out.name}.log"), partial(_train, config, out), config.train.steps, partial(steps_done, out))


def _train(config: RunConfig, out: Path) -> int:
    from hwm.runs import train

    result = train(config, out)
    return 128 + (result.signal or signal.SIGTERM) if result.stopped else 0


def steps_done(out: Path) -> int:
    """Steps logged so far."""
    from hwm.training.run_folder import read_metrics

    return max((record["step"] for record in read_metrics(out / "metrics.jsonl")), default=0)


def _scoring(found: Found, key: str) -> Job:
    score, out = found.experiment.scorings[key], found.folder(key)
    scoring, folders = found.scoring(key)
    work = score.passes * (scoring.clips or ALL_CLIPS) * (max(scoring.members) if found.protocol(key).ensembles else 1)
    log = out / "log"
    log.unlink(missing_ok=True)  # its last line says how far the scoring is
    threads = 0 if found.experiment.measured else found.experiment.threads
    timed = found.experiment.timed or found.experiment.measured
    run = partial(_score, found.run(score.run), scoring, folders, threads, found.protocol(key).results, timed)
    return Job(out, log, run, work, partial(_scored, log, work))


def _score(run: Path, scoring: Scoring, folders: Json, threads: int, results: str, timed: bool) -> int:
    """Score one, and keep its pictures; what was scored with these settings before stays."""
    import torch

    from hwm.apply import evaluate_run

    if threads:
        torch.set_num_threads(threads)
    out: Path = folders["out"]
    if (SAMPLING.results == results or scoring.doubt) and not (out / PICTURES).is_dir():
        (out / results).unlink(missing_ok=True)  # stopped before its pictures were there
    scores = evaluate_run(run, scoring, command=_command(run, scoring, folders), timed=timed, **folders)
    if scores.examples:
        _keep_pictures(scores, out / PICTURES)
    return 0


def _command(run: Path, scoring: Scoring, folders: Json) -> str:
    """The command that gives the same scores."""
    words = ["hwm", "evaluate", str(run)]
    for name, value in {**folders, **scoring.changed()}.items():
        if value:
            rest = () if value is True else value if isinstance(value, tuple) else (value,)
            words += [f"--{name.replace('_', '-')}", *map(str, rest)]
    return shlex.join(words)


def _keep_pictures(scores: Scores, folder: Path) -> None:
    """The last frames of the examples as JPEG, of clip 7 "7-truth.jpg"; all or none."""
    from hwm.evaluate.page.pictures import jpeg

    shutil.rmtree(folder, ignore_errors=True)
    with new_folder(folder) as begun:
        for example in scores.examples:
            for name, frames in example.pictures.items():
                (begun / f"{example.clip}-{slug(name)}.jpg").write_bytes(jpeg(frames[-1], 92))


def _scored(log: Path, work: float) -> float:
    """Predictions so far, as the log says."""
    counts = re.findall(r"evaluating: (\d+)/(\d+) clips", log.read_text(errors="replace")) if log.is_file() else []
    return work * int(counts[-1][0]) / int(counts[-1][1]) if counts else 0


# --- Laying it out ---------------------------------------------------------------------------------------------------


def _write(name: str, found: Found) -> Path:
    """Write what was found as JSON, Markdown and one page that loads nothing, and print the Markdown."""
    from hwm.evaluate.page.report import render

    experiment, out = found.experiment, found.plan.out
    few = dict.fromkeys(found[key].settings["no_intervals"] for key in experiment.scorings)
    verdict = [*experiment.verdict(found), *(f"{words[:1].upper()}{words[1:]}." for words in few if words)]
    sections = experiment.sections(found) if callable(experiment.sections) else experiment.sections
    made: list[Json] = [
        {
            "title": part.title,
            "about": part.about,
            "plots": {what: plot(found) for what, plot in part.plots.items()},
            "tables": [table(found) for table in part.tables],
            "pictures": part.pictures(found),
            "links": {"Reports": {label: found.link(key) for label, key in part.links.items()}} if part.links else {},
        }
        for part in sections
    ]
    record = {"experiment": name, **_record(found), "verdict": verdict, **experiment.extra}
    lines = [f"# {experiment.title}", experiment.lead, *verdict]
    for part in made:
        lines += [f"## {part['title']}" if len(made) > 1 else "", part["about"]]
        for table in part["tables"]:
            lines += [f"{table.title[:1].upper()}{table.title[1:]}:", table.markdown()]
    texts = {
        "json": json.dumps(record, indent=1) + "\n",
        "md": "\n\n".join(filter(None, lines)) + "\n",
        "html": render(
            "experiments/experiment.html.j2", title=experiment.title, lead=experiment.lead, verdict=verdict, sections=made,
            record=record,
        ),
    }  # fmt: skip
    for suffix, text in texts.items():
        with atomic_path(out / f"{experiment.file}.{suffix}") as temporary:
            temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    print("\n" + texts["md"])
    return out / f"{experiment.file}.html"


def _record(found: Found) -> Json:
    """All numbers, except those of single frames, and what they come from."""
    words = {name: [str(v) for v in value] if isinstance(value, tuple) else value for name, value in vars(found.plan).items()}
    plan = {name: str(value) if isinstance(value, Path) else value for name, value in words.items()}
    runs, scorings = {label: found.facts(label) for label in found.experiment.runs}, {}
    for key in found.experiment.scorings:
        whole = found.record(key)
        kept = [s for s in whole["scores"] if not re.fullmatch(r"(frame|grid) \d+", s["span"])]
        without = {name: value for name, value in whole.items() if name not in ("training", "config")}
        scorings[key] = without | {"scores": kept, "report": found.link(key)}
    record: Json = plain({"settings": plan | {"source": found.plan.source}, "runs": runs, "scorings": scorings})
    return record


# --- Finding declarations --------------------------------------------------------------------------------------------


def declarations() -> dict[str, tuple[str, Callable[[Any], Experiment], type[Plan]]]:
    """Every experiment of the room `declared` by its name: what it is in a line, its declaration, the options it takes."""
    found = {}
    for file in pkgutil.iter_modules(declared.__path__):
        module = importlib.import_module(f"{declared.__name__}.{file.name}")  # noqa: TID251, declarations of this package
        if declare := getattr(module, "declare", None):
            summary = (module.__doc__ or "").strip().splitlines()[0]
            found[file.name.replace("_", "-")] = summary, declare, get_type_hints(declare)["plan"]
    return found
