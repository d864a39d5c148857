"""What was shown of a drive, as files: a film for people and a dataset to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from hwm.robot import Embodiment
from hwm.watch.panels import write_panels


@dataclass(frozen=True)
class Shown:
    """One frame of a drive.

    dream, truth: uint8 (H, W, 3); truth is what is shown beside it, None after a recording's end.  doubt: float32 (H, W) in a
    unit of its own, or None.  states: float32 (A,), those that the frame was predicted from.  psnr: dB against the truth where
    that shows what the dream should, else None.  frame: after the context.
    """

    dream: np.ndarray
    truth: np.ndarray | None
    doubt: np.ndarray | None
    states: np.ndarray
    psnr: float | None
    frame: int


def keep(film: Sequence[Shown], folder: Path, *, robot: Embodiment, hz: int, run: str) -> list[Path]:
    """Write what was shown under the first free name of a folder; the paths.

    An mp4, the dream on the right of what really happened where that was known throughout; and, where pyarrow is installed, a
    LeRobot dataset of one episode of the dream.  hz: frames a second.  run: a name for the episode's task.
    Raises ValueError for no frames.
    """
    if not film:
        raise ValueError("nothing was shown while recording")
    folder.mkdir(parents=True, exist_ok=True)
    names = {path.stem for path in folder.iterdir()}
    name = next(name for i in range(1, 10**6) if (name := f"drive-{i:03d}") not in names)
    frames, states = np.stack([shown.dream for shown in film]), np.stack([shown.states for shown in film])
    truths = [shown.truth for shown in film if shown.truth is not None and shown.psnr is not None]
    shown = [np.stack(truths), frames] if len(truths) == len(film) else [frames]
    written = [folder / f"{name}.mp4"]
    write_panels(written[0], [shown], num_past=0, hz=hz)
    if find_spec("pyarrow"):
        from hwm.data.recordings.lerobot_writer import LeRobotWriter

        with LeRobotWriter(folder / name, robot=robot, hz=hz, height=frames.shape[1], width=frames.shape[2]) as dataset:
            dataset.append([(frames, states)], task=f"driven by hand in the dream of {run}")
        written.append(folder / name)
    return written
