"""Quality of Flow-HWM against the number of solver steps, as published and with shortcut training.

Shortcuts are ours, beyond the paper.  PSNR alone would reward few steps: one step from noise gives the mean of all futures,
which is blurred but near each of them.  So a distance of appearance (TFD) stands beside it, and all figures here are of
samples, not of means.
"""

from dataclasses import dataclass

from hwm.evaluate.protocols import Scoring
from hwm.experiments.compare import Column, Compare
from hwm.experiments.experiment import Experiment, Found, Plan, Score, Section, Train, Variant

STEPS = (1, 2, 4, 8, 16, 50)
FEW, MANY = 4, 50
"""Of these the goal speaks."""
GOAL_DB = 0.2
"""Four steps are to lie this near to fifty, in PSNR."""


@dataclass(frozen=True, kw_only=True)
class Options(Plan):
    """What the experiment takes."""

    variants: tuple[Variant, ...] = ("base",)
    """Which variant of Flow-HWM; the first is trained."""


def declare(plan: Options) -> Experiment:
    """The plain and the shortcut twin, sampled with every number of steps; a quarter of a batch learns shortcuts."""
    name = plan.named(f"flow-hwm-{plan.variants[0]}")
    runs = {name: Train(name), f"{name}-shortcut": Train(name, ("model.shortcut=0.25",))}  # as in Frans et al. 2024
    rows = {str(steps): [f"{run}/{steps}-steps" for run in runs] for steps in STEPS}
    scorings = {
        key: Score(run, Scoring(decode="sample", set=(f"model.steps={steps}",)), passes=int(steps))
        for steps, keys in rows.items() for key, run in zip(keys, runs)
    }  # fmt: skip
    columns = psnr, tfd, _ = [Column("PSNR, dB"), Column("TFD", "TFD"), Column("samples/s", "samples/s", digits=1)]
    table = Compare("samples", rows, columns, groups=("plain", "shortcut"), head="steps")
    plot = {"PSNR and TFD against the number of solver steps": table.curves("solver steps", psnr, tfd)}

    def verdict(found: Found) -> list[str]:
        change = [[table.number(found, str(FEW), c, group) - table.number(found, str(MANY), c, group) for c in (psnr, tfd)]
                  for group in range(2)]  # fmt: skip
        return [sentence(kind, *by) for kind, by in zip(table.groups, change)]

    return Experiment(
        "Flow-HWM in few steps",
        "steps",
        runs,
        scorings,
        [Section("Solver steps", plots=plot, tables=[table])],
        lead=f"{name} on {plan.source}, seed {plan.seed}; sampled futures of {plan.clips} clips of unseen rooms, against the "
        "tokenizer's reconstruction.",
        verdict=verdict,
        measured=True,
    )


def sentence(kind: str, psnr: float, tfd: float) -> str:
    """How far FEW steps lie from MANY."""
    reached = "reaches" if psnr >= -GOAL_DB else "misses"
    return (
        f"{kind.capitalize()}: {FEW} steps lie {psnr:+.2f} dB in PSNR and {tfd:+.4f} in TFD from {MANY}, which {reached} the "
        f"goal of at most {GOAL_DB} dB below."
    )
