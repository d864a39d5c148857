"""How a training on several processes ended, told by them to the launcher through a file: also where a library did not load."""

import json
import os
from pathlib import Path

from hwm.work.files import write_text

OUTCOME = "HWM_OUTCOME"
"""Environment variable with the file in which a process tells how the training ended."""


def read_outcome(path: Path) -> dict:
    """How the training ended: the fields of FitResult, or "error" and its exit "code"; empty as long as nobody knows."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))  # noqa: TID251, our own file
    except (OSError, ValueError):
        return {}


def tell_outcome(facts: dict) -> bool:
    """Tell the launcher, if it is ours, how the training ended; whether it was told."""
    path = os.environ.get(OUTCOME)
    if path:
        write_text(Path(path), json.dumps(facts))
    return bool(path)
