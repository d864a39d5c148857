"""What every experiment decides alike, and the stages they share: data, trainings, scores."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hwm.evaluate_old.apply import evaluate_run
from hwm.experiments.jobs import Training, train_all
from hwm.prepare import Sets, encoded, simulated
from hwm.recipes import recipe
from hwm.work.workers import usable_cores

VALIDATION_SHARE = 2 / 15
"""Robot time of each validation set, as a share of the training set's."""
PHASES = 2
"""First frames from which a training set is cut into blocks."""
IMAGE_SIZE = {"tiny": 64, "medium": 128}


@dataclass(frozen=True)
class Plan:
    """An experiment's settings, as in `hwm experiment`.  steps 0 and workers 0 stand for the defaults."""

    out: Path
    data: Path | None = None
    size: Literal["tiny", "medium"] = "tiny"
    minutes: float = 30.0
    steps: int = 0
    clips: int = 192
    seed: int = 0
    workers: int = 0
    inception: Path | None = None
    lpips: tuple[Path, ...] = ()
    device: str = "cpu"

    @property
    def processes(self) -> int:
        """Trainings, or scorings of the sampling protocol, at a time."""
        return self.workers or (usable_cores() if self.device == "cpu" else 1)

    def raw(self) -> Path:
        """Folder of the raw data; simulated first where none was given."""
        return self.data or simulated(
            self.out / "raw",
            minutes=self.minutes,
            val_minutes=self.minutes * VALIDATION_SHARE,
            size=IMAGE_SIZE[self.size],
            seed=self.seed,
            workers=self.processes,
        )

    def unseen(self) -> Path:
        """The raw dataset of rooms never trained on; the validation set where there is none."""
        raw = self.raw()
        found = [sorted(raw.glob(f"{name}_v*/metadata.json")) for name in ("val", "val_unseen")]
        if not any(found):
            raise ValueError(f"{raw}: holds no dataset called val_v...; give a folder of `hwm simulate`, or of 1X raw data")
        return next(places[-1].parent for places in reversed(found) if places)

    def encoded(self, tokenizers: list[str]) -> dict[str, Sets]:
        """The data, encoded by each tokenizer."""
        image_size, raw = IMAGE_SIZE[self.size], self.raw()
        return {
            name: encoded(
                raw, self.out / "encoded" / name, tokenizer=name, size=image_size, phases=PHASES, workers=self.processes
            )
            for name in dict.fromkeys(tokenizers)
        }

    def training(self, name: str, data: dict[str, Sets], *, changes: tuple[str, ...] = (), label: str = "") -> Training:
        """The training of recipe `name`; label: name of its run folder, default the recipe's."""
        config = recipe(name)
        sets, steps = data[config.tokenizer], self.steps or config.train.steps
        settings = (f"train.steps={steps}", "train.threads=1", f"train.device={self.device}", *changes)
        arguments = (name, "--data", str(sets.train), "--val", str(sets.val), "--seed", str(self.seed), "--set", *settings)
        return Training(self.out / "runs" / (label or name), arguments, steps)

    def train(self, trainings: list[Training]) -> None:
        """Train them all."""
        train_all(trainings, parallel=self.processes)

    def score(self, run: Path, test: Path, *, out: Path, changes: tuple[str, ...] = (), **options: Any) -> dict[str, Any]:
        """results.json of a run on the test set, from `out` where it was made of this very checkpoint and settings."""
        asked = {"step": _last_step(run), "clips": self.clips, "seed": self.seed, "changes": list(changes)}
        asked |= {"inception": self.inception and str(self.inception)} | options
        results, stamp = out / "results.json", out / "asked.json"
        if not (results.is_file() and stamp.is_file() and json.loads(stamp.read_text()) == asked):
            evaluate_run(
                run,
                data=test,
                out=out,
                clips=self.clips,
                seed=self.seed,
                changes=changes,
                inception=self.inception,
                device=self.device,
                **options,
            )
            stamp.write_text(json.dumps(asked))
        found: dict[str, Any] = json.loads(results.read_text())
        return found


def _last_step(run: Path) -> str:
    return (run / "checkpoints" / "LATEST").read_text().strip()
