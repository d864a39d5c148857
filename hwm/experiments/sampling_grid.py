"""What Table 2 of the Revontuli report and its curves ask of which run: the smallest set of scorings that answers it.

Rows that differ in the number of samples come from one scoring: its smaller ensembles begin the larger ones.  All
scorings see the same clips and draw with the same seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hwm.config import RunConfig, from_toml
from hwm.experiments.plan import Plan
from hwm.experiments.sampling_scores import Scoring
from hwm.model_config import FlowConfig, FSQConfig, MaskedConfig, WanConfig

STEPS = 20
"""Solver steps of the table's first two blocks."""
GUIDANCE = (2.0, 1.5, 1.0)
FEW_STEPS = (1, 2, 4, 8)
"""Points of the curve of PSNR against steps below `STEPS`."""
ROLLOUT, TOKEN_SAMPLE = 8, 200
"""About how many predictions a flow of every frame needs to reach frame 76, and what a sample of a token family costs
in passes of a flow, for it draws from whole vocabularies; only the time left depends on them."""
TUNING_CLIPS = 8
"""Clips on which blur and blend are chosen, in every scoring, so that all score the same others."""

Key = tuple[str, int | None, float]
"""A scoring: label of the run, solver steps (None: the model has none, or its own), scale of guidance."""


