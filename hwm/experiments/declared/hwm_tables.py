"""Masked- and Flow-HWM in their four variants, as Tables 1 and 2 of the HWM paper, at full size or as twins.

What the paper scores comes first: samples of all 8 future frames, drawn as the paper draws them, their FID and PSNR against
the tokenizer's reconstruction, and what such a sample costs.  Our own readings have a table of their own.  The published
figures stand beside and are never mixed with ours.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from hwm.config import CountOrNone
from hwm.evaluate.protocols import Scoring
from hwm.experiments.compare import Column, Compare
from hwm.experiments.experiment import Experiment, Found, Plan, Score, Section, Train, Variant, config_of
from hwm.experiments.published import TABLES

TITLES = {"masked": "Masked-HWM (Table 1)", "flow": "Flow-HWM (Table 2)"}
INFERENCE = {
    "masked": ("model.steps=2",),
    "flow": ("model.steps=50", "model.guidance=3.0", "model.temperature=1.0", "model.solver=euler"),
}
"""How the paper draws a sample (sections 3.1 and 3.2); the temperature of Masked-HWM, which it does not print, is the run's."""
SAMPLE = "/as-published"
"""What the name of a run's scoring ends with where it is the paper's; the other is what other experiments ask of the run too."""
PASSES = {"masked": (20, 20), "flow": (100, 10)}
"""About what a sample and a mean cost in passes of a network; only the time left depends on it."""
GAIN, SIZE = Column("over copying, dB", over="copy"), Column("parameters, M", "parameters", scale=1e6, digits=2)
AS_PRINTED = (
    (Column("parameters, B", "parameters", scale=1e9, digits=4), "parameters_billion"),
    (Column("peak memory, GB", "peak_bytes", scale=1e9, digits=3), "peak_memory_gb"),
    (Column("samples/s", "samples/s", digits=2), "samples_per_second"),
    (Column("FID", "FID"), "fid"),
    (Column("PSNR, dB"), "psnr_db"),
)
READINGS = (
    Column("PSNR of the mean, dB"),
    Column("PSNR of a sample, dB", row="sample"),
    GAIN,
    Column("over zeroed states, dB", over="zeroed"),
    Column("over permuted states, dB", over="permuted"),
    Column("TFD of the mean", "TFD"),
    Column("TFD of a sample", "TFD", row="sample"),
    Column("FID of the mean", "FID"),
    Column("FID of a sample", "FID", row="sample"),
    Column("samples/s", "samples/s", digits=2),
    Column("peak memory, GB", "peak_bytes", scale=1e9, digits=3),
)
HOW = {"masked": "2 passes", "flow": "50 Euler steps, guidance 3"}
ABOUT = {
    family: "All eight future frames against the tokenizer's reconstruction, mean over clips, 95 % intervals over recordings. "
    f"First as the paper scores: a sample, {how}; samples/s and memory are of it, without decoding. Then our readings, as the "
    "run itself predicts: the mean of what it foresees, and a sample. FID takes --inception; TFD is a distance in the features "
    "of the shipped tokenizer and no FID."
    for family, how in HOW.items()
}


@dataclass(frozen=True, kw_only=True)
class Options(Plan):
    """What the experiment takes."""

    clips: CountOrNone = 0
    """Clips to score on, from rooms never trained on; 0: all, as the paper."""
    families: tuple[Literal["masked", "flow"], ...] = ("masked", "flow")
    """Which families; Masked-HWM takes tokens alone, Flow-HWM latents of raw video."""
    variants: tuple[Variant, ...] = ("split", "base", "modality", "full")
    """Which variants of them."""


