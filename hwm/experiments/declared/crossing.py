"""Where the factorisation of attention breaks: textures that cross n places a grid, full and spatio-temporal attention.

How far a texture moves is told by the grids before alone, and the same two models learn all speeds at once.  Full attention can
hold a place against any place of the grid before; the factorised one must first gather other places of each grid.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from hwm.config import Count, CountOrNone
from hwm.evaluate.intervals import Interval
from hwm.evaluate.protocols import AUTOREGRESSIVE, TEACHER_FORCED, Scoring
from hwm.evaluate.scores import ALL_GRIDS, TOKENS
from hwm.experiments.compare import Column, Compare
from hwm.experiments.declared.attention import KINDS
from hwm.experiments.experiment import Experiment, Found, Json, Plan, Score, Section, Train
from hwm.model_config import Layers
from hwm.work.ranges import Range

SMALL = (
    "tokenizer=", "model.vocab_size=64", "model.factors=[]", "model.code_loss=0", "model.grid=[4, 17]",
    "model.num_heads=4", "model.width=64", "model.state_hidden=64", "model.dropout=0", "model.scheduled_sampling=0",
    "model.state_injection=add", "model.loss_on=future", "train.lr=2e-3", "train.weight_decay=0.05", "train.sample_every=0",
    "train.validate_every=100",
)  # fmt: skip
"""What makes st-demo fit these scenes; nothing of them is left to chance, so that no dropout is needed."""
STEPS = 3000
LEAST = 0.05
"""Nats between the intervals of both from which on one is said to fall behind: less is nothing where knowing nothing is 4.16."""
PLACE: Json = {"reference": TOKENS, "span": ALL_GRIDS}
AUTO = Column("cross-entropy, nats", "cross-entropy", row=AUTOREGRESSIVE, **PLACE)
COLUMNS = (AUTO, Column("teacher-forced", "cross-entropy", row=TEACHER_FORCED, **PLACE))


@dataclass(frozen=True, kw_only=True)
class Options(Plan):
    """What the experiment takes; it makes its own scenes."""

    crossings: Annotated[tuple[int, ...], Range(0, 8)] = tuple(range(9))
    """Places that a texture crosses from grid to grid; all of them are learned together."""
    clips: CountOrNone = 64
    """Clips to score on for each number of places; 0: all."""
    scenes: Count = 8192
    """Clips to train on."""
    layers: Layers = 2
    """Blocks of both models: the fewer, the fewer times can places and grids be joined in turns."""
    rows: Literal["together", "apart"] = "together"
    """Whether a texture moves as a whole, or each of its rows by itself."""


def declare(plan: Options) -> Experiment:
    """A training of each kind of attention on scenes of all speeds, scored on unseen scenes of each."""
    if plan.data:
        raise ValueError("--data: crossing makes its own scenes, whose motion must be known; leave it out")
    made = plan.out / f"crossing-{'-'.join(map(str, (plan.rows, *plan.crossings, plan.scenes, plan.seed)))}"
    words = "places crossed a grid"
    changes = (*SMALL, f"model.num_layers={plan.layers}", f"train.steps={STEPS}")
    runs = {f"crossing-{plan.rows}-{plan.layers}-{kind}": Train("st-demo", changes + own) for kind, own in KINDS.items()}
    rows = {str(n): [f"{run}/{n}" for run in runs] for n in plan.crossings}
    scorings = {key: Score(run, Scoring(which="last"), world=n) for n, keys in rows.items() for key, run in zip(keys, runs)}
    table = Compare("by how far a texture moves", rows, COLUMNS, tuple(KINDS), head="places a grid")

    def learning(found: Found) -> bytes:
        from hwm.evaluate.page.plots import Panel, draw

        told = {kind: found.history(run, "val/ce_auto") for kind, run in zip(KINDS, runs)}
        curves = {kind: [(step, Interval(nats)) for step, nats in points] for kind, points in told.items() if points}
        return draw([Panel("", "step", "cross-entropy of held-out scenes, nats", curves)])

    def least(value: Interval) -> float:
        return value.mean if value.low is None else value.low

    def verdict(found: Found) -> list[str]:
        values = {n: [table.value(found, n, AUTO, kind) for kind in range(2)] for n in rows}
        behind = {n: least(own) + least(full.negative()) for n, (own, full) in values.items() if own and full}
        apart = [n for n, nats in behind.items() if nats > LEAST]
        lost = max(values, key=lambda n: values[n][0].mean - values[n][1].mean)  # type: ignore[union-attr]
        own, full = (value.mean for value in values[lost] if value)
        where = f"falls behind full attention from {apart[0]} {words} on" if apart else "is not shown to fall behind"
        return [f"The factorisation {where}; it loses most at {lost}: {own:.2f} nats against {full:.2f}."]

    return Experiment(
        "Motion across places", f"crossing-{plan.rows}-{plan.layers}", runs, scorings,
        [Section("Loss against crossings", "Cross-entropy of the three future grids; all of it can be known after two grids, so "
                 "that a perfect model has 0 nats, and one that knows nothing ln 64 = 4.16.",
                 {"Cross-entropy against places crossed": table.curves(words, AUTO, log=False),
                  "Scenes of all speeds while learning": learning}, [table])],
        lead=f"Random textures of 4 x 17 places and 64 ids that move sideways, rows {plan.rows}: {plan.scenes} clips with "
        f"{words} out of {', '.join(rows)}, seed {plan.seed}; {plan.layers} blocks; states are noise.",
        verdict=verdict, makes=partial(scenes, plan, made), worlds={n: made / f"moves-{n}" for n in rows},
    )  # fmt: skip


def scenes(plan: Options, made: Path) -> Path:
    """The datasets: for training and validation of all speeds, for tests of each."""
    from hwm.sim.crossing import write_crossing

    held_out, apart = max(plan.clips, 64), plan.rows == "apart"
    for number, (name, clips) in enumerate({"train": plan.scenes, "val": held_out}.items()):
        write_crossing(made / f"{name}_v2.0", crossings=plan.crossings, clips=clips, seed=(plan.seed, number), apart=apart)
    for n in plan.crossings:
        test = made / f"moves-{n}" / "val_unseen_v2.0"
        write_crossing(test, crossings=(n,), clips=held_out, seed=(plan.seed, 2, n), apart=apart)
    return made
