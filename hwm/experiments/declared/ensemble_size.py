"""Means of 1, 5, 10, 20 and 50 samples: what PSNR gains as their number grows, and how the pictures' look pays for it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from hwm.config import Count, CountOrNone
from hwm.evaluate.protocols import ONE_SAMPLE, Scoring, mean_of
from hwm.experiments.compare import THIS, Column
from hwm.experiments.experiment import Experiment, Found, Plan, Train
from hwm.experiments.sweep import LOOKS, RECIPES, SHARPNESS, Sweep, configs_of, trainings
from hwm.work.ranges import Range

ABOUT = (
    "The frame that the sampling track scores, by pixel means of N samples; a smaller ensemble is the beginning of a larger "
    "one, so one sampling serves all. Models of shorter clips roll out to it. Differences are paired over clips."
)
GAINED = Column("over one sample, dB", row=THIS, over=ONE_SAMPLE)
SSIM = Column("SSIM", "ssim", row=THIS, interval=False)
COLUMNS = (Column("PSNR, dB", row=THIS), GAINED, SSIM, *(replace(column, row=THIS) for column in LOOKS))


@dataclass(frozen=True, kw_only=True)
class Options(Plan):
    """What the experiment takes."""

    recipes: tuple[str, ...] = RECIPES
    """Which recipes to train (`hwm recipes`)."""
    clips: CountOrNone = 48
    """Clips to score on, from rooms never trained on; 0: all."""
    sizes: Annotated[tuple[int, ...], Range(1, 10_000, some=True)] = (1, 5, 10, 20, 50)
    """Numbers of samples."""
    solver_steps: Count = 8
    """Solver steps of flows."""
    lpips: tuple[Path, ...] = ()
    """AlexNet weights and LPIPS heads for LPIPS."""


def declare(plan: Options) -> Experiment:
    """One scoring a run, with as many samples as the largest ensemble needs."""
    runs, sizes = trainings(*map(Train, plan.recipes)), sorted({1, *plan.sizes})
    tuning = plan.tuning_clips
    usual = Scoring(protocol="sampling", members=tuple(sizes), lpips=plan.lpips, tuning_clips=tuning)
    values = {}
    for run, config in configs_of(runs).items():
        flows = "solver" in config.model.prediction_settings
        scoring = replace(usual, set=(f"model.steps={plan.solver_steps}",)) if flows else usual
        values[run] = {str(n): scoring for n in sizes}
    sweep = Sweep("ensemble-size", "samples", values, {str(n): mean_of(n) for n in sizes})
    shown = (GAINED, *(replace(column, row=THIS) for column in (SHARPNESS, *LOOKS[1:4:2])))
    plots = {"PSNR gained over one sample, and the look, against the number of samples": sweep.all().curves("samples", *shown)}
    return sweep.experiment("Size of ensembles", runs, plan, about=ABOUT, plots=plots, columns=COLUMNS, sentence=sentence)


def sentence(found: Found, sweep: Sweep, run: str) -> str:
    """What averaging gives a run, and what it takes."""
    table, sharp = sweep.table(run), replace(SHARPNESS, row=THIS)
    *some, most = [label for label in table.rows if label != "1"] or ["1"]
    said = f"{run}: the mean of {most} gains {table.text(found, most, GAINED) or '0'} dB over one sample"
    if some and (whole := table.value(found, most, GAINED)) and whole.mean > 0:
        share = table.number(found, some[0], GAINED) / whole.mean
        said += f", {share:.0%} of it by the first {some[0]}"
    one, all_of_them = (table.text(found, label, sharp) for label in ("1", most))
    said += f"; sharpness goes from {one} to {all_of_them} of the truth's"
    fit = found[next(iter(sweep.keys[run].values()))].facts.get("saturation")
    if fit is not None and not fit["clipped"]:
        said += f"; by the fit of 1 / N it ends at a pooled PSNR of {fit['psnr_limit']:.2f} dB"
    return f"{said}."
