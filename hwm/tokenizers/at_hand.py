"""The tokenizer of a trained run, where there is one to open, and whether it made some data."""

from typing import Any

from hwm.safe_load.paths import hub_folder, shown
from hwm.tokenizers.open import open_tokenizer, own_names

TOKENIZER = "tokenizer"
"""Folder of a run with the tokenizer that it was trained by, if that is the library's own and not shipped."""


class NotAtHand(ValueError):
    """A run names no tokenizer, or one that lies elsewhere, and none was given."""


def tokenizer_of(run: Any, name: str = "", *, trust: bool = False, device: str = "cpu") -> Any:
    """The tokenizer called `name`, or the run's (`hwm.runs.Run`), of the kind its model predicts.

    Of what the run itself names only a shipped tokenizer is opened, or the one that lies in its folder.
    Raises NotAtHand where there is none, ValueError where it is another than the one that made what the run learned from.
    """
    named, kept = run.config.tokenizer, run.folder / TOKENIZER
    if not name and kept.is_dir():
        name = str(kept)
        if not all(file.resolve().is_relative_to(hub_folder(run.folder).resolve()) for file in kept.rglob("*")):
            raise ValueError(f"{kept}: leads out of the run; give the tokenizer with --tokenizer")
    elif not name and named in own_names():
        name = named
    elif not name:
        found = f"names the tokenizer {shown(named)}, which lies elsewhere" if named else "names no tokenizer for the pixels"
        raise NotAtHand(f"{run.folder}: the run {found}; give it with --tokenizer NAME or FOLDER")
    coder = open_tokenizer(name, kind=run.config.model.kind, trust=trust, device=device)
    if run.identity.get("tokenizer") not in (None, coder.fingerprint()):
        fault = "is another tokenizer than the one that made what the run learned from"
        raise ValueError(f"{name}: {fault} ({run.folder}); give that one with --tokenizer")
    return coder


def expect_made_by(dataset: Any, coder: Any) -> None:
    """Raise ValueError for data of another clock than the tokenizer's, or that another one has made."""
    made_by = dataset.tokenizer
    if dataset.kind != "video" and dataset.clock != coder.clock:
        here, there = (f"{clock.grids} grids for {clock.block} frames" for clock in (dataset.clock, coder.clock))
        raise ValueError(f"{dataset.root}: has {here}, the tokenizer {coder.name} {there}; give the one that made it")
    if made_by and made_by.get("fingerprint") != coder.fingerprint():
        raise ValueError(f"{dataset.root}: was encoded by another tokenizer ({made_by.get('name')}) than {coder.name}")


def image_size_of(run: Any, coder: Any) -> tuple[int, int]:
    """Height and width of the frames that a run's world model works on."""
    height, width = run.config.model.grid
    return height * coder.spatial_stride, width * coder.spatial_stride
