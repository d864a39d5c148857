"""Masked- and Flow-HWM in their four variants under one budget, as Tables 1 and 2 of the HWM paper.

Every model sees the same number of clips of the same recordings, in the same order; the budget is clips, not time, so
that the tables repeat.  The published figures stand beside ours and are never mixed with them.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from hwm.evaluate.scores import Table
from hwm.experiments.compare import Column, Compare
from hwm.experiments.experiment import Experiment, Plan, Score, Section, Train, Variant
from hwm.experiments.published import TABLES
from hwm.recipes import recipe

TITLES = {"masked": "Masked-HWM (Table 1)", "flow": "Flow-HWM (Table 2)"}
PSNR, TFD, FID = Column("PSNR, dB"), Column("TFD", "TFD"), Column("FID", "FID")
SIZE, GAIN = Column("parameters, M", "parameters", scale=1e6, digits=2), Column("over copying, dB", over="copy")
COLUMNS = (
    SIZE,
    Column("peak memory, MB", "peak_bytes", scale=1e6, digits=1),
    Column("samples/s", "samples/s", digits=2),
    PSNR,
    Column("PSNR of a sample, dB", row="sample"),
    GAIN,
    Column("over zeroed states, dB", over="zeroed"),
    Column("over permuted states, dB", over="permuted"),
    TFD,
    Column("TFD of a sample", "TFD", row="sample"),
    FID,
    Column("FID of a sample", "FID", row="sample"),
)
ABOUT = (
    "All eight future frames against the tokenizer's reconstruction, mean over clips of unseen rooms with 95 % intervals over "
    "recordings. PSNR is of the mean of what the model predicts; the paper scores a sample. TFD is a distance in the features "
    "of the shipped tokenizer and no FID."
)


@dataclass(frozen=True, kw_only=True)
class Options(Plan):
    """What the experiment takes."""

    variants: tuple[Variant, ...] = ("base", "modality", "full", "split")
    """Which variants of both families."""


def declare(plan: Options) -> Experiment:
    """A run of each family and variant, its scores beside the published ones."""
    names = {family: {variant: f"{family}-hwm-{variant}-{plan.size}" for variant in plan.variants} for family in TITLES}
    runs = {name: Train(name) for of_family in names.values() for name in of_family.values()}
    budget = recipe(next(iter(runs))).train
    clips = (plan.steps or budget.steps) * budget.batch_size

    def section(family: str) -> Section:
        title = f"Ours: {plan.size} twins, {plan.source}, {clips} training clips each, on {plan.clips} clips of unseen rooms"
        ours = Compare(title, {variant: [name] for variant, name in names[family].items()}, COLUMNS, head="variant")
        plots = {f"{TITLES[family]}: PSNR over copying, and parameters": ours.dots(GAIN, SIZE)}
        links = {str(variant): name for variant, name in names[family].items()}
        return Section(TITLES[family], ABOUT, plots, [ours, lambda found: published(family, plan.variants)], links=links)

    return Experiment(
        "Humanoid World Models: two families, four variants",
        "tables",
        runs,
        {name: Score(name) for name in runs},
        [section(family) for family in TITLES],
        lead=f"{plan.size} twins of the published models, {plan.source}, seed {plan.seed}: every model learned from {clips} "
        "clips in the same order. Figures of the paper are marked as published; they were measured on other data at another "
        "size and compare with ours in their order at most.",
        extra={"published": {family: {name: asdict(p) for name, p in of.items()} for family, of in TABLES.items()}},
        measured=True,
    )


def published(family: str, variants: Sequence[str]) -> Table:
    """The paper's table."""
    rows = []
    for variant, p in TABLES[family].items():
        if variant in variants:
            numbers = (p.peak_memory_gb, p.samples_per_second, p.fid, p.psnr_db)
            rows.append([variant, f"{p.parameters_billion:g}", *(f"{n:.2f}" for n in numbers)])
    title = "Published: 1X data, 256x256, NVIDIA A6000; not comparable with the figures above"
    return Table(title, ["variant", "parameters, B", "peak memory, GB", "samples/s", "FID", "PSNR, dB"], rows)
