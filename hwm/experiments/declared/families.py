"""Any recipes side by side: trained on the same recordings, held against the same recorded frames."""

from dataclasses import dataclass, replace
from typing import Any

from hwm.evaluate.protocols import COMPRESSION, SAMPLING, Protocol, Scoring, own_protocol
from hwm.evaluate.scores import ALL, LAST, ORIGINAL
from hwm.experiments.compare import Column, Compare
from hwm.experiments.experiment import Experiment, Plan, Score, Section, Train, config_of


@dataclass(frozen=True, kw_only=True)
class Options(Plan):
    """What the experiment takes."""

    recipes: tuple[str, ...] = ("st-demo", "direct-tiny")
    """Which recipes to train (`hwm recipes`)."""
    frame_76: bool = False
    """Score the sampling track's frame as well, by ensembles."""


def declare(plan: Options) -> Experiment:
    """A run a recipe, scored by its own protocol; a model of video, which can be scored by any, by all those of the others."""
    runs = {name: Train(name) for name in plan.recipes}
    configs = {name: config_of(run) for name, run in runs.items()}
    own = {name: own_protocol(config.data.clip) for name, config in configs.items() if config.model.kind != "video"}
    shared = list(dict.fromkeys(protocol for protocol in own.values() if not protocol.ensembles)) or [COMPRESSION]
    by: dict[str, list[str]] = {}
    scorings: dict[str, Score] = {}

    def ask(name: str, protocol: Protocol) -> None:
        key = f"{name}/{protocol.name}"
        scoring = Scoring(protocol=protocol.name)  # type: ignore[arg-type]
        if protocol.ensembles:
            scoring = replace(scoring, members=(1, 5), tuning_clips=max(2, min(8, (plan.clips or 32) // 4)))
        scorings[key] = Score(name, scoring, recorded=not protocol.ensembles)
        by.setdefault(protocol.title, []).append(key)

    for name in runs:
        for protocol in dict.fromkeys(([own[name]] if name in own else shared) + [SAMPLING] * plan.frame_76):
            ask(name, protocol)

    def table(title: str, keys: list[str], span: str, words: str) -> Compare:
        place: dict[str, Any] = {"reference": ORIGINAL, "span": span}
        gains = [("copying", "headline", "copy"), ("permuted states", "control", "permuted")]
        columns = [Column("PSNR, dB", **place), *(Column(f"over {a}, dB", row=row, over=b, **place) for a, row, b in gains)]
        columns += [Column("SSIM", "ssim", interval=False, **place), Column("sharpness", "sharpness", interval=False, **place)]
        return Compare(f"{title}, {words}", {key.split("/")[0]: [key] for key in keys}, columns)

    sections = []
    for title, keys in by.items():
        tables = [table(title, keys, LAST, "last frame")]
        if title != SAMPLING.title:
            tables.append(table(title, keys, ALL, "all frames"))
        gains = [column for column in tables[0].columns if column.over]
        links = {key.split("/")[0]: key for key in keys}
        about = "Against the frames as recorded, mean over clips of unseen rooms with 95 % intervals over recordings."
        plots = {"Over copying and over permuted states": tables[0].dots(*gains)}
        sections.append(Section(title, about, plots, tables, links=links))
    return Experiment(
        "Families side by side", "families", runs, scorings, sections,
        lead=f"{', '.join(runs)}: {plan.source}, seed {plan.seed}, {plan.clips} clips of unseen rooms.",
    )  # fmt: skip
