"""The compression track as Table 1, Fig. 3b and the slides' memory table of the Revontuli report, at full size or as a twin."""

from dataclasses import dataclass
from functools import cache
from typing import Any

from hwm.config import CountOrNone, RunConfig, changed
from hwm.evaluate.intervals import Interval
from hwm.evaluate.protocols import AUTOREGRESSIVE, TEACHER_FORCED, UNIGRAM
from hwm.evaluate.scores import ALL_GRIDS, TOKENS, Scores, Table
from hwm.experiments.compare import Column, Compare
from hwm.experiments.experiment import Experiment, Found, Json, Plan, Score, Section, Train
from hwm.experiments.published import ATTENTION, CURVE_STEPS, LEADERBOARD, TRAINING_CURVES, leaderboard

CURVES = {"training, teacher-forced": "cross_entropy", "validation, teacher-forced": "val/ce_teacher",
          "validation, autoregressive": "val/ce_auto"}  # fmt: skip
"""The curves of Fig. 3b: how the figure calls them, and the log of a run."""
PARTS = 5
"""Rows of the table of the curves, at equal shares of the training."""
PLACE: Json = {"reference": TOKENS, "span": ALL_GRIDS}
FIRST = next(entry for entry in LEADERBOARD if entry.track == "compression")

ABOUT_SCORES = (
    "Against the true tokens of the three future grids. The server's top-500 rule is not public: ours is the softmax over the "
    "500 largest logits, with probability 1e-8 for a miss; five rules are in the report."
)
ABOUT_CURVES = (
    "Cross-entropy while training: of training clips, with dropout, and of validation clips, with the true grids before each one "
    "and with its own. Published values are read off the figure, to about 0.2 nats, at the same share of its steps."
)
ABOUT_MEMORY = (
    "Entries of the attention of one layer and head for T grids of S places: by the slides' formula, and the pairs that the "
    "model holds against each other when its training loss runs on shapes (full attention makes no score of later grids). "
    "Activations are of one training clip, reckoned; what a step really takes is measured by `hwm experiment attention`."
)


@dataclass(frozen=True, kw_only=True)
class Options(Plan):
    """What the experiment takes."""

    clips: CountOrNone = 0
    """Clips to score on, from rooms never trained on; 0: all, as the report."""


def declare(plan: Options) -> Experiment:
    """One run, its scores, its curves and what its attention holds against each other."""
    name = plan.st.recipe
    auto, forced = (Column(f"cross-entropy, {words}", "cross-entropy", row=row, printed=printed, **PLACE)
                    for words, row, printed in (("autoregressive", AUTOREGRESSIVE, {name: f"{FIRST.val:.2f}"}),
                                                ("teacher-forced", TEACHER_FORCED, {})))  # fmt: skip
    columns = [auto, forced, Column("top-500 cross-entropy", truncated, digits=3, printed={name: f"{FIRST.test:.2f}"}),
               Column("coverage of the 500", "coverage", row=AUTOREGRESSIVE, **PLACE),
               Column("accuracy", "accuracy", row=AUTOREGRESSIVE, **PLACE),
               Column("unigram", "cross-entropy", row=UNIGRAM, interval=False, **PLACE),
               Column("uniform", lambda scores: scores.settings["uniform_cross_entropy"], digits=3)]  # fmt: skip
    table = Compare("ours, nats; published top-500: on the hidden test set", {name: [name]}, columns)

    def verdict(found: Found) -> list[str]:
        gap = table.number(found, name, auto) - table.number(found, name, forced)
        ends = [TRAINING_CURVES[curve][CURVE_STEPS] for curve in list(CURVES)[1:]]
        return [f"Autoregressive lies {gap:+.3f} nats from teacher-forced (published curves end {ends[1] - ends[0]:+.1f} apart)."]

    return Experiment(
        "Compression track: the ST-Transformer", "compression", {name: Train(name)}, {name: Score(name, passes=6)},
        [
            Section("Table 1, compression track", ABOUT_SCORES, {}, [table, lambda found: leaderboard("compression")],
                    links={name: name}),
            Section("Fig. 3b: training curves", ABOUT_CURVES,
                    {"Cross-entropy against training steps": lambda found: curves_plot(found, name)},
                    [lambda found: curves_table(found, name)]),
            Section("Memory of attention", ABOUT_MEMORY, {}, [lambda found: memory_table(found.config(name))]),
        ],
        lead=f"{name} on {plan.source}, seed {plan.seed}, {plan.clips or 'all'} clips of unseen rooms.", verdict=verdict,
        extra={"published": {"leaderboard": [vars(e) for e in LEADERBOARD], "curves": TRAINING_CURVES, "attention": ATTENTION}},
    )  # fmt: skip


