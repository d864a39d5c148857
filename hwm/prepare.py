"""From nothing, or from raw video, to encoded sets ready for training: each step is made once and found again."""

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
    """The built-in robot at work, simulated into `out`: raw datasets for training and validation; returns `out`.

    Raises ValueError as `simulate`, also where `out` holds what was simulated with other settings.
    """
    with Counter("simulating", unit="frames") as counter:
        simulate(
            out, minutes=minutes, val_minutes=val_minutes, segment_seconds=SEGMENT_SECONDS, rooms=MOST_ROOMS, size=size,
            seed=seed, workers=workers, progress=counter,
        )
    return out


def recorded(raw: Path) -> Sets:
    """The raw training, validation and test set found in `raw`; the validation set stands for missing unseen rooms.

    Raises ValueError when `raw` holds no training or no validation set.
    """
    places = []
    for name in ("train", "val", "val_unseen"):
        if found := sorted(raw.glob(f"{name}_v*/metadata.json")):
            places.append(found[-1].parent)
        elif name == "val_unseen":
            places.append(places[-1])
        else:
            raise ValueError(f"{raw}: holds no dataset called {name}_v...; give a folder of `hwm simulate`, or of 1X raw data")
    return Sets(*places)


def encoded(raw: Path, out: Path, *, tokenizer: str, size: int = 0, phases: int = 1, workers: int = 1) -> Sets:
    """Encode the sets found in `raw` (`recorded`) with one tokenizer.

    size: side to which frames are resized, 0 keeps it.  phases: first frames from which the training set is cut into
    blocks, to make more clips of little data; a tokenizer of sampling clips needs none.
    """
    sets, clips = recorded(raw), encodes_clips(open_tokenizer(tokenizer))
    places = {}
    for source in dict.fromkeys((sets.train, sets.val, sets.test)):
        # Only the training set is cut from several phases: held-out sets stay aligned with their video.
        training = source == sets.train
        cuts = phases if training and not clips else 1
        places[source] = out / source.name.removesuffix("_raw")
        with Counter(f"encoding {source.name}", unit="shards") as counter:
            tokenize(
                source,
                places[source],
                tokenizer=tokenizer,
                size=size,
                phases=cuts,
                # starting processes takes longer than a small set
                workers=workers if cuts > 1 or (clips and training) else 1,
                progress=counter,
            )
    return Sets(*(places[source] for source in (sets.train, sets.val, sets.test)))
