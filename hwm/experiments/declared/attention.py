"""Full against spatio-temporal attention: loss, memory and time, and how these grow with grids and places.

Both are one model with the same weights (`STConfig.attention`): where the places of a grid attend to their own grid's, with full
attention they attend to those of all grids up to it.  Attention over time at a place stays in both, so that no parameter differs.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

from hwm.config import changed
from hwm.evaluate.intervals import Interval
from hwm.evaluate.protocols import AUTOREGRESSIVE, TEACHER_FORCED
from hwm.evaluate.scores import ALL_GRIDS, TOKENS, Table
from hwm.experiments.compare import Column, Compare
from hwm.experiments.experiment import Experiment, Found, Json, Plan, Score, Section, Train, config_of
from hwm.work.ranges import Range

KINDS: dict[str, tuple[str, ...]] = {"spatio-temporal": (), "full": ("model.attention=full",)}
"""With the changes that make them of a recipe."""
PLACE: Json = {"reference": TOKENS, "span": ALL_GRIDS}
FORCED, AUTO = (Column(f"cross-entropy, {words}", "cross-entropy", row=row, **PLACE)
                for words, row in (("teacher-forced", TEACHER_FORCED), ("autoregressive", AUTOREGRESSIVE)))  # fmt: skip
COLUMNS = (
    FORCED, AUTO, Column("PSNR, dB"), Column("over copying, dB", over="copy"), Column("parameters, M", "parameters", scale=1e6),
    Column("peak memory, MB", "peak_bytes", scale=1e6, digits=1), Column("predictions/s", "samples/s", digits=1),
)  # fmt: skip
ABOUT = (
    "One training step (loss and gradients) of one clip of random tokens, as the recipe trains but without scheduled sampling: "
    "seconds are the least of three, memory is the peak above what was held. On a CPU attention with dropout keeps its weights; "
    "a fused kernel on a GPU would keep none, and save memory but no time. Scores: attention weights of a layer and head, by "
    "arithmetic: T S² + T² S, for full attention T (T + 1) / 2 S² + T² S, for no score is made that a mask hides (with a mask, "
    "as the report counts, T² S²)."
)


@dataclass(frozen=True, kw_only=True)
class Options(Plan):
    """What the experiment takes."""

    grids: Annotated[tuple[int, ...], Range(1, 1000)] = (2, 5, 11)
    """Input grids T of the steps that are measured, at the recipe's places."""
    sides: Annotated[tuple[int, ...], Range(1, 256)] = (8, 16, 32)
    """Sides of the grids of the steps that are measured, at the recipe's number of grids; S is the square."""


