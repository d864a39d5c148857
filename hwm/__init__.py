"""Learned simulators of a humanoid robot's camera."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from hwm.publish.loaded import Loaded

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def load(run: str | Path, *, which: str = "best", device: str = "auto", tokenizer: str = "") -> Loaded:
    """A trained world model, to predict from arrays: `load("runs/first").predict(frames, states, num_frames=34)`.

    which: "best" or "last" checkpoint.  device: auto (the first GPU where there is one), cpu, cuda or another.
    tokenizer: where the run's own lies elsewhere.  Raises ValueError, naming what is missing, for what is no such run.
    """
    from hwm.publish.loaded import Loaded  # torch is loaded when it is needed

    return Loaded(run, which=which, device=device, tokenizer=tokenizer)
