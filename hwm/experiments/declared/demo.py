"""The whole line in minutes on a laptop: simulate, tokenize, train st-demo from scratch, score it in unseen rooms, report."""

import time
from dataclasses import dataclass
from typing import Annotated, ClassVar

from hwm.config import CountOrNone
from hwm.evaluate.protocols import COMPRESSION
from hwm.experiments.experiment import Experiment, Found, Plan, Score, Train
from hwm.experiments.supplies import IMAGE_SIZE
from hwm.work.ranges import Range


@dataclass(frozen=True, kw_only=True)
class Options(Plan):
    """What the demo takes."""

    val_share: ClassVar[float] = 4 / 15
    phases: ClassVar[int] = 4

    minutes: Annotated[float, Range(0, 1e6, above=True)] = 7.5
    """Robot time simulated for training: what two cores render in about two and a half minutes."""
    clips: CountOrNone = 128
    """Clips to score on, from rooms never trained on; 0: all."""


def declare(plan: Options) -> Experiment:
    """One run, scored against the recorded video too, and a video of a rollout."""
    started, grid = time.monotonic(), IMAGE_SIZE[plan.size] // 8

    def finish(found: Found) -> None:
        from hwm.evaluate.page.report import text_table
        from hwm.watch.write import write_prediction

        report, video = plan.out / COMPRESSION.report, plan.out / "rollout.mp4"
        write_prediction(found.run("run"), data=found.sets("run").test, out=video)
        minutes = (time.monotonic() - started) / 60
        print(f"\n{text_table(found['.'])}\n\n{minutes:.1f} minutes.  Report: {report}   rollout: {video}")

    return Experiment(
        "Demo", "", {"run": Train("st-demo", (f"model.grid=[{grid}, {grid}]",))}, {".": Score("run", recorded=True)},
        finish=finish, threads=0, encoded="tokens", runs_in="", scores_in="",
    )  # fmt: skip
