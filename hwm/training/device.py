"""Where and how the arithmetic runs: device, CPU threads, precision, and seeds that need no state."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from hwm.work.allowance import usable_cores


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" is the first CUDA device where there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {name!r} cannot be used here ({reason}); use 'auto' or 'cpu'") from None
    return device


def own_device(device: str, environment: Mapping[str, str] = os.environ) -> str:
    """Of the GPUs that processes of one machine share the one of this process; any other device is as it was given."""
    local = environment.get("LOCAL_RANK") or environment.get("SLURM_LOCALID")
    if device != "cuda" or local is None or not local.isdecimal() or not torch.cuda.device_count():
        return device
    return f"cuda:{int(local) % torch.cuda.device_count()}"


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Run with that many CPU threads.

    0: torch's own choice (physical cores, or OMP_NUM_THREADS), but no more than the process may use: two threads
    that share a core are slower than one.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count or min(before, usable_cores()))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """bfloat16: matrix products in bfloat16, weights and sums in float32.  float32: nothing."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bfloat16" else nullcontext()


def seed_of(*stream: int | str) -> int:
    """A 63-bit seed for a named stream of random numbers, such as (run seed, step).

    Streams are unrelated however close their names, and nothing has to be saved to continue one.
    """
    name = "/".join(map(str, stream)).encode()
    return int.from_bytes(hashlib.sha256(name).digest()[:8], "little") >> 1


@contextmanager
def own_randomness(device: torch.device) -> Iterator[None]:
    """Seed freely inside; the caller's random numbers go on as if nothing had happened."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
