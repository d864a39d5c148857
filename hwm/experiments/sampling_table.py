"""Table 2 of the Revontuli report on any run, its curves, and every family at frame 76 by the same protocol.

All rows are scored on the same clips of unseen rooms with the same seeds.  The published figures stand beside ours and
are never mixed with them: they were measured on other data at another size.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from hwm.config import RunConfig, from_toml
from hwm.evaluate_old.results import COPY_FRAME
from hwm.evaluate_old.sampling_report import REPORT
from hwm.evaluate_old.sampling_results import STILL, mean_of, permuted, zeroed
from hwm.experiments.plan import Plan
from hwm.experiments.published import SAMPLING
from hwm.experiments.sampling_cells import markdown
from hwm.experiments.sampling_grid import Grid, Key, Sizes, Subject, grid, subjects, way
from hwm.experiments.sampling_page import page
from hwm.experiments.sampling_scores import Scoring, score_all
from hwm.recipes import names, recipe
from hwm.work.files import atomic_path

Family = Literal["wan", "st", "masked", "flow"]
FAMILIES: tuple[Family, ...] = ("wan", "st", "masked", "flow")
PLAIN = "-plain"
"""What the label of the run without condition dropout ends in."""

Json = dict[str, Any]


def sampling_table(
    plan: Plan, *, sizes: Sizes, families: Sequence[Family] = FAMILIES, variant: str = "base", runs: Sequence[Path] = ()
) -> Path:
    """Score the grid; writes sampling.json, sampling.md and sampling.html, returns the page.

    families: of which a twin is trained; of wan two, with condition dropout and without.  variant: of the Humanoid World
    Models.  runs: trained runs that are taken instead.
    Raises ValueError for a family without a twin of the plan's size, and for runs that hold no world model.
    """
    found = subjects(runs) if runs else _trained(plan, families, variant)
    asked = grid(found, sizes)
    scorings = asked.scorings(plan, plan.unseen())
    score_all(list(scorings.values()), parallel=plan.processes)
    record = _record(plan, asked, scorings)
    for name, text in (
        ("sampling.json", json.dumps(record, indent=1) + "\n"),
        ("sampling.md", markdown(record) + "\n"),
        ("sampling.html", page(record, plan.out)),
    ):
        with atomic_path(plan.out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    print("\n" + (plan.out / "sampling.md").read_text(encoding="utf-8"))
    return plan.out / "sampling.html"


def twins(families: Sequence[Family], *, size: str, variant: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    """The trainings by the name of their run: recipe and changes.  Raises ValueError for a family without such a twin."""
    of_size = {"wan": f"wan-{size}", "st": "st-demo" if size == "tiny" else f"st-{size}"}
    of_size |= {family: f"{family}-hwm-{variant}-{size}" for family in ("masked", "flow")}
    missing = [family for family in families if of_size[family] not in names()]
    if missing:
        raise ValueError(
            f"there is no {size} twin of {', '.join(missing)}: leave it out with --families, or train a recipe of that family "
            "(`hwm recipes`) and give its run with --runs"
        )
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    for family in families:
        name = of_size[family]
        found[name] = name, ()
        if family == "wan":
            found[name + PLAIN] = name, ("model.condition_dropout=0.0",)
    return found


def _trained(plan: Plan, families: Sequence[Family], variant: str) -> list[Subject]:
    """Train the twins; a family that the size does not have fails before any data are made."""
    wanted = twins(families, size=plan.size, variant=variant)
    data = plan.encoded([recipe(name).tokenizer for name, _ in wanted.values()])
    trainings = [plan.training(name, data, changes=changes, label=label) for label, (name, changes) in wanted.items()]
    plan.train(trainings)
    return [Subject(t.out.name, t.out, from_toml(RunConfig, t.out / "config.toml")) for t in trainings]


def _record(plan: Plan, asked: Grid, scorings: dict[Key, Scoring]) -> Json:
    results = {key: scoring.results() for key, scoring in scorings.items()}
    study = results[asked.study]
    copied = named(study, COPY_FRAME)
    by_label = {subject.label: subject for subject in asked.subjects}
    half, samples = asked.sizes.half, asked.sizes.samples
    rows = []
    for row in asked.rows:
        label, steps, guidance = row.key
        rows.append(
            {
                "block": row.block,
                "run": label,
                "steps": by_label[label].own_steps if steps is None else steps,
                "samples": row.samples,
                "guidance": guidance if by_label[label].dropout else None,
                **named(results[row.key], mean_of(row.samples)),
                "seconds": seconds(results[row.key], row.samples),
                "published": row.published,
            }
        )
    steps_curve = [
        {
            "steps": by_label[key[0]].own_steps if key[1] is None else key[1],
            "one": size_point(results[key], 1),
            "mean": size_point(results[key], half),
        }
        for key in asked.steps
    ]
    guidance_curve = [
        {"steps": key[1], "guidance": key[2], "one": size_point(results[key], 1), "mean": size_point(results[key], samples)}
        for key in asked.guidance
    ]
    return {
        "experiment": "sampling-table",
        "settings": {
            "data": str(plan.data) if plan.data else f"built-in robot, {plan.minutes:g} minutes",
            "scored_on": str(scorings[asked.study].data),
            "num_clips": study["settings"]["num_clips"],
            "num_segments": study["settings"]["num_segments"],
            "seed": plan.seed,
            **asdict(asked.sizes),
            "half": half,
            "perceptual": study["settings"]["perceptual"],
            "device": plan.device,
            "environment": study["environment"],
        },
        "runs": [_run(subject, results[key]) for subject, key in zip(asked.subjects, asked.own)],
        "rows": rows,
        "published": [asdict(row) for row in SAMPLING],
        "copy": copied,
        "study": {"run": asked.study[0], "results": _without_training(study)},
        "steps": {"run": asked.steps[0][0] if asked.steps else None, "points": steps_curve},
        "guidance": {"run": asked.guidance[0][0] if asked.guidance else None, "points": guidance_curve},
        "families": [family(by_label[key[0]], results[key], samples) for key in asked.own],
        "reports": {
            f"{key[0]}: {way(key[1], key[2])}": str((scoring.out / REPORT).relative_to(plan.out))
            for key, scoring in scorings.items()
        },
        "commands": {f"{key[0]}: {way(key[1], key[2])}": scoring.command for key, scoring in scorings.items()},
        "pictures": _pictures(plan, asked, scorings),
    }


def _run(subject: Subject, result: Json) -> Json:
    train = subject.config.train
    return {
        "label": subject.label,
        "family": subject.family,
        "recipe": subject.config.recipe,
        "training_steps": train.steps,
        "training_clips": train.steps * train.batch_size * train.accumulate,
        "condition_dropout": getattr(subject.config.model, "condition_dropout", None),
        "tokenizer": result["settings"]["tokenizer"],
        "verdict": result["verdict"],
    }


def _without_training(result: Json) -> Json:
    return {key: value for key, value in result.items() if key not in ("training", "config")}


def _pictures(plan: Plan, asked: Grid, scorings: dict[Key, Scoring]) -> list[Json]:
    """Where the example pictures of the table's rows and of the families lie: one column of the page each."""
    folders: dict[str, Key] = {}
    for row in asked.rows:
        folders.setdefault(f"{row.key[0]}: {way(*row.key[1:])}", row.key)
    for key in asked.own:
        folders.setdefault(f"{key[0]}: {way(*key[1:])}", key)
    return [
        {
            "name": name,
            "run": key[0],
            "in_table": any(row.key == key for row in asked.rows),
            "members": max(asked.members[key]),
            "folder": str((scorings[key].out / "pictures").relative_to(plan.out)),
            "examples": scorings[key].results()["examples"],
        }
        for name, key in folders.items()
    ]


