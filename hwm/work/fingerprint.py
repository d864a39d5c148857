"""Hashes that tell one scoring from another: of a model with its weights, of settings, of files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import hwm


def fingerprint(model: Any, **facts: Any) -> str:
    """A hash of a model, its weights included, and of whatever else decides a result: plain values, tensors and arrays."""
    weights = model.state_dict() if isinstance(model, torch.nn.Module) else {}
    about = {"class": type(model).__name__, "config": repr(getattr(model, "config", None)), "weights": weights}
    versions = {"hwm": hwm.__version__, "torch": torch.__version__}
    text = json.dumps({"model": about, "facts": facts, "versions": versions}, sort_keys=True, default=_digest)
    return hashlib.sha256(text.encode()).hexdigest()


def _digest(value: Any) -> Any:
    if isinstance(value, Tensor):
        data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        return [str(value.dtype), list(value.shape), hashlib.sha256(data.data).hexdigest()]
    if isinstance(value, np.ndarray):
        return [value.dtype.str, list(value.shape), hashlib.sha256(np.ascontiguousarray(value).data).hexdigest()]
    return value.item() if isinstance(value, np.generic) else repr(value)


def source(path: str | Path) -> str:
    """A hash that tells a file of weights or a folder of data apart from another.

    Of a file its content; of a folder the names and sizes of its files and the content of those that describe it (.json).
    Hidden files, such as caches, are left out.
    """
    path, found = Path(path), hashlib.sha256()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        inside_folder = file.relative_to(path)
        if any(part.startswith(".") for part in inside_folder.parts):
            continue
        if path != file:
            found.update(f"{inside_folder.as_posix()} {file.stat().st_size}\n".encode())
        if path == file or file.suffix == ".json":
            with file.open("rb") as content:
                found.update(hashlib.file_digest(content, "sha256").digest())
    return found.hexdigest()


def sources(*, lpips: Sequence[Path] = (), **paths: Path | None) -> list[str]:
    """What tells apart the folders of data and files of weights that numbers come from, by what each is for."""
    named = [(name, path) for name, path in paths.items() if path is not None] + [("lpips", path) for path in lpips]
    return [f"{name} {source(path)}" for name, path in named]
