"""Which share of a long list of independent pieces this process works on: all of it, or one of n."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, TypeVar

from hwm.work.ranges import BadSetting, Range

T = TypeVar("T")
Part = Annotated[tuple[int, int] | None, Range(0, 10**6)]
"""k and n, as a user names the share k of n."""


@dataclass(frozen=True)
class Share:
    """Share `index` of `count`: every `count`-th piece, from the `index`-th on."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(f"a share is k of n with 0 <= k < n, got {self.index} of {self.count}")

    def of(self, pieces: Sequence[T]) -> Sequence[T]:
        """The pieces that are this process's."""
        return pieces[self.index :: self.count]


def share_from_environment(environment: Mapping[str, str] = os.environ) -> Share:
    """The share that a launcher gave this process; all of the work where none did.

    Understood are torchrun (RANK, WORLD_SIZE), Slurm's array jobs (SLURM_ARRAY_TASK_ID counted from _MIN to _MAX in
    steps of _STEP), the tasks of one srun (SLURM_PROCID of SLURM_STEP_NUM_TASKS), and arrays of such jobs.
    Raises ValueError for numbers that are none.
    """

    def number(name: str, default: int | None = None) -> int:
        text = environment.get(name)
        try:
            return default if text is None and default is not None else int(str(text))
        except ValueError:
            raise ValueError(f"the environment variable {name} is {text!r}, expected a whole number") from None

    if "RANK" in environment and "WORLD_SIZE" in environment:
        return Share(number("RANK"), number("WORLD_SIZE"))
    share = Share()
    if "SLURM_PROCID" in environment and "SLURM_STEP_ID" in environment:  # inside srun, not in the batch script itself
        share = Share(number("SLURM_PROCID"), number("SLURM_STEP_NUM_TASKS", 1))
    if "SLURM_ARRAY_TASK_ID" in environment:
        first, last = number("SLURM_ARRAY_TASK_MIN", 0), number("SLURM_ARRAY_TASK_MAX")
        step = number("SLURM_ARRAY_TASK_STEP", 1)
        job, jobs = (number("SLURM_ARRAY_TASK_ID") - first) // step, (last - first) // step + 1
        share = Share(job * share.count + share.index, jobs * share.count)
    return share


def chosen_share(part: tuple[int, int] | None) -> Share:
    """The share that the user names, (k, n), or None for what the launcher says."""
    if part is None:
        return share_from_environment()
    if not 0 <= part[0] < part[1]:
        raise BadSetting("part", f"is k of n with 0 <= k < n, got {part[0]} {part[1]}")
    return Share(*part)
