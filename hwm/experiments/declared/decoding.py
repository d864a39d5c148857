"""From a distribution of tokens to pictures: the likeliest, drawn at a temperature, by top-k or top-p, or the expected code."""

from dataclasses import dataclass
from typing import Annotated, Any

from hwm.config import CountOrNone
from hwm.evaluate.protocols import AUTOREGRESSIVE, EXPECTED_CODE
from hwm.evaluate.scores import ALL_GRIDS, TOKENS
from hwm.experiments.compare import THIS, Column
from hwm.experiments.experiment import Experiment, Found, Plan, Train
from hwm.experiments.sweep import LOOKS, Sweep, configs_of, expect, scoring_of, trainings
from hwm.work.ranges import Range

ABOUT = (
    "Every row decodes the same model; top-k and top-p at temperature 1. The expected code is that of the likeliest rollout: "
    "each token weighed by its probability, so that doubt becomes blur. The cross-entropy of a grid depends on the tokens that "
    "were drawn before it, in models of one future grid on none."
)
PSNR = Column("PSNR, dB", row=THIS)
COLUMNS = (
    PSNR, Column("over copying, dB", row=THIS, over="copy"),
    Column("cross-entropy, nats", "cross-entropy", AUTOREGRESSIVE, reference=TOKENS, span=ALL_GRIDS),
    *(Column(c.title, c.metric, THIS, interval=c.interval) for c in LOOKS),
)  # fmt: skip
EXPECTED, GREEDY = "expected code", "greedy"


@dataclass(frozen=True, kw_only=True)
class Options(Plan):
    """What the experiment takes."""

    recipes: tuple[str, ...] = ("st-demo", "masked-hwm-base-tiny")
    """Which recipes of models of tokens to train (`hwm recipes`)."""
    clips: CountOrNone = 96
    """Clips to score on, from rooms never trained on; 0: all."""
    temperatures: Annotated[tuple[float, ...], Range(0, 1000, above=True)] = (0.5, 0.7, 1.0)
    """Temperatures at which tokens are drawn."""
    top_ks: Annotated[tuple[int, ...], Range(1, 2**28)] = (5, 50, 500)
    """Numbers of most likely tokens to draw from."""
    top_ps: Annotated[tuple[float, ...], Range(0, 1, above=True, below=True)] = (0.5, 0.9)
    """Probabilities that the tokens to draw from have together."""


def declare(plan: Options) -> Experiment:
    """One scoring a way; the expected code is read where the likeliest tokens are."""
    expect(plan.recipes, lambda model: model.kind == "tokens", "is no model of tokens")
    ways: dict[str, dict[str, Any]] = {GREEDY: {"temperature": 0.0}}
    ways |= {f"temperature {t:g}": {"temperature": t} for t in plan.temperatures}
    ways |= {f"top-k {k}": {"temperature": 1.0, "top_k": k} for k in plan.top_ks}
    ways |= {f"top-p {p:g}": {"temperature": 1.0, "top_p": p} for p in plan.top_ps}
    runs, values = trainings(*map(Train, plan.recipes)), {}
    for run, config in configs_of(runs).items():
        values[run] = {way: scoring_of(config, plan, decode="sample", **how) for way, how in ways.items()}
        values[run] = {EXPECTED: values[run][GREEDY], **values[run]}
    sweep = Sweep("decoding", "way", values, {EXPECTED: EXPECTED_CODE})
    shown = sweep.all().dots(*COLUMNS[1:2], Column("sharpness", "sharpness", THIS, interval=False))
    plots = {"PSNR over copying, and sharpness": shown}
    return sweep.experiment("Decoding of tokens", runs, plan, about=ABOUT, plots=plots, columns=COLUMNS, sentence=sentence)


def sentence(found: Found, sweep: Sweep, run: str) -> str:
    """Which way is best in what."""
    table = sweep.table(run, COLUMNS)
    best, gain = sweep.best(found, run, COLUMNS[1])
    sharp = {label: table.number(found, label, Column("", "sharpness", THIS)) for label in table.rows}
    nearest = min(sharp, key=lambda label: abs(sharp[label] - 1))
    greedy = table.text(found, GREEDY, COLUMNS[1])
    return (
        f"{run}: most PSNR by {best} ({gain} dB over copying; {GREEDY} {greedy}); nearest to the truth's sharpness by {nearest} "
        f"({sharp[nearest]:.2f}; {best} {sharp[best]:.2f})."
    )