def declare(plan: Options) -> Experiment:
    """A run of each family and variant, scored as the paper does and as we do, beside the published figures."""
    names: dict[str, dict[str, str]] = {
        family: {variant: plan.named(f"{family}-hwm-{variant}") for variant in plan.variants} for family in plan.families
    }
    runs = plan.given({name: Train(name) for of_family in names.values() for name in of_family.values()})
    scorings = {}
    for family, of_family in names.items():
        for name in of_family.values():
            sample, mean = PASSES[family]
            scorings[name + SAMPLE] = Score(name, Scoring(decode="sample", set=INFERENCE[family]), passes=sample)
            scorings[name] = Score(name, passes=mean)
    scored = f"{plan.clips} clips" if plan.clips else "all clips"

    def table(family: str) -> Compare:
        columns = [printed(column, family, name) for column, name in AS_PRINTED] + [Column("TFD", "TFD"), GAIN]
        title = f"as the paper scores, {scored} of unseen rooms ({HOW[family]})"
        return Compare(title, {variant: [name + SAMPLE] for variant, name in names[family].items()}, columns, head="variant")

    def section(family: str) -> Section:
        rows = {variant: [name] for variant, name in names[family].items()}
        ours = Compare("our readings, by the run's own settings", rows, READINGS, head="variant")
        plots = {f"{TITLES[family]}: PSNR of the mean over copying": ours.dots(GAIN)}
        links = {f"{variant}{kind}": name + key for variant, name in names[family].items()
                 for kind, key in ((", as the paper", SAMPLE), ("", ""))}  # fmt: skip
        return Section(TITLES[family], ABOUT[family], plots, [table(family), ours], links=links)

    return Experiment(
        "Humanoid World Models: two families, four variants",
        "tables",
        runs,
        scorings,
        [section(family) for family in names],
        lead=f"{'Models as published' if plan.size == 'full' else f'{plan.size.capitalize()} twins of the published models'}, "
        f"{plan.source}, seed {plan.seed}. {budget(plan, runs)} Columns marked as published are the paper's: 1X data at 256x256, "
        "21 000 frames, one NVIDIA A6000" + ("." if plan.size == "full" else "; they compare with ours in their order at most."),
        verdict=lambda found: verdict(found, {family: table(family) for family in names}),
        extra={"published": {family: {name: asdict(p) for name, p in of.items()} for family, of in TABLES.items()}},
        measured=True,
    )


def printed(column: Column, family: str, name: str) -> Column:
    """The column with what the paper prints beside it."""
    return replace(column, printed={variant: figures.printed(name) for variant, figures in TABLES[family].items()})


def budget(plan: Plan, runs: Mapping[str, Train | Path]) -> str:
    """How much the runs learned from, in words."""
    clips = set()
    for run in runs.values():
        train = config_of(run).train
        steps = plan.steps if plan.steps and isinstance(run, Train) else train.steps
        clips.add(steps * train.batch_size * train.accumulate)
    return f"Every run learned from {' or '.join(f'{n}' for n in sorted(clips))} clips."


def verdict(found: Found, tables: dict[str, Compare]) -> list[str]:
    """How the variants stand to each other, and the families, here and in print."""
    sentences, best = [], dict[str, tuple[float, float]]()
    for family, table in tables.items():
        psnr = {variant: table.number(found, variant, table.columns[4]) for variant in table.rows}
        ours, theirs = order(psnr), order({variant: TABLES[family][variant].psnr_db for variant in psnr})
        best[family] = max(psnr.values()), max(TABLES[family][variant].psnr_db for variant in psnr)
        if len(psnr) > 1:
            sentences.append(f"{TITLES[family].partition(' (')[0]} by PSNR of a sample: {ours} (published: {theirs}).")
    if len(best) > 1:
        gaps = [masked - flow for masked, flow in zip(best["masked"], best["flow"])]
        sentences.append(f"The best Masked-HWM lies {gaps[0]:+.2f} dB from the best Flow-HWM (published: {gaps[1]:+.2f} dB).")
    return sentences


def order(psnr: dict[str, float]) -> str:
    """Variants from the best to the last."""
    return " > ".join(sorted(psnr, key=lambda variant: -psnr[variant]))
