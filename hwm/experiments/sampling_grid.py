"""What Table 2 of the Revontuli report and its curves ask of which run: the smallest set of scorings that answers it.

Rows that differ in the number of samples come from one scoring: its smaller ensembles begin the larger ones.  All
scorings see the same clips and draw with the same seeds.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from hwm.config import CountOrNone, RunConfig
from hwm.evaluate.protocols import Scoring
from hwm.experiments.experiment import Plan, Score, Train, Variant, config_of, run_folder, slug
from hwm.recipes import names
from hwm.work.ranges import BadSetting, Range

STEPS, FEW_STEPS = 20, (1, 2, 4, 8)
"""Solver steps of the table's first two blocks, and points of the curve of PSNR against steps below them."""
GUIDANCE = (2.0, 1.5, 1.0)
ROLLOUT, TOKEN_SAMPLE = 8, 200
"""About how many predictions a flow of every frame needs to reach frame 76, and what a sample of a token family costs
in passes of a flow, for it draws from whole vocabularies; only the time left depends on them."""


@dataclass(frozen=True, kw_only=True)
class Options(Plan):
    """What the experiment takes."""

    clips: CountOrNone = 48
    """Clips to score on, from rooms never trained on; 0: all."""
    families: tuple[str, ...] | None = None
    """Which families to train; default: wan, st, masked and flow."""
    variants: tuple[Variant, ...] = ("base",)
    """Which variant of the Humanoid World Models; the first is trained."""
    runs: tuple[str, ...] = ()
    """Run folders to score instead of training, FOLDER or NAME=FOLDER; of those with guidance the first one trained with
    condition dropout, the first without it and the first that learned from the validation set too fill the table."""
    samples: Annotated[int, Range(4, 10_000)] = 20
    """Samples averaged in the table's larger rows, at least 4."""
    many_steps: Annotated[int, Range(1, 10_000)] = 100
    """Solver steps of the table's last block."""
    most: Annotated[int, Range(4, 10_000)] = 50
    """Samples at the end of the curve of PSNR against their number."""
    lpips: tuple[Path, ...] = ()
    """AlexNet weights and LPIPS heads for LPIPS."""

    def check(self) -> None:
        """Raise ValueError for sizes that leave no rows apart, and for choosing what is trained where nothing is."""
        if self.most < self.samples:
            raise BadSetting("most", f"must be at least --samples, {self.samples}, got {self.most}")
        if self.runs and self.families is not None:
            raise ValueError("--families chooses what is trained; with --runs nothing is, so leave it out")


def twins(plan: Options) -> dict[str, Train]:
    """The trainings by label, those with guidance also without condition dropout, and so on the validation set too.

    Raises ValueError without such a twin.
    """
    found, missing = {}, []
    for family in plan.families or ("wan", "st", "masked", "flow"):
        patterns = {"tiny": [f"{family}-demo"], "full": [f"{family}-revontuli"]}.get(plan.size, [])
        patterns += [plan.named(f"{family}-hwm-{plan.variants[0]}"), plan.named(family)]
        if not (name := next((p for p in patterns if p in names()), "")):
            missing.append(family)
            continue
        found[name] = Train(name)
        if guided(config_of(found[name])):
            found[f"{name}-plain"] = Train(name, ("model.condition_dropout=0.0",))
            found[f"{name}-plain-all"] = Train(name, ("model.condition_dropout=0.0",), validation=True)
    if missing:
        raise ValueError(
            f"there is no {plan.size} twin of {', '.join(missing)}: leave it out with --families, or train a recipe of that "
            "family (`hwm recipes`) and give its run with --runs"
        )
    return found


def given(words: Sequence[str]) -> dict[str, Path]:
    """The runs in these folders, under different labels.  Raises ValueError for what holds no world model."""
    found: dict[str, Path] = {}
    for word in words:
        name, folder = run_folder(word)
        name = name or folder.resolve().name
        taken = [label for label in found if label == name or label.startswith(f"{name}, ")]
        found[f"{name}, {len(taken) + 1}" if taken else name] = folder
    return found


def guided(config: RunConfig) -> bool:
    """Whether a model predicts frame 76 at once and knows guidance by the states, as the table's do."""
    return config.data.clip == "sampling" and "guidance" in config.model.prediction_settings


def dropout(config: RunConfig) -> bool:
    """Whether such a model was trained with condition dropout."""
    return guided(config) and config.model.condition_dropout > 0  # type: ignore[union-attr]


def beyond(config: RunConfig) -> bool:
    """Whether a run learned from the very data that it was validated on."""
    return bool(config.data.val) and config.data.val in config.data.train


@dataclass(frozen=True)
class Row:
    """A row of the table: what a scoring gives with so many samples.  published: number of the same row of the report."""

    block: int
    key: str
    samples: int
    published: int


