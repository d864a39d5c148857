"""Checks of a machine, a dataset and a recipe together, from cheap to dear, before a training spends hours on them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hwm.config import RunConfig, TrainConfig
from hwm.data.clips import Clips
from hwm.doctor import fit, machine, trial
from hwm.doctor.costs import RecipeCosts, recipe_costs
from hwm.doctor.expectation import first_loss
from hwm.doctor.trial import Trial
from hwm.doctor.verdict import Examination, ok, temporary_folder, warn
from hwm.models.build import build_model
from hwm.runs import fitted, prepared_model
from hwm.training.device import choose_device, cpu_threads, free_on, own_randomness
from hwm.training.run_folder import dealt_out
from hwm.work.cache import cache_folder
from hwm.work.signals import StopFlag


def examine(
    config: RunConfig | None,
    *, out: Path, video: str = "", nproc: int = 1, quick: bool = False, device: str = "auto", say: Callable[[str], None] = print,
    least_disk: float = machine.LEAST_DISK,
) -> Examination:
    """All checks, each told to `say` as one line as soon as it is known, and the sentence at the end.

    config: None checks the machine alone; without data.train the recipe runs on random clips.  out: folder of the run
    to be.  video: the raw dataset of which the data were made.  nproc: processes on this machine.  quick: no reading of every
    byte, fewer steps.  device: where nothing is trained.
    least_disk: free bytes wanted.
    Raises Stopped at a signal; the temporary folder is removed.
    """
    with StopFlag() as stop:
        exam = Examination(lambda verdict: say(verdict.line()), stop)
        train = config.train if config else TrainConfig(device=device)
        _machine(exam, config, train, out=out, nproc=nproc, least_disk=least_disk)
        if config is not None:
            _recipe(exam, config, out=out, video=video, nproc=nproc, quick=quick)
    say(f"\n{exam.sentence()}")
    return exam


def _machine(
    exam: Examination, config: RunConfig | None, train: TrainConfig, *, out: Path, nproc: int, least_disk: float
) -> None:
    exam.ask("versions", machine.versions)
    exam.ask("torch build", lambda: machine.build(machine.torch.version.cuda, machine.nvidia_gpus()))
    usable = exam.ask("device", machine.device, train, nproc=nproc)
    exam.ask("cores", machine.cores, train, nproc=nproc)
    exam.ask("memory", machine.memory)
    exam.ask("disk", machine.disk, "disk", out, least=least_disk)
    exam.ask("cache disk", machine.disk, "cache disk", cache_folder(), least=least_disk / 4)
    exam.ask("cache folder", machine.cache)
    exam.ask("open files", machine.open_files)
    exam.ask("extras", machine.extras, config)
    exam.ask("writing", _in_folder, out, machine.writing)
    exam.ask("file locks", _in_folder, out, machine.locking)
    if train.compile:
        exam.ask("compiler", _in_folder, out, lambda folder: machine.compiler(folder, cuda=bool(machine.torch.version.cuda)))
    if usable:
        exam.ask("arithmetic", machine.speed, train)
    if nproc > 1:
        exam.ask("shared memory", machine.shared_memory)
        exam.ask("processes", machine.exchange)


def _recipe(exam: Examination, given: RunConfig, *, out: Path, video: str, nproc: int, quick: bool) -> None:
    config = exam.make("settings", lambda: dealt_out(fitted(given), out, world=nproc))
    if config is None:
        return
    exam.ask("settings", fit.settings, config, out)
    fits, costs = False, exam.make("training memory", recipe_costs, config)
    if costs is not None:
        fits = exam.ask("training memory", fit.memory, costs, free=free_on(choose_device(config.train.device)), nproc=nproc)
        exam.ask("checkpoints' disk", fit.disk, costs, out)
    clips = fit.Given()
    usable = _data(exam, config, clips, quick=quick)
    if video:
        exam.ask("rebuilding", fit.rebuilt, config, video)
    if not fits or not usable:
        why = "the data cannot be used" if fits else "it would not fit into memory" if costs else "the model cannot be built"
        exam.ask("training step", lambda: warn("training step", f"not tried: {why}", "mend what failed above"))
        return
    _step(exam, config, costs, clips.train, out=out, nproc=nproc, quick=quick)


def _data(exam: Examination, config: RunConfig, given: fit.Given, *, quick: bool) -> bool:
    """Whether training could read its clips."""
    if not config.data.train:
        exam.ask("data", lambda: ok("data", "none given: the recipe runs on random clips"))
        return True
    sound = [exam.ask("training data", fit.sound, "training data", folder, quick=quick) for folder in config.data.train]
    usable = all(sound) and exam.ask("training clips", fit.fits, config, given, training=True)
    if config.data.val:
        held = exam.ask("held-out data files", fit.sound, "held-out files", config.data.val, quick=quick)
        held = held and exam.ask("held-out clips", fit.fits, config, given, training=False)
    if given.train is None:
        return False
    exam.ask("open shards", fit.files, given)
    exam.ask("tokenizer", fit.tokenizer, config, given.train.dataset)
    if usable:
        usable = exam.ask("states", fit.states, given.train.dataset)
    if usable and given.val is not None and held:
        exam.ask("held-out data", fit.held_out, given.train.dataset, given.val.dataset)
    return usable


def _step(
    exam: Examination, config: RunConfig, costs: RecipeCosts, clips: Clips | None, *, out: Path, nproc: int, quick: bool
) -> None:
    device = choose_device(config.train.device)

    def start() -> Trial:
        count = trial.affordable(config, costs, device=device, quick=quick)
        return Trial(config, build_model(config) if clips is None else prepared_model(config, clips), device, clips, clips=count)

    with cpu_threads(config.train.threads), own_randomness(device):
        it = exam.make("model", start)
        if it is None:
            return
        exam.ask("model", trial.started, it)
        finite = exam.ask("first loss", first_loss, it)
        finite = exam.ask("gradients", trial.gradients, it) and finite
        exam.ask("repeated step", trial.repeated, it)
        if finite:
            exam.ask("learning", trial.learning, it, steps=4 if quick else 8)
            exam.ask("states used", trial.states_used, it)
        exam.ask("checkpoint", _in_folder, out, lambda folder: trial.round_trip(it, folder))
        if finite:
            exam.ask("time", trial.measured, it, costs, nproc=nproc)


def _in_folder(out: Path, check: Callable[[Path], Any]) -> list[Any]:
    """Run a check in a temporary folder where the run would live, and remove it."""
    nearest = next(filter(Path.exists, (out.absolute(), *out.absolute().parents)))  # where that is a file, no run can be
    with temporary_folder(nearest) as folder:
        found = check(folder)
        return list(found) if isinstance(found, Iterator) else [found]
