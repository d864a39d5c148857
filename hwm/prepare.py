"""From nothing, or from raw video, to encoded sets ready for training: each step is made once and found again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hwm.sim.simulate import simulate
from hwm.tokenizers.encode import tokenize
from hwm.tokenizers.open import open_tokenizer
from hwm.tokenizers.shard_job import encodes_clips
from hwm.work.progress import Counter

SEGMENT_SECONDS = (5.0, 8.0)
"""Short recordings, each in a room of its own: to work in unseen rooms, a model must have seen many."""
MOST_ROOMS = 1000


@dataclass(frozen=True)
class Sets:
    """Training, validation and test set, all encoded by one tokenizer; the test set's rooms were never trained on."""

    train: Path
    val: Path
    test: Path


def simulated(out: Path, *, minutes: float, val_minutes: float, size: int, seed: int, workers: int) -> Path:
    """The built-in robot at work, simulated into `out`: raw datasets for training and validation; returns `out`."""
    if not (out / "val_unseen_v2.0_raw" / "metadata.json").is_file():
        with Counter("simulating", unit="frames") as counter:
            simulate(
                out,
                minutes=minutes,
                val_minutes=val_minutes,
                segment_seconds=SEGMENT_SECONDS,
                rooms=MOST_ROOMS,
                size=size,
                seed=seed,
                workers=workers,
                progress=counter,
            )
    return out


def encoded(raw: Path, out: Path, *, tokenizer: str, size: int = 0, phases: int = 1, workers: int = 1) -> Sets:
    """Encode the training, validation and, where there is one, unseen-room set found in `raw` with one tokenizer.

    size: side to which frames are resized, 0 keeps it.  phases: first frames from which the training set is cut into
    blocks, to make more clips of little data; a tokenizer of sampling clips needs none.  Without a set of unseen rooms
    the validation set stands for it.
    Raises ValueError when `raw` holds no training or no validation set.
    """
    places, clips = [], encodes_clips(open_tokenizer(tokenizer))
    for name in ("train", "val", "val_unseen"):
        found = sorted(p.parent for p in raw.glob(f"{name}_v*/metadata.json"))
        if found:
            # Only the training set is cut from several phases: held-out sets stay aligned with their video.
            source, cuts = found[-1], phases if name == "train" and not clips else 1
            places.append(out / source.name.removesuffix("_raw"))
            with Counter(f"encoding {source.name}", unit="shards") as counter:
                tokenize(
                    source,
                    places[-1],
                    tokenizer=tokenizer,
                    size=size,
                    phases=cuts,
                    # starting processes takes longer than a small set
                    workers=workers if cuts > 1 or (clips and name == "train") else 1,
                    progress=counter,
                )
        elif name == "val_unseen":
            places.append(places[-1])
        else:
            raise ValueError(f"{raw}: holds no dataset called {name}_v...; give a folder of `hwm simulate`, or of 1X raw data")
    return Sets(*places)
