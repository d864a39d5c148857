"""Quality of Flow-HWM against the number of solver steps, plain and with shortcut training (ours, beyond the paper).

PSNR alone would reward few steps: one step from noise gives the mean of all futures, which is blurred but near each of
them.  So a distance of appearance (TFD) stands beside it, and all figures here are of samples, not of means.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hwm.evaluate_old.results import COPY_FRAME, RECONSTRUCTION, SAMPLED_LATENTS
from hwm.experiments import pages, plots
from hwm.experiments.plan import Plan
from hwm.recipes import recipe
from hwm.work.files import atomic_path

STEPS = (1, 2, 4, 8, 16, 50)
FEW, MANY = 4, 50
"""Of these the goal speaks."""
SHORTCUT_SHARE = 0.25
"""Share of a batch that learns shortcuts, as in Frans et al. 2024."""
GOAL_DB = 0.2
"""Four steps are to lie this near to fifty, in PSNR."""


def flow_steps(plan: Plan, variant: str) -> Path:
    """Train the plain and the shortcut twin, score both at all STEPS; writes steps.json, .md and .html, returns the page."""
    name = f"flow-hwm-{variant}-{plan.size}"
    data = plan.encoded([recipe(name).tokenizer])
    trainings = {
        "plain": plan.training(name, data),
        "shortcut": plan.training(
            name, data, changes=(f"model.shortcut={SHORTCUT_SHARE}",), label=f"{name}-shortcut"
        ),
    }
    plan.train(list(trainings.values()))
    curves: dict[str, list[dict[str, Any]]] = {}
    copy: dict[str, Any] = {}
    for kind, training in trainings.items():
        for steps in STEPS:
            result = plan.score(
                training.out,
                data[recipe(name).tokenizer].test,
                out=plan.out / "scores" / training.out.name / f"{steps}-steps",
                changes=(f"model.steps={steps}",),
                decode="sample",
            )
            curves.setdefault(kind, []).append({"steps": steps, **_scores(result, SAMPLED_LATENTS)})
            curves[kind][-1]["samples_per_second"] = result["cost"]["samples_per_second"]
            copy = _scores(result, COPY_FRAME)
    settings = {
        "recipe": name,
        "data": str(plan.data) if plan.data else f"built-in robot, {plan.minutes:g} minutes",
        "training_steps": trainings["plain"].steps,
        "seed": plan.seed,
        "scored_clips": plan.clips,
    }
    record = {"experiment": "flow-steps", "settings": settings, "curves": curves, "copy_last_frame": copy}
    head, rows = cells(record)
    about = verdict(record)
    lead = (
        f"{name} on {settings['data']}, {settings['training_steps']} training steps, seed {plan.seed}; sampled futures of "
        f"{plan.clips} clips of unseen rooms, against the tokenizer's reconstruction."
    )
    picture = pages.image(plots.steps_plot(curves, copy), "PSNR and TFD against the number of solver steps")
    section = pages.section("Solver steps", " ".join(about), picture + pages.html_table("samples", head, rows))
    for file, content in (
        ("steps.json", json.dumps(record, indent=1) + "\n"),
        ("steps.md", "\n\n".join((lead, pages.markdown_table(head, rows), *about)) + "\n"),
        ("steps.html", pages.document("Flow-HWM in few steps", lead, [section], record)),
    ):
        with atomic_path(plan.out / file) as temporary:
            temporary.write_text(content, encoding="utf-8")
    print("\n" + (plan.out / "steps.md").read_text())
    return plan.out / "steps.html"


def _scores(result: dict[str, Any], name: str) -> dict[str, Any]:
    pixels = next(r for r in result["pixels"] if (r["name"], r["reference"]) == (name, RECONSTRUCTION))
    tfd = next(r["all_frames"] for r in result["perceptual"] if (r["name"], r["metric"]) == (name, "TFD"))
    return {"psnr": pixels["psnr_mean"], "ssim": pixels["ssim_mean"], "tfd": tfd}


def cells(record: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table: one number of steps a row, plain text."""
    curves = record["curves"]
    head = ["steps"]
    for kind in curves:
        head += [f"{kind}: PSNR, dB", f"{kind}: TFD", f"{kind}: samples/s"]
    rows = []
    for points in zip(*curves.values()):
        row = [str(points[0]["steps"])]
        for point in points:
            row += [_number(point["psnr"], 2), _number(point["tfd"], 4), f"{point['samples_per_second']:.1f}"]
        rows.append(row)
    copy = record["copy_last_frame"]
    blank = ["" for _ in curves for _ in range(3)]
    blank[:2] = [_number(copy["psnr"], 2), _number(copy["tfd"], 4)]
    return head, [*rows, ["copy last frame", *blank]]


def _number(value: dict[str, Any], digits: int) -> str:
    inside = "" if value["low"] is None else f" [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"
    return f"{value['mean']:.{digits}f}{inside}"


def verdict(record: dict[str, Any]) -> list[str]:
    """How far FEW steps lie from MANY, in one sentence a model."""
    sentences = []
    for kind, points in record["curves"].items():
        few, many = (next(p for p in points if p["steps"] == n) for n in (FEW, MANY))
        psnr, tfd = few["psnr"]["mean"] - many["psnr"]["mean"], few["tfd"]["mean"] - many["tfd"]["mean"]
        reached = "reaches" if psnr >= -GOAL_DB else "misses"
        sentences.append(
            f"{kind.capitalize()}: {FEW} steps lie {psnr:+.2f} dB in PSNR and {tfd:+.4f} in TFD from {MANY}, which {reached} "
            f"the goal of at most {GOAL_DB} dB below."
        )
    return sentences
