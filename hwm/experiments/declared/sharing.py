"""How many blocks must keep weights of their own: Masked- and Flow-HWM from all weights shared to none, and split attention.

The paper keeps the first four blocks per stream and finds that sharing costs little; here their number is the axis.  The runs
that `hwm-tables` trains too are the same ones.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from hwm.evaluate.scores import Table
from hwm.experiments.compare import Column, Compare
from hwm.experiments.experiment import Experiment, Found, Plan, Score, Section, Train, config_of
from hwm.work.ranges import Range

TITLES = {"masked": "Masked-HWM", "flow": "Flow-HWM"}
KINDS = {"full": "one set for all", "modality": "one a modality"}
SIZE, GAIN = Column("parameters, M", "parameters", scale=1e6, digits=2), Column("over copying, dB", over="copy")
SPEED = Column("samples/s", "samples/s", digits=1)
COLUMNS = (SIZE, Column("PSNR, dB"), GAIN, Column("peak memory, MB", "peak_bytes", scale=1e6, digits=1), SPEED)
LOSS = {"masked": ("ce_masked", "Nats a token of wholly masked grids"), "flow": ("flow_mse", "Squared error of the flow network")}
"""Which validation score is the loss, and what it says."""


@dataclass(frozen=True, kw_only=True)
class Options(Plan):
    """What the experiment takes."""

    unshared: Annotated[tuple[int, ...], Range(0, 1024)] = (0,)
    """Numbers of first blocks with weights per stream, beside the recipe's own number and all of them."""
    families: tuple[Literal["masked", "flow"], ...] = ("masked", "flow")
    """Which families."""


def declare(plan: Options) -> Experiment:
    """Of each family and way of sharing a run for every number of unshared blocks; base and split are those of the paper."""
    runs: dict[str, Train] = {}
    tables: dict[str, Compare] = {}
    for family in plan.families:
        variant = {name: plan.named(f"{family}-hwm-{name}") for name in ("base", "split", *KINDS)}
        model: Any = config_of(Train(variant["full"])).model
        rows: dict[str, list[str]] = {}
        for blocks in sorted({*plan.unshared, model.unshared_blocks, model.num_layers}):
            rows[str(blocks)] = [_run(runs, name, blocks, model, variant) for name in KINDS]
        runs[variant["split"]] = Train(variant["split"])
        rows["split attention"] = [variant["split"], ""]
        tables[family] = Compare(f"{TITLES[family]}, by unshared blocks", rows, COLUMNS, tuple(KINDS.values()), head="blocks")

    def losses(found: Found, family: str) -> Table:
        rows = tables[family].rows
        key, told = LOSS[family]
        last = {name: found.history(name, f"val/{key}") for names in rows.values() for name in names if name}
        shown = {name: f"{points[-1][1]:.4f}" for name, points in last.items() if points}
        cells = [[label, *(shown.get(name, "") for name in names)] for label, names in rows.items()]
        return Table(f"{told} at the last validation", ["blocks", *KINDS.values()], cells)

    def verdict(found: Found) -> list[str]:
        lines = []
        for family, table in tables.items():
            few, *_, all_of_them, _ = table.rows
            share = table.number(found, few, SIZE) / table.number(found, all_of_them, SIZE)
            gains = [GAIN.text(GAIN.value(found[table.rows[blocks][0]])) for blocks in (few, all_of_them)]
            lines.append(f"{TITLES[family]} with {few} unshared blocks and one set of weights for all has {share:.0%} of the "
                         f"parameters of the unshared model, and is {gains[0]} dB over copying where that is {gains[1]}.")
        return lines

    def section(family: str) -> Section:
        table = tables[family]
        curve = Compare(table.title, {k: v for k, v in table.rows.items() if all(v)}, COLUMNS, table.groups, head="blocks")
        plots = {"PSNR over copying, and parameters, by unshared blocks": curve.curves("unshared blocks", GAIN, SIZE, log=False)}
        links = {name: name for names in table.rows.values() for name in names if name}
        about = "All blocks unshared is the paper's base block. Mean over clips of unseen rooms, 95 % intervals over recordings."
        return Section(TITLES[family], about, plots, [table, lambda found: losses(found, family)], links=links)

    return Experiment(
        "Sharing weights across streams", "sharing", runs, {name: Score(name) for name in runs},
        [section(family) for family in plan.families],
        lead=f"Models of size {plan.size} on {plan.source}, seed {plan.seed}, {plan.clips} clips of unseen rooms.",
        verdict=verdict, measured=True,
    )  # fmt: skip


def _run(runs: dict[str, Train], name: str, blocks: int, model: Any, variant: dict[str, str]) -> str:
    """Label of the run with so many unshared blocks, which is added to the runs; the paper's own where there is one."""
    if blocks > model.num_layers:
        raise ValueError(f"--unshared {blocks} is more than the {model.num_layers} blocks of {variant[name]}")
    recipe = variant["base" if blocks == model.num_layers else name]
    if blocks in (model.unshared_blocks, model.num_layers):
        runs[recipe] = Train(recipe)
        return recipe
    label = f"{recipe}-{blocks}-unshared"
    runs[label] = Train(recipe, (f"model.unshared_blocks={blocks}",))
    return label
