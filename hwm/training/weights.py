"""Weights in and out of a model: all of them and nothing else, from a run, a checkpoint or a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from hwm.training import checkpoint
from hwm.training.stored import Stored


@dataclass(frozen=True)
class Loaded:
    """What `load_weights` put into a model: the files read and the names of all tensors set."""

    files: tuple[Path, ...]
    names: tuple[str, ...]


def load_weights(path: str | Path, model: nn.Module, *, prefer_ema: bool = True) -> Loaded:
    """Load weights into a model, all of them and nothing else.

    path: a run (its best checkpoint), a checkpoint, a folder with model.safetensors, or a .safetensors file.
    prefer_ema: take the averaged weights where the folder has them.
    Raises ValueError listing missing and unexpected names and differing shapes and dtypes (never cast) and NaN;
    the model is then unchanged.
    """
    path = Path(path)
    if (path / "checkpoints").is_dir():
        path = checkpoint.find(path)
    elif (path / "manifest.json").exists():
        checkpoint.verify(path)
    groups = ["model", "ema"] if prefer_ema and path.is_dir() else ["model"]
    if (path / "manifest.json").exists():
        stored = checkpoint.stored(path)
    else:
        files = [path / f"{group}.safetensors" for group in groups] if path.is_dir() else [path]
        if not files[0].is_file():
            raise ValueError(f"{files[0]}: no such file; expected weights in the safetensors format")
        stored = Stored(file for file in files if file.is_file())
    groups = [group for group in groups if group in stored] if path.is_dir() else [path.stem]
    tensors = {name: tensor for group in groups for name, tensor in stored.read(group).items()}
    read = tuple(file for group in groups for file in stored.files(group))
    expect_same(tensors, model.state_dict(), where=read[0] if read else path)
    model.load_state_dict(tensors)
    return Loaded(tuple(dict.fromkeys(read)), tuple(sorted(tensors)))


def expect_same(tensors: dict[str, Tensor], expected: dict[str, Tensor], *, where: Path) -> None:
    """Raise ValueError with every kind of difference between stored tensors and those of a model.

    tensors: on the meta device where only shapes and types are to be compared.
    """
    both = sorted(tensors.keys() & expected.keys())
    faults = {
        "missing": sorted(expected.keys() - tensors.keys()),
        "unexpected": sorted(tensors.keys() - expected.keys()),
        "of another shape": [
            f"{n} {tuple(tensors[n].shape)}, the model has {tuple(expected[n].shape)}"
            for n in both
            if tensors[n].shape != expected[n].shape
        ],
        "of another dtype": [
            f"{n} {tensors[n].dtype}, the model has {expected[n].dtype}" for n in both if tensors[n].dtype != expected[n].dtype
        ],
        "with NaN": [n for n in both if not tensors[n].is_meta and tensors[n].is_floating_point() and tensors[n].isnan().any()],
    }
    found = [
        f"{len(names)} {fault}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
        for fault, names in faults.items()
        if names
    ]
    if found:
        raise ValueError(f"{where}: does not fit the model ({len(both)} names match); {'; '.join(found)}")
