"""The whole line in minutes on a laptop: simulate, train a model from scratch, score it in unseen rooms, report."""

import time
from dataclasses import dataclass
from typing import Annotated, ClassVar

from hwm.config import CountOrNone
from hwm.evaluate.protocols import COMPRESSION, Scoring, own_protocol
from hwm.experiments.experiment import Experiment, Found, Plan, Score, Train, config_of
from hwm.experiments.supplies import IMAGE_SIZE
from hwm.work.ranges import Range

SHORTER = {"direct-tiny": 500}
"""Steps where the recipe's own would take two cores more than the demo's ten minutes; --steps sets others."""


@dataclass(frozen=True, kw_only=True)
class Options(Plan):
    """What the demo takes."""

    val_share: ClassVar[float] = 4 / 15
    phases: ClassVar[int] = 4

    recipe: str = "direct-tiny"
    """What is trained: direct-tiny, which learns from frames as they are, or such as st-demo or masked-hwm-base-tiny, for which
    the frames are tokenized first."""
    minutes: Annotated[float, Range(0, 1e6, above=True)] = 7.5
    """Robot time simulated for training: what two cores render in about two and a half minutes."""
    clips: CountOrNone = 128
    """Clips to score on, from rooms never trained on; 0: all."""


def declare(plan: Options) -> Experiment:
    """One run, scored as its family is (`direct`: 17 frames ahead), against the recorded video too, and a video of a rollout."""
    started, side = time.monotonic(), IMAGE_SIZE[plan.size]
    config = config_of(Train(plan.recipe))
    grid, own = side if config.model.kind == "video" else side // 8, own_protocol(config.data.clip)
    protocol = COMPRESSION if config.model.kind == "video" else own

    def finish(found: Found) -> None:
        from hwm.evaluate.page.report import text_table
        from hwm.watch.write import write_prediction

        report, video = plan.out / protocol.report, plan.out / "rollout.mp4"
        write_prediction(found.run("run"), data=found.sets("run").test, out=video)
        minutes = (time.monotonic() - started) / 60
        print(f"\n{text_table(found['.'])}\n\n{minutes:.1f} minutes.  Report: {report}   rollout: {video}")

    usual = [f"train.steps={SHORTER[plan.recipe]}"] if plan.recipe in SHORTER else []
    run = Train(plan.recipe, (f"model.grid=[{grid}, {grid}]", *usual))
    score = Score("run", Scoring(protocol.name), recorded=not protocol.ensembles)  # type: ignore[arg-type]
    return Experiment(
        "Demo", "", {"run": run}, {".": score}, finish=finish, threads=0, timed=True,
        encoded="tokens", runs_in="", scores_in="",
    )  # fmt: skip
