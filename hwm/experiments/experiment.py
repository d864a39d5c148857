"""What an experiment is made of: trainings, scorings, tables and plots of them, as values that tell what is wanted.

An experiment is a declaration, one file of the room `declared` with a function `declare` that makes an `Experiment` of the
options it takes.  `hwm experiment` finds these files by itself, and `carry_out` does what they ask for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from hwm.config import CountOrNone, RunConfig, Seed, changed, from_toml, override
from hwm.evaluate.protocols import PROTOCOLS, Protocol, Scoring, own_protocol
from hwm.evaluate.scores import Scores, Table
from hwm.experiments.supplies import Size, Supplies, World, known_everywhere, slug
from hwm.recipes import recipe
from hwm.safe_load.paths import is_file
from hwm.work.allowance import usable_cores
from hwm.work.ranges import Range
from hwm.work.workers import Workers

if TYPE_CHECKING:
    from hwm.prepare import Sets

Json = dict[str, Any]
Variant = Literal["base", "modality", "full", "split"]
"""Of the Humanoid World Models."""
TUNING_CLIPS = 8
"""Most clips on which blur and blend are chosen: the same ones in every scoring, so that all score the same others."""
PICTURES = "pictures"
"""Folder of a scoring in which the frames of its examples lie, as JPEG."""


# --- What a declaration is made of -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The options that every experiment takes; a declaration that takes more extends it.

    val_share: robot time of each validation set, as a share of the training set's.  phases: first frames from which the
    training set is cut into blocks.  commands: whether simulated recordings hold them.
    """

    val_share: ClassVar[float] = 2 / 15
    phases: ClassVar[int] = 2
    commands: ClassVar[bool] = False

    out: Path
    """Folder for data, runs, tables and page; the experiments may share one."""
    data: Path | None = None
    """Folder of datasets (train_v..., val_v..., val_unseen_v...), in it or together in a folder of it: tokens or latents are
    used as they are by whom they fit, others are made of raw video; default: the built-in robot is simulated."""
    size: Size = "tiny"
    """What to train: tiny twins for two CPU cores, medium ones for one GPU, or full, as published."""
    runs: tuple[str, ...] = ()
    """Runs trained elsewhere, which are used and not trained here: NAME=FOLDER, by the name that the experiment gives a run, or
    FOLDER alone where its recipe or its own name says which it is; also folders of `hwm export` and names that are shipped."""
    set: tuple[str, ...] = ()
    """Changes to every recipe that is trained, such as train.recompute=true."""
    tokenizers: tuple[str, ...] = ()
    """Names or folders of tokenizers that made the data or shall make them, each where it fits; default: those of the recipes,
    of which the published ones for tokens and for latents of blocks name none."""
    trust: bool = False
    """Allow TorchScript tokenizers to run."""
    base: str = ""
    """Pretrained model, a folder or hub name, of runs trained elsewhere that adapt one."""
    minutes: Annotated[float, Range(0, 1e6, above=True)] = 30.0
    """Robot time simulated for training."""
    steps: CountOrNone = 0
    """Training steps of every model; 0: those of its recipe."""
    clips: CountOrNone = 192
    """Clips to score on, from rooms never trained on; 0: all."""
    seed: Seed = 0
    """Seed of rooms, training and scoring."""
    workers: Workers = 0
    """Trainings at a time, and scorings whose time is not measured; 0: one per core, on a GPU one."""
    inception: Path | None = None
    """Inception weights for FID."""
    device: str = "auto"
    """auto (the first GPU where there is one), cpu, cuda or another, for training and scoring."""

    @property
    def processes(self) -> int:
        """Trainings and scorings at a time."""
        from hwm.training.device import choose_device

        return self.workers or (usable_cores() if choose_device(self.device).type == "cpu" else 1)

    def named(self, recipe: str) -> str:
        """The recipe of this size: "masked-hwm-base" is that of the published model, or of its twin."""
        return recipe if self.size == "full" else f"{recipe}-{self.size}"

    @property
    def st(self) -> Train:
        """The ST-Transformer of this size."""
        return Train({"tiny": "st-demo", "medium": "st-medium", "full": "st-revontuli"}[self.size])

    def given(self, wanted: Mapping[str, Train | Path]) -> dict[str, Train | Path]:
        """The runs of an experiment, those that were trained elsewhere in the place of their trainings.

        Raises ValueError for a folder without a run, one that is none of those wanted, or of another family.
        """
        found, there = dict(wanted), [run for run in wanted.values() if isinstance(run, Path)]
        for word in self.runs:
            if run_folder(word)[1] in there:
                continue  # of a declaration that takes its runs itself
            name, folder = _of_run(word, wanted)
            if not isinstance(found[name], Train):
                raise ValueError(f"--runs gives {name} twice")
            here, asked = config_of(folder), config_of(found[name])
            if (here.model.family, here.data.clip) != (asked.model.family, asked.data.clip):
                what = f"{here.recipe}, of {here.model.family} on {here.data.clip}"
                raise ValueError(f"{folder}: holds {what}; {name} is of {asked.model.family} on {asked.data.clip}")
            found[name] = folder
        return found

    @property
    def tuning_clips(self) -> int:
        """Clips on which blur and blend of ensembles are chosen, and which are not scored: a quarter of all, 2 to 8."""
        return max(2, min(TUNING_CLIPS, self.clips // 4)) if self.clips else TUNING_CLIPS

    @property
    def source(self) -> str:
        """Where the data come from, in words."""
        return str(self.data) if self.data else f"built-in robot, {self.minutes:g} minutes"


@dataclass(frozen=True)
class Train:
    """A training: a recipe and changes to it.  validation: whether it learns from the validation set too."""

    recipe: str
    changes: tuple[str, ...] = ()
    validation: bool = False

    @property
    def label(self) -> str:
        """A name that tells it wholly, such as wan-tiny-condition_dropout-0.3: experiments in one folder share what has it."""
        return "-".join([self.recipe, *(change.partition(".")[2].replace("=", "-") for change in self.changes)])


def config_of(run: Train | Path) -> RunConfig:
    """What a run is, before it is trained without its data."""
    if isinstance(run, Train):
        return override(recipe(run.recipe), list(run.changes))
    if is_file(run / "config.toml"):
        return from_toml(RunConfig, run / "config.toml")
    from hwm.publish.folder import read_published

    return read_published(run).config


def run_folder(word: str) -> tuple[str, Path]:
    """Name, "" for none, and folder of a run that was trained elsewhere, by whatever `located` takes.

    Raises ValueError where there is no world model.
    """
    name, equals, place = word.partition("=")
    folder = Path(place if equals else word)
    if not is_file(folder / "config.toml"):
        from hwm.publish.folder import is_published
        from hwm.publish.trained import located

        if not is_published(found := located(folder)):
            known = "a run folder (no config.toml), a folder of `hwm export` or a name that is shipped"
            raise ValueError(f"{folder}: not {known}")
        folder = found
    if (role := config_of(folder).model.role) not in ("world model", "twin"):
        raise ValueError(f"{folder}: holds a {role}, not a world model")
    return name if equals else "", folder


def _of_run(word: str, wanted: Mapping[str, Train | Path]) -> tuple[str, Path]:
    """Which of the runs wanted a run folder is, and the folder."""
    name, folder = run_folder(word)
    own, recipes = config_of(folder).recipe, {label: run.recipe for label, run in wanted.items() if isinstance(run, Train)}
    alike = [label for label, recipe in recipes.items() if recipe == own]
    guesses = [name] if name else [folder.resolve().name, own, *(alike if len(alike) == 1 else ())]
    if found := [guess for guess in guesses if guess in wanted]:
        return found[0], folder
    raise ValueError(f"{word}: which run is it? give it as NAME=FOLDER with one of {', '.join(wanted)}")


@dataclass(frozen=True)
class Score:
    """A run scored.  run: label of a run.  scoring: clips, seed, device and Inception weights are the plan's.

    recorded: whether it is held against the recorded video too.  passes: of the network for a sample, for the time left.
    world: one of the experiment's other worlds, in which it is scored.  tuned: whether what is tuned is tuned on validation data.
    clips: to score, where they are not as many as the plan says; 0: all.  branches: of several futures of each start.
    """

    run: str
    scoring: Scoring = Scoring()  # noqa: RUF009
    recorded: bool = False
    passes: int = 1
    world: str = ""
    tuned: bool = False
    clips: int | None = None
    branches: bool = False


@dataclass(frozen=True)
class Section:
    """A part of the page.  about: what it shows, in sentences.  What else it holds is made of what was found.

    plots: PNG by what they show.  tables: `Compare`, or another function.  pictures: a line of them a clip, JPEG and a note
    by the column's name.  links: reports of scorings, by the name they get here.
    """

    title: str
    about: str = ""
    plots: Mapping[str, Callable[[Found], bytes]] = field(default_factory=dict)
    tables: Sequence[Callable[[Found], Table]] = ()
    pictures: Callable[[Found], Sequence[Mapping[str, tuple[bytes, str]]]] = lambda found: ()
    links: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """What is trained and scored, and what is shown of it.

    file: name of the files .json, .md and .html; "": none.  runs: what is trained, or where it lies, by label.
    scorings: by the name of their folder.  verdict: what the numbers say, in sentences.  lead: what was done.
    extra: what is kept beside our numbers, as JSON.  finish: called last with what was found.
    threads: of a training and a scoring, several of which run at a time; 0: one after the other, with all cores.
    timed: whether time and memory of predictions are measured, beside other scorings.  measured: whether they are measured with
    all cores, one scoring after the other.
    worlds: others than that of training, by name: data like those of the plan, or what the simulator is told of the same rooms.
    makes: makes data of the experiment's own, in the place of the plan's.
    encoded, runs_in, scores_in: where things lie in the experiment's folder.
    """

    title: str
    file: str
    runs: Mapping[str, Train | Path]
    scorings: Mapping[str, Score]
    sections: Sequence[Section] | Callable[[Found], Sequence[Section]] = ()
    lead: str = ""
    verdict: Callable[[Found], Sequence[str]] = lambda found: ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    finish: Callable[[Found], object] = lambda found: None
    threads: int = 1
    timed: bool = False
    measured: bool = False
    worlds: Mapping[str, World] = field(default_factory=dict)
    makes: Callable[[], Path] | None = None
    encoded: str = "encoded/{tokenizer}"
    runs_in: str = "runs"
    scores_in: str = "scores"


# --- Carrying it out -------------------------------------------------------------------------------------------------


class Found:
    """An experiment that is being carried out: its folders, the configurations of its runs, and at last its scores."""

    def __init__(self, experiment: Experiment, plan: Plan) -> None:
        self.experiment, self.plan = experiment, plan
        self._scores: dict[str, Scores] = {}
        self._records: dict[str, Json] = {}
        self.worlds = {name: Supplies(plan, experiment.encoded, name, told) for name, told in experiment.worlds.items()}
        self.supplies = self.worlds[""] = Supplies(plan, experiment.encoded)

    def __getitem__(self, key: str) -> Scores:
        """The scores of a scoring, without its examples."""
        if key not in self._scores:
            self._scores[key] = Scores.from_json(self.record(key), where=str(self.folder(key)))
        return self._scores[key]

    def record(self, key: str) -> Json:
        """All that the results file of a scoring holds."""
        if key not in self._records:
            from hwm.work.parts import read_results

            self._records[key] = read_results(self.folder(key) / self.protocol(key).results)
        return self._records[key]

    def folder(self, key: str) -> Path:
        """Where a scoring lies."""
        return self.plan.out / self.experiment.scores_in / key

    def run(self, label: str) -> Path:
        """Where a run lies."""
        run = self.experiment.runs[label]
        return run if isinstance(run, Path) else self.plan.out / self.experiment.runs_in / label

    def facts(self, label: str) -> Json:
        """What a run is and how long it was trained."""
        config = config_of(self.run(label))
        clips = config.train.steps * config.train.batch_size * config.train.accumulate
        of_training = {"training_steps": config.train.steps, "training_clips": clips, "tokenizer": config.tokenizer}
        return {"recipe": config.recipe, "family": config.model.family} | of_training

    def history(self, label: str, name: str) -> list[tuple[int, float]]:
        """A number of a run's training over its steps, such as "cross_entropy" or "val/ce_auto"."""
        from hwm.training.run_folder import read_metrics

        records = read_metrics(self.run(label) / "metrics.jsonl")
        return [(record["step"], record[name]) for record in records if record.get(name) is not None]

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        """What an experiment works out itself, as JSON: made once for these options, then found in its folder as name.json."""
        from hwm.work.files import read_json, write_json

        file, options = self.plan.out / f"{name}.json", repr(self.plan)
        there = read_json(file) if file.is_file() else {}
        if there.get("options") != options:
            write_json(file, there := {"options": options, "found": make()})
        return there["found"]

    def picture(self, key: str, example: int, name: str) -> tuple[bytes, str]:
        """A picture of one of a scoring's examples as JPEG, and its PSNR in words; name: as in its `Example`."""
        shown = self.record(key)["examples"][example]
        psnr = shown["psnr"].get(self[key].settings["copy"] if name == "seen" else name)
        file = self.folder(key) / PICTURES / f"{shown['clip']}-{slug(name)}.jpg"
        return file.read_bytes(), "" if psnr is None else f"{psnr:.2f} dB"

    def link(self, key: str) -> str:
        """The report of a scoring, as the page links it."""
        return os.path.relpath(self.folder(key) / self.protocol(key).report, self.plan.out)

    def protocol(self, key: str) -> Protocol:
        """By which a scoring is made."""
        score = self.experiment.scorings[key]
        own = PROTOCOLS.get(score.scoring.protocol) or own_protocol(self.config(score.run).data.clip)
        return own.at(score.scoring.ahead)

    def config(self, label: str) -> RunConfig:
        """What a run is, before or after it is trained; without its data."""
        run = self.experiment.runs[label]
        return override(config_of(run), list(self.plan.set) if isinstance(run, Train) else [])

    @property
    def raw(self) -> Path:
        """Folder of the raw data; simulated first where none was given."""
        return self.supplies.raw

    def sets(self, label: str, world: str = "") -> Sets:
        """Training, validation and test data of a run (`supplies`); one trained elsewhere needs no training data.

        world: another one, for its test data.
        """
        training = isinstance(self.experiment.runs[label], Train) and not world
        return self.worlds[world].sets(label, self.config(label), training=training)

    def training(self, label: str) -> RunConfig:
        """A training wholly configured."""
        plan, config, sets = self.plan, self.config(label), self.sets(label)
        run = self.experiment.runs[label]
        assert isinstance(run, Train)
        learned = [str(sets.train), str(sets.val)] if run.validation else str(sets.train)
        values: Json = {"data.train": learned, "data.val": str(sets.val), "seed": plan.seed, "train.device": plan.device}
        if plan.steps:
            values["train.steps"] = plan.steps
        if self.experiment.threads:
            values["train.threads"] = self.experiment.threads
        if (given := self.supplies.tokenizer(config)) != config.tokenizer:
            values["tokenizer"] = given if known_everywhere(given) else ""  # no other is opened without being asked for
        return override(changed(config, values), list(plan.set))

    def scoring(self, key: str) -> tuple[Scoring, dict[str, Any]]:
        """The settings of a scoring, and the folders it needs."""
        from hwm.prepare import branching, recorded

        plan, score = self.plan, self.experiment.scorings[key]
        run, config = self.experiment.runs[score.run], self.config(score.run)
        named = self.supplies.tokenizer(config)
        ours = named in plan.tokenizers or isinstance(run, Train)  # given, or named by a recipe; no other is opened unasked
        by_itself = not ours or (named == config.tokenizer and known_everywhere(named))
        scoring = replace(
            score.scoring, clips=plan.clips if score.clips is None else score.clips, seed=plan.seed, device=plan.device,
            inception=plan.inception, trust=plan.trust, tokenizer="" if by_itself else named,
        )  # fmt: skip
        adapted = getattr(config.model, "base", "")
        base = {"base": plan.base or (adapted if isinstance(run, Train) else "")} if adapted else {}
        of_video = self.protocol(key).ensembles or config.model.kind in ("video", "motion")
        raw = self.worlds[score.world].raw
        unseen = branching(raw) if score.branches else recorded(raw, training=False).test if of_video or score.recorded else None
        folders = {"data": unseen} if of_video else {"data": self.sets(score.run, score.world).test, "video": unseen}
        if score.tuned:
            folders["tuning"] = recorded(self.raw, training=False).val if of_video else self.sets(score.run).val
        return scoring, {**folders, "out": self.folder(key), **base}
