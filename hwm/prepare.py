"""From nothing, or from raw video, to encoded sets ready for training: each step is made once and found again."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwm.data.onex import probe_kind
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
    """Training, validation and test set, all encoded by one tokenizer; the test set's rooms were never trained on.

    training: whether there is a training set; where there is none, the validation set stands in its place, to be scored.
    """

    train: Path
    val: Path
    test: Path
    training: bool = True


def simulated(
    out: Path, *, minutes: float, val_minutes: float, size: int, seed: int, workers: int,
    segment_seconds: tuple[float, float] = SEGMENT_SECONDS, **told: Any,
) -> Path:  # fmt: skip
    """The built-in robot at work, simulated into `out`: raw datasets for training and validation; returns `out`.

    told: further settings of `simulate`.
    Raises ValueError as `simulate`, also where `out` holds what was simulated with other settings.
    """
    with Counter("simulating", unit="frames") as counter:
        simulate(
            out, minutes=minutes, val_minutes=val_minutes, segment_seconds=segment_seconds, rooms=MOST_ROOMS, size=size,
            seed=seed, workers=workers, progress=counter, **told,
        )
    return out


def is_video(dataset: Path) -> bool:
    """Whether a dataset folder holds raw video."""
    return probe_kind(dataset) == "raw"


def found_sets(folder: Path, fits: Callable[[Path], bool] = is_video) -> Sets | None:
    """The sets (train_v..., val_v..., val_unseen_v...) that lie in `folder`, or together in one folder of it; None for none.

    fits: tells of a dataset folder whether it is wanted.  The validation set stands for missing unseen rooms, and without a
    training set for that too, for whoever only scores; `training` says whether there is one.
    """
    for parent in (folder, *sorted(place for place in folder.glob("*") if place.is_dir())):
        places = {}
        for name in ("train", "val", "val_unseen"):
            there = [file.parent for file in sorted(parent.glob(f"{name}_v*/metadata.json"))]
            if kept := [place for place in there if fits(place)]:
                places[name] = kept[-1]
        if held_out := places.get("val", places.get("val_unseen")):
            return Sets(places.get("train", held_out), held_out, places.get("val_unseen", held_out), training="train" in places)
    return None


def recorded(raw: Path, *, training: bool = True) -> Sets:
    """The raw training, validation and test set found in `raw` (`found_sets`).

    training: whether there must be a training set.  Raises ValueError when `raw` holds no such set or no validation set.
    """
    sets = found_sets(raw)
    if sets is None or (training and not sets.training):
        name = "train" if sets or not any(raw.glob("train_v*/metadata.json")) else "val"
        raise ValueError(f"{raw}: holds no dataset called {name}_v...; give a folder of `hwm simulate`, or of 1X raw data")
    return sets


def branching(raw: Path) -> Path | None:
    """The dataset in `raw`, or in a folder of it, of several futures of each start (`hwm simulate --starts`); None for none."""
    found = sorted(place for pattern in ("branches_v*", "*/branches_v*") for place in raw.glob(f"{pattern}/metadata.json"))
    return found[0].parent if found else None


def encoded(
    raw: Path, out: Path, *, tokenizer: str, size: int = 0, phases: int = 1, workers: int = 1, training: bool = True,
    trust: bool = False, device: str = "cpu",
) -> Sets:  # fmt: skip
    """Encode the sets found in `raw` (`recorded`) with one tokenizer.

    size: side to which frames are resized, 0 keeps it.  phases: first frames from which the training set is cut into
    blocks, to make more clips of little data; a tokenizer of sampling clips needs none.
    training: whether the training set is encoded too; without it the validation set stands for it.
    trust, device: as in `tokenize`.
    """
    sets, clips = recorded(raw, training=training), encodes_clips(open_tokenizer(tokenizer, trust=trust, device=device))
    if not training:
        sets = Sets(sets.val, sets.val, sets.test, training=False)
    places = {}
    for source in dict.fromkeys((sets.train, sets.val, sets.test)):
        # Only the training set is cut from several phases: held-out sets stay aligned with their video.
        to_learn = sets.training and source == sets.train
        cuts = phases if to_learn and not clips else 1
        places[source] = out / source.name.removesuffix("_raw")
        with Counter(f"encoding {source.name}", unit="shards") as counter:
            tokenize(
                source,
                places[source],
                tokenizer=tokenizer,
                size=size,
                phases=cuts,
                # starting processes takes longer than a small set
                workers=workers if cuts > 1 or (clips and to_learn) else 1,
                trust=trust,
                device=device,
                progress=counter,
            )
    return Sets(places[sets.train], places[sets.val], places[sets.test], training=sets.training)