def named(result: Json, name: str) -> Json:
    """The scores of one row of a results_sampling.json."""
    for row in result["rows"]:
        if row["name"] == name:
            return {key: row[key] for key in ("psnr", "pooled_psnr", "ssim", "gmsd", "sharpness", "perceptual")}
    raise ValueError(f"results_sampling.json holds no row {name!r}")


def size_point(result: Json, num_members: int) -> Json:
    """The scores of the mean of that many samples."""
    return next(dict(point) for point in result["sizes"] if point["num_members"] == num_members)


def seconds(result: Json, samples: int) -> float:
    """Wall time of a picture from so many samples: measured for one and for the largest ensemble, in proportion between."""
    cost = result["cost"]
    return float(cost["seconds_one"] if samples == 1 else cost["seconds_ensemble"] * samples / cost["ensemble"])


def family(subject: Subject, result: Json, samples: int) -> Json:
    """What the table of families needs of one run.

    over_copy: of the mean of `samples` where the results compare it with copying, otherwise of their headline;
    over_copy_of says which.  over_permuted, over_zeroed: of the mean of `control` samples.
    """
    gaps = {(d["first"], d["second"]): d["difference"] for d in result["differences"] if d["metric"] == "psnr"}
    wanted, control = mean_of(samples), result["control"]
    compared = wanted if (wanted, COPY_FRAME) in gaps else result["headline"]
    return {
        "label": subject.label,
        "family": subject.family,
        "steps": subject.own_steps,
        "frame_step": result["settings"]["frame_step"],
        "parameters": result["cost"]["parameters"],
        "one": named(result, mean_of(1)),
        "mean": named(result, wanted),
        "still": named(result, STILL),
        "over_copy": gaps[compared, COPY_FRAME],
        "over_copy_of": compared,
        "control": control,
        "over_permuted": gaps[mean_of(control), permuted(control)],
        "over_zeroed": gaps[mean_of(control), zeroed(control)],
        "seconds_one": seconds(result, 1),
        "seconds": seconds(result, samples),
    }