class Grid:
    """The smallest set of scorings that gives the table's rows, the curves and the families.

    Block 1 is of the first guided run trained without condition dropout, its last row of the first that learned from the
    validation set too, blocks 2 and 3 of the first trained with dropout; where there is none at all, block 1 is of the first
    run there is.  Blocks without a run are left out.
    beyond: labels of the runs that learned from the validation set too.
    study: whose ensembles, alternatives and calibration are looked at.  own: each run's scoring for the family table.
    asked: label, solver steps (None: its own) and guidance of each scoring.  steps, guidance: points of the curves.
    """

    def __init__(self, configs: Mapping[str, RunConfig], plan: Options, beyond: Collection[str] = ()) -> None:
        self.configs, self.plan, self.beyond, many = configs, plan, beyond, plan.many_steps
        self.asked: dict[str, tuple[str, int | None, float]] = {}
        self.members: dict[str, set[int]] = {}
        self.rows, self.guidance, self.steps = [], dict[float, list[str]](), dict[int, str]()
        one, few, half, samples = usual = 1, max(2, plan.samples // 4), plan.samples // 2, plan.samples
        of_table = [label for label, config in configs.items() if guided(config) and label not in beyond]
        whole = next((label for label, config in configs.items() if guided(config) and label in beyond), "")
        dropped = next((label for label in of_table if dropout(configs[label])), "")
        plain = next((label for label in of_table if not dropout(configs[label])), "" if of_table else next(iter(configs)))
        # Solver steps in the table; None: the model's own, or it has none.
        table_steps = {name: STEPS if "solver" in c.model.prediction_settings else None for name, c in configs.items()}
        self.own = {label: self._ask(label, steps, 1.0, *usual) for label, steps in table_steps.items()}
        self.study = self._ask(plain or dropped, table_steps[plain or dropped], 1.0, plan.most)
        if plain:
            self.rows += [Row(1, self.study, n, i) for i, n in enumerate((one, few, samples))]
        if whole:
            self.rows.append(Row(1, self.own[whole], samples, 3))
        if dropped:
            wanted = ((2, STEPS, GUIDANCE[0]), (2, STEPS, GUIDANCE[1]), (3, many, GUIDANCE[1]), (3, many, 1.0))
            for number, (block, steps, scale) in enumerate(wanted, 4):
                self.rows.append(Row(block, self._ask(dropped, steps, scale, one, half, samples), samples, number))
            for scale in sorted(GUIDANCE):
                self.guidance[scale] = [key if (key := self.key(dropped, n, scale)) in self.asked else "" for n in (STEPS, many)]
        stepped = dropped or plain
        if (own := self.steps_of(self.own[stepped])) is not None:
            for steps in sorted({*FEW_STEPS, own} | ({many} if of_table else set())):
                self.steps[steps] = self._ask(stepped, table_steps[stepped] if steps == own else steps, 1.0, one, half)

    def key(self, label: str, steps: int | None, guidance: float) -> str:
        """Name of the scoring of a run that predicts so."""
        return f"{slug(label)}/sampling-{slug(way(steps, guidance))}"

    def _ask(self, label: str, steps: int | None, guidance: float, *wanted: int) -> str:
        key = self.key(label, steps, guidance)
        self.asked[key] = label, steps, guidance
        self.members.setdefault(key, set()).update(wanted)
        return key

    def steps_of(self, key: str) -> int | None:
        """Steps of a prediction, in the sense of its family; None where it has none."""
        label, steps, _ = self.asked[key]
        return self.configs[label].model.solver_steps if steps is None else steps

    def name(self, key: str) -> str:
        """A scoring in words."""
        label, steps, guidance = self.asked[key]
        return f"{label}: {way(steps, guidance)}"

    def row_name(self, row: Row) -> str:
        """A row of the table in words."""
        label, _, guidance = self.asked[row.key]
        name = name_of(self.steps_of(row.key), row.samples, guidance if dropout(self.configs[label]) else None)
        return f"{name}, learned from validation data too" if label in self.beyond else name

    def scorings(self) -> dict[str, Score]:
        """What is to be scored."""
        found, plan = {}, self.plan
        for key, (label, steps, guidance) in self.asked.items():
            config = self.configs[label]
            changes = [] if steps is None else [f"model.steps={steps}"]
            changes += [f"model.guidance={guidance:g}"] if guided(config) else []
            once = TOKEN_SAMPLE if config.model.kind == "tokens" else 1 if config.data.clip == "sampling" else ROLLOUT
            share = (self.steps_of(key) or 1) / ((config.model.solver_steps or 1) if config.model.kind == "tokens" else 1)
            scoring = Scoring(
                protocol="sampling", members=tuple(sorted(self.members[key])), set=tuple(changes), lpips=plan.lpips,
                tuning_clips=plan.tuning_clips,
            )  # fmt: skip
            found[key] = Score(label, scoring, passes=round(once * share * (1 if guidance == 1 else 2)))
        return found


def way(steps: int | None, guidance: float) -> str:
    """How a scoring predicts, in words."""
    words = [f"{steps} steps"] * (steps is not None) + [f"guidance {guidance:g}"] * (guidance != 1)
    return ", ".join(words) or "own steps"


def name_of(steps: int | None, samples: int, guidance: float | None) -> str:
    """A row of Table 2 in words."""
    words = [f"{steps} steps"] * (steps is not None) + [f"{samples} sample{'s' * (samples > 1)}"]
    return ", ".join(words + ([] if guidance is None else [f"guidance {guidance:.1f}"]))