def declare(plan: Options) -> Experiment:
    """The recipe and its twin with full attention, scored; and a step of each measured as T and S grow."""
    base = plan.st
    named = {"spatio-temporal": base.recipe, "full": f"{base.recipe}-full"}
    runs = {named[kind]: Train(base.recipe, base.changes + changes) for kind, changes in KINDS.items()}
    table = Compare("trained alike", {kind: [name] for kind, name in named.items()}, COLUMNS, head="attention")

    def verdict(found: Found) -> list[str]:
        forced, auto = ([table.number(found, kind, column) for kind in KINDS] for column in (FORCED, AUTO))
        last = measured(found)[-1]
        times, memory = (last[what]["full"] / last[what]["spatio-temporal"] for what in ("seconds", "bytes"))
        return [
            f"Full attention changes the cross-entropy by {forced[1] - forced[0]:+.3f} nats teacher-forced and "
            f"{auto[1] - auto[0]:+.3f} autoregressive; at {last['T']} grids of {last['S']} places a step of it takes {times:.1f} "
            f"times the time and {memory:.1f} times the memory."
        ]

    def measured(found: Found) -> list[Json]:
        return found.kept("attention-steps", lambda: [step_cost(plan, *size) for size in sizes(plan)])

    def growth(found: Found) -> Table:
        head = ["T", "S", *(f"{what}, {kind}" for what in ("s", "MB", "scores") for kind in KINDS)]
        rows = [[str(at["T"]), str(at["S"]), *(f"{at['seconds'][kind]:.3f}" for kind in KINDS),
                 *(f"{at['bytes'][kind] / 1e6:.0f}" for kind in KINDS), *(f"{at['scores'][kind]:,}" for kind in KINDS)]
                for at in measured(found)]  # fmt: skip
        return Table("a training step of one clip", head, rows)

    def plot(found: Found) -> bytes:
        from hwm.evaluate.page.plots import Panel, draw

        panels, (T, S), steps = [], reference(plan), measured(found)
        for letter, other, fixed in (("T", "S", S), ("S", "T", T)):
            alike = sorted((at for at in steps if at[other] == fixed), key=lambda at: at[letter])
            for what, scale, unit in (("seconds", 1, "s"), ("bytes", 1e6, "MB")):
                curves = {kind: [(at[letter], Interval(at[what][kind] / scale)) for at in alike] for kind in KINDS}
                ticks = [at[letter] for at in alike]
                panels.append(Panel(f"{other} = {fixed}", letter, f"a step, {unit}", curves, log=True, ticks=ticks))
        return draw(panels)

    return Experiment(
        "Full against spatio-temporal attention", "attention", runs, {name: Score(name) for name in runs},
        [Section("Loss", "Against the true tokens and the tokenizer's reconstruction.",
                 {"Cross-entropy": table.dots(FORCED, AUTO)}, [table], links=named),
         Section("Growing T and S", ABOUT, {"Time and memory of a training step": plot}, [growth])],
        lead=f"{base.recipe} on {plan.source}, seed {plan.seed}, {plan.clips} clips of unseen rooms.", verdict=verdict,
        measured=True,
    )  # fmt: skip


def reference(plan: Options) -> tuple[int, int]:
    """T and S of the recipe."""
    model: Any = config_of(plan.st).model
    return model.context_grids + model.future_grids - 1, model.grid[0] * model.grid[1]


def sizes(plan: Options) -> Iterable[tuple[int, int]]:
    """Number and side of the grids that are measured, the largest last."""
    T, S = reference(plan)
    wanted = {(grids, round(S**0.5)) for grids in plan.grids} | {(T, side) for side in plan.sides}
    return sorted(wanted, key=lambda size: size[0] * size[1] ** 2)


def step_cost(plan: Options, grids: int, side: int) -> Json:
    """Seconds, peak bytes and attention scores of a training step, by kind of attention; of one thread on a CPU."""
    import time

    import torch

    from hwm.clock import COSMOS
    from hwm.evaluate.cost import Timed, measure_cost
    from hwm.models.build import build_model
    from hwm.training.device import choose_device, cpu_threads

    device, S = choose_device(plan.device), side * side
    found: Json = {"T": grids, "S": S, "seconds": {}, "bytes": {}}
    for kind, changes in KINDS.items():
        values = {"model.context_grids": grids, "model.future_grids": 1, "model.grid": [side, side]}
        values |= {"model.num_states": COSMOS.num_frames(grids + 1), "model.scheduled_sampling": 0.0}
        config = changed(config_of(Train(plan.st.recipe, plan.st.changes + changes)), values)
        model, batch = build_model(config).to(device), config.model.example(1).to(device)
        step = lambda: model.loss(batch, generator=torch.Generator().manual_seed(0))["loss"].backward()  # noqa: B023, E731
        with cpu_threads(1):
            cost = measure_cost(model, [Timed("s", step, warm=True)], device=device, how="a training step of one clip")
            spent = [cost.figures["s"]]
            for _ in range(3 if device.type == "cpu" else 0):  # what else the machine does is not counted
                begun = time.process_time()
                step()
                spent.append(time.process_time() - begun)
        found["seconds"][kind], found["bytes"][kind] = min(spent), cost.peak_bytes or 0
    own, past = grids * S**2 + grids**2 * S, grids * (grids - 1) // 2 * S**2
    return found | {"scores": {"spatio-temporal": own, "full": own + past}}
