"""Runs scored on the sampling protocol, several at once; what was scored before with the same settings stays."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import re
import shlex
import signal
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hwm.evaluate_old.old_pictures import jpeg
from hwm.evaluate_old.sampling import CONTROL_MEMBERS
from hwm.evaluate_old.sampling_report import RESULTS
from hwm.evaluate_old.sampling_results import SamplingResult
from hwm.evaluate_old.sampling_track import evaluate_sampling_run
from hwm.training import checkpoint
from hwm.work.files import atomic_path
from hwm.work.progress import Counter
from hwm.work.signals import StopFlag

STAMP, PICTURES = "asked.json", "pictures"
SHOWN = ("seen", "truth", "sample", "mean", "blend")
"""Pictures of an example that are kept, by their names in `FrameExample`."""


@dataclass(frozen=True)
class Scoring:
    """One run, one way of predicting: `hwm evaluate RUN --protocol sampling`, into folder `out`.

    changes: overrides of how the model predicts.  passes: of the network for one sample, for the time left.
    """

    run: Path
    out: Path
    data: Path
    members: tuple[int, ...]
    clips: int
    tuning_clips: int
    changes: tuple[str, ...] = ()
    seed: int = 0
    inception: Path | None = None
    lpips: tuple[Path, ...] = ()
    device: str = "cpu"
    passes: int = 1

    @property
    def command(self) -> str:
        """The command that gives the same scores."""
        options: dict[str, Sequence[Any]] = {
            "--data": [self.data],
            "--members": self.members,
            "--clips": [self.clips],
            "--tuning-clips": [self.tuning_clips],
            "--set": self.changes,
            "--seed": [self.seed],
            "--inception": [self.inception] if self.inception else [],
            "--lpips": self.lpips,
            "--device": [self.device],
        }
        given = [str(word) for name, values in options.items() if values for word in (name, *values)]
        return shlex.join(["hwm", "evaluate", str(self.run), "--protocol", "sampling", *given])

    @property
    def asked(self) -> dict[str, str]:
        """What decides the scores: the settings and the weights, by the checkpoint's checksum."""
        place = checkpoint.find(self.run)
        manifest = json.loads((place / "manifest.json").read_text(encoding="utf-8"))
        return {"command": self.command, "checkpoint": place.name, "sha256": manifest["sha256"]}

    @property
    def work(self) -> int:
        """About how many passes of the network it takes: samples of all clips, and of those with other states."""
        control = max(n for n in (1, *self.members) if n <= CONTROL_MEMBERS)
        return self.passes * (max(self.members) * (self.clips + self.tuning_clips) + 2 * control * self.clips)

    def results(self) -> dict[str, Any]:
        """What results_sampling.json says."""
        found: dict[str, Any] = json.loads((self.out / RESULTS).read_text(encoding="utf-8"))
        return found

    def finished(self) -> bool:
        """Whether the folder holds the scores of this very checkpoint and these settings."""
        stamp = self.out / STAMP
        return stamp.is_file() and (self.out / RESULTS).is_file() and json.loads(stamp.read_text()) == self.asked

    def done(self) -> float:
        """Passes so far, as its log says."""
        log = self.out / "log"
        counts = re.findall(r"evaluating: (\d+)/(\d+) clips", log.read_text(errors="replace")) if log.is_file() else []
        return self.work * int(counts[-1][0]) / int(counts[-1][1]) if counts else 0


def score_all(scorings: Sequence[Scoring], *, parallel: int, every: float = 1.0) -> None:
    """Score all that are not finished, `parallel` at a time, each in a process with one thread; the longest first.

    A stop ends the processes; the same call goes on with what was not finished, from the parts that they left.
    Raises ValueError naming the folder, which holds a log, of one that failed, and Stopped after a stop.
    """
    todo = sorted((s for s in scorings if not s.finished()), key=lambda s: -s.work)
    if not todo:
        return
    for scoring in todo:
        for old in (STAMP, "log"):
            (scoring.out / old).unlink(missing_ok=True)
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        min(parallel, len(todo)), mp_context=multiprocessing.get_context("spawn"), initializer=_leave_stops_to_the_parent
    )
    total = sum(scoring.work for scoring in todo)
    with Counter("scoring", unit="passes") as counter, StopFlag() as stop:
        try:
            waiting = {pool.submit(_score, scoring): scoring for scoring in todo}
            while waiting:
                finished, _ = wait(waiting, timeout=every, return_when=FIRST_EXCEPTION)
                stop.check()
                for future in finished:
                    _check(waiting.pop(future), future.exception())
                running = {id(scoring): scoring.done() for scoring in waiting.values()}
                done = round(sum(running.get(id(scoring), scoring.work) for scoring in todo))
                if done:  # before, nothing is known of the time left
                    counter(done, total)
        except BaseException:
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _check(scoring: Scoring, error: BaseException | None) -> None:
    if isinstance(error, BrokenProcessPool):
        raise ValueError(f"{scoring.out}: the scoring process was ended (out of memory?); the same command goes on") from error
    if error is not None:
        raise ValueError(f"{scoring.out}: scoring failed: {error}") from error


def _leave_stops_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _score(scoring: Scoring) -> None:
    """Score one, and write the stamp last."""
    torch.set_num_threads(1)
    scoring.out.mkdir(parents=True, exist_ok=True)
    with (scoring.out / "log").open("w") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        result = evaluate_sampling_run(
            scoring.run,
            data=scoring.data,
            out=scoring.out,
            clips=scoring.clips,
            tuning_clips=scoring.tuning_clips,
            members=scoring.members,
            seed=scoring.seed,
            changes=scoring.changes,
            inception=scoring.inception,
            lpips=scoring.lpips,
            device=scoring.device,
            command=scoring.command,
            stop=StopFlag(),  # never raised: a process of the pool is ended at once, and what is scored is kept
        )
    _write_pictures(scoring.out / PICTURES, result)
    with atomic_path(scoring.out / STAMP) as temporary:
        temporary.write_text(json.dumps(scoring.asked))


def _write_pictures(folder: Path, result: SamplingResult) -> None:
    """The example pictures as JPEG files, of clip 7 "7-truth.jpg"."""
    for example in result.examples:
        for name in SHOWN:
            if (picture := getattr(example, name)) is not None:
                with atomic_path(folder / f"{example.clip}-{name}.jpg") as temporary:
                    temporary.write_bytes(jpeg(picture, 92))