@dataclass(frozen=True)
class Sizes:
    """Scale of the grid.  samples: of the table's larger rows.  many_steps: of its third block.  most: of the curve."""

    samples: int = 20
    many_steps: int = 100
    most: int = 50

    def __post_init__(self) -> None:
        if self.samples < 4 or self.most < self.samples or self.many_steps < 1:
            raise ValueError(
                f"samples must be at least 4, most at least samples and many-steps at least 1; got {self.samples} samples, "
                f"most {self.most}, {self.many_steps} steps"
            )

    @property
    def few(self) -> int:
        """The samples of the table's second row, 5."""
        return max(2, self.samples // 4)

    @property
    def half(self) -> int:
        """The samples with which steps are compared."""
        return self.samples // 2


@dataclass(frozen=True)
class Subject:
    """A trained run that is scored.  label: its name here."""

    label: str
    folder: Path
    config: RunConfig

    @property
    def family(self) -> str:
        """Family of its model."""
        return self.config.model.family

    @property
    def dropout(self) -> bool:
        """Whether it was trained with condition dropout."""
        return isinstance(self.config.model, WanConfig) and self.config.model.condition_dropout > 0

    @property
    def solver_steps(self) -> int | None:
        """Solver steps with which it is scored in the table: `STEPS` for flows, for other families None."""
        return STEPS if isinstance(self.config.model, WanConfig | FlowConfig) else None

    @property
    def own_steps(self) -> int | None:
        """Steps of its predictions in the table, in the sense of its family; None where it has none."""
        model = self.config.model
        return model.steps if isinstance(model, MaskedConfig) else self.solver_steps

    def changes(self, steps: int | None, guidance: float) -> tuple[str, ...]:
        """Overrides that make it predict so."""
        found = () if steps is None else (f"model.steps={steps}",)
        return (*found, f"model.guidance={guidance:g}") if isinstance(self.config.model, WanConfig) else found

    def passes(self, steps: int | None, guidance: float) -> int:
        """Passes of the network for a sample of frame 76, about."""
        if self.solver_steps is None:
            return TOKEN_SAMPLE * (steps or self.own_steps or 1) // (self.own_steps or 1)
        once = 1 if isinstance(self.config.model, WanConfig) else ROLLOUT
        return once * (steps or self.solver_steps) * (1 if guidance == 1 else 2)


def subjects(folders: Sequence[Path]) -> list[Subject]:
    """The runs in these folders, under different labels.  Raises ValueError for what holds no world model."""
    found: list[Subject] = []
    for folder in folders:
        if not (folder / "config.toml").is_file():
            raise ValueError(f"{folder}: not a run folder (no config.toml)")
        config = from_toml(RunConfig, folder / "config.toml")
        if isinstance(config.model, FSQConfig):
            raise ValueError(f"{folder}: holds a tokenizer, not a world model")
        name = folder.resolve().name
        taken = [s.label for s in found if s.label == name or s.label.startswith(f"{name}, ")]
        found.append(Subject(f"{name}, {len(taken) + 1}" if taken else name, folder, config))
    return found


@dataclass(frozen=True)
class Row:
    """A row of the table: how the run `label` predicts.  published: number of the row in `published.SAMPLING`, or None."""

    block: int
    key: Key
    samples: int
    published: int | None


@dataclass(frozen=True)
class Grid:
    """The rows of the table, the curves and the families, as keys of `scorings`.

    study: whose ensembles, alternatives and calibration are looked at.  own: each run's scoring for the family table.
    steps, guidance: points of the curves.
    """

    sizes: Sizes
    subjects: tuple[Subject, ...]
    rows: tuple[Row, ...]
    study: Key
    own: tuple[Key, ...]
    steps: tuple[Key, ...]
    guidance: tuple[Key, ...]
    members: dict[Key, tuple[int, ...]]

    def scorings(self, plan: Plan, data: Path) -> dict[Key, Scoring]:
        """What is to be scored, on a raw dataset."""
        by_label = {subject.label: subject for subject in self.subjects}
        found = {}
        for key, members in self.members.items():
            label, steps, guidance = key
            subject = by_label[label]
            found[key] = Scoring(
                run=subject.folder,
                out=plan.out / "scores" / _slug(label) / f"sampling-{_slug(way(steps, guidance))}",
                data=data,
                members=members,
                clips=plan.clips,
                tuning_clips=max(2, min(TUNING_CLIPS, plan.clips // 4)),
                changes=subject.changes(steps, guidance),
                seed=plan.seed,
                inception=plan.inception,
                lpips=plan.lpips,
                device=plan.device,
                passes=subject.passes(steps, guidance),
            )
        return found


def way(steps: int | None, guidance: float) -> str:
    """How a scoring predicts, in words."""
    words = [] if steps is None else [f"{steps} steps"]
    return ", ".join([*words, *([] if guidance == 1 else [f"guidance {guidance:g}"])]) or "own steps"


def _slug(words: str) -> str:
    return words.replace(", ", "-").replace(" ", "-")


def grid(found: Sequence[Subject], sizes: Sizes) -> Grid:
    """The grid on these runs.

    Block 1 is of the first Wan run trained without condition dropout, blocks 2 and 3 of the first trained with it; where
    there is no Wan run at all, block 1 is of the first run there is.  Blocks without a run are left out.
    """
    wan = [subject for subject in found if isinstance(subject.config.model, WanConfig)]
    dropped = next((subject for subject in wan if subject.dropout), None)
    plain = next((subject for subject in wan if not subject.dropout), None) or (None if wan else found[0])
    study = plain or dropped
    assert study is not None
    one, few, half, samples = 1, sizes.few, sizes.half, sizes.samples
    members: dict[Key, set[int]] = {}

    def ask(subject: Subject, steps: int | None, guidance: float, *wanted: int) -> Key:
        key = (subject.label, steps, guidance)
        members.setdefault(key, set()).update(wanted)
        return key

    own = [ask(subject, subject.solver_steps, 1.0, one, few, half, samples) for subject in found]
    of_study = ask(study, study.solver_steps, 1.0, sizes.most)
    rows, guided = [], []
    if plain:
        rows += [Row(1, of_study, n, i) for i, n in enumerate((one, few, samples))]
    if dropped:
        for number, (block, steps, scale) in enumerate(
            ((2, STEPS, GUIDANCE[0]), (2, STEPS, GUIDANCE[1]), (3, sizes.many_steps, GUIDANCE[1]), (3, sizes.many_steps, 1.0)), 4
        ):
            key = ask(dropped, steps, scale, one, half, samples)
            rows.append(Row(block, key, samples, number))
        guided = [key for key in members if key[0] == dropped.label and key[1] in (STEPS, sizes.many_steps)]
    stepped = dropped or plain
    assert stepped is not None
    curve = []
    if stepped.own_steps is not None:
        wanted = {*FEW_STEPS, stepped.own_steps} | ({sizes.many_steps} if wan else set())
        of_own = {stepped.own_steps: stepped.solver_steps}
        curve = [ask(stepped, of_own.get(steps, steps), 1.0, one, half) for steps in sorted(wanted)]
    return Grid(
        sizes=sizes,
        subjects=tuple(found),
        rows=tuple(rows),
        study=of_study,
        own=tuple(own),
        steps=tuple(curve),
        guidance=tuple(sorted(guided)),
        members={key: tuple(sorted(wanted)) for key, wanted in members.items()},
    )
