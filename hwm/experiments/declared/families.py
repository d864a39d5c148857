"""Any recipes side by side: trained on the same recordings, held against the same recorded frames."""

import itertools
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from hwm.evaluate.protocols import COMPRESSION, SAMPLING, Protocol, Scoring, own_protocol
from hwm.evaluate.scores import ALL, LAST, ORIGINAL
from hwm.experiments.compare import Column, Compare
from hwm.experiments.experiment import Experiment, Found, Plan, Score, Section, Train, config_of
from hwm.experiments.sweep import configs_of, trainings


@dataclass(frozen=True, kw_only=True)
class Options(Plan):
    """What the experiment takes."""

    recipes: tuple[str, ...] = ("st-demo", "direct-tiny")
    """Which recipes to train (`hwm recipes`)."""
    changes: tuple[str, ...] = ()
    """Settings such as model.refine=0, with each of which every recipe is trained once more."""
    ablate: bool = False
    """Train every recipe once more without each of the settings by which it departs from its family's published form."""
    frame_76: bool = False
    """Score the sampling track's frame as well, by ensembles."""


def declare(plan: Options) -> Experiment:
    """A run a recipe, scored by its own protocol; a model of video, which can be scored by any, by all those of the others."""
    variants = {name: [Train(name)] for name in plan.recipes}
    for name, of_recipe in variants.items():
        changes = (*plan.changes, *(departures(name) if plan.ablate else ()))
        of_recipe += [Train(name, (change,)) for change in dict.fromkeys(changes)]
    runs = trainings(*itertools.chain(*variants.values()))
    configs = configs_of(runs)
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

    def verdict(found: Found) -> list[str]:
        """What each change of a recipe does to it, the greatest loss first."""
        said = []
        for (title, keys), (name, (plain, *changed)) in itertools.product(by.items(), variants.items()):
            rows = table(title, keys, LAST, "")
            if not changed or plain.label not in rows.rows:
                continue
            gain = rows.columns[1]
            whole, losses = rows.number(found, plain.label, gain), {}
            for run in changed:
                losses[run.changes[0].partition(".")[2]] = whole - rows.number(found, run.label, gain)
            words = ", ".join(f"{change} {-losses[change]:+.2f}" for change in sorted(losses, key=lambda change: -losses[change]))
            said.append(f"{name}, {title}: {rows.text(found, plain.label, gain)} dB over copying; with a change: {words} dB.")
        return said

    return Experiment(
        "Families side by side", "families", runs, scorings, sections,
        lead=f"{', '.join(plan.recipes)}: {plan.source}, seed {plan.seed}, {plan.clips} clips of unseen rooms.", verdict=verdict,
    )  # fmt: skip


def departures(name: str) -> list[str]:
    """The settings by which a recipe's model departs from its family's published form, as changes back to that, each alone.

    Sizes are none: they are what makes a twin.  Nor is what cannot be taken back alone.
    """
    model, found = config_of(Train(name)).model, []
    published, hints = type(model)(), get_type_hints(type(model), include_extras=True)
    for field in fields(model):
        now, then = getattr(model, field.name), getattr(published, field.name)
        kind = hints[field.name]
        kind = get_args(kind)[0] if get_origin(kind) is Annotated else kind
        switch = kind in (bool, float) or get_origin(kind) is Literal or (kind is int and then == 0)
        if not switch or now == then or field.name in model.prediction_settings:
            continue
        change = f"model.{field.name}={str(then).lower() if kind is bool else then}"
        try:
            config_of(Train(name, (change,)))
        except ValueError:
            continue
        found.append(change)
    return found