def truncated(scores: Scores) -> float:
    """The top-k cross-entropy by the first rule for what lies outside."""
    return scores.of(AUTOREGRESSIVE, f"top-{scores.settings['top_k']} cross-entropy, floor", **PLACE).mean


def curves_plot(found: Found, run: str) -> bytes:
    """Fig. 3b."""
    from hwm.evaluate.page.plots import ACCENT, FOURTH, MUTED, Panel, draw

    curves = {curve: [(step, Interval(value)) for step, value in found.history(run, name)] for curve, name in CURVES.items()}
    looks = ({"color": MUTED, "linewidth": 1.0}, {"color": FOURTH, "linewidth": 1.8}, {"color": ACCENT, "linewidth": 1.8})
    return draw([Panel("", "step", "cross-entropy, nats", curves)], dict(zip(CURVES, looks)), height=3.6)


def curves_table(found: Found, run: str) -> Table:
    """The curves at equal shares of the training; of training the mean of the steps logged since the row before."""
    logs = {curve: found.history(run, name) for curve, name in CURVES.items()}
    last, rows, before = logs["training, teacher-forced"][-1][0], [], 0
    for part in range(1, PARTS + 1):
        until, cells = round(last * part / PARTS), list[str]()
        for curve, log in logs.items():
            new, printed = [value for step, value in log if before < step <= until], TRAINING_CURVES[curve]
            value = None if not new else sum(new) / len(new) if curve.startswith("training") else new[-1]
            there = printed.get(round(CURVE_STEPS * part / PARTS))
            cells += ["–" if value is None else f"{value:.3f}", "" if there is None else f"{there:.1f}"]
        rows.append([str(until), *cells])
        before = until
    return Table("Fig. 3b in numbers, nats", ["steps", *(h for curve in CURVES for h in (curve, "published"))], rows)


def memory_table(config: RunConfig) -> Table:
    """The slides' table: of the published size as printed and reckoned, and of the run's."""
    from hwm.recipes import recipe

    rows = []
    for which in dict.fromkeys((recipe("st-revontuli"), config)):
        model: Any = which.model
        T, S = model.context_grids + model.future_grids - 1, model.grid[0] * model.grid[1]
        whole, formulas = (T * S) ** 2, {"full": (T * S) ** 2, "spatiotemporal": T * S**2 + T**2 * S}
        for kind, entries in formulas.items():
            published = ATTENTION[kind] if which.recipe == "st-revontuli" else ("", "")
            this = changed(which, {"model.attention": kind, "model.scheduled_sampling": 0.0})
            pairs, kept = counted(this)
            cells = [f"{T} x {S}", millions(entries), published[0], f"{entries / whole:.1%}", published[1]]
            rows.append([f"{which.recipe}, {kind}", *cells, millions(pairs), f"{kept / 1e9:.3g}"])
    head = ["attention", "T x S", "entries, formula", "published entries", "relative", "published relative"]
    return Table("entries a layer and head", [*head, "pairs counted in the model", "activations of a clip, GB"], rows)


@cache
def counted(config: RunConfig) -> tuple[int, int]:
    """Pairs of places in the attention of a layer and head, and bytes of activations, of a training clip."""
    from hwm.doctor.costs import attention_pairs, recipe_costs

    return attention_pairs(config), recipe_costs(config, both=False).plain.clip_bytes


def millions(number: float) -> str:
    """A number as the slides write it."""
    return f"{number / 1e6:.3g}e6"
