"""Where and how the arithmetic runs: device, CPU threads, precision, and seeds that need no state."""

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Literal

import torch

from hwm.safe_load.paths import shown
from hwm.work.allowance import free_memory, usable_cores
from hwm.work.progress import rate
from hwm.work.ranges import BadSetting


def choose_device(device: str, *, name: str = "device", environment: Mapping[str, str] = os.environ) -> torch.device:
    """The device of that name, there and usable: "auto" is CUDA where there is one, else the CPU.

    "cuda" is, of the GPUs that processes of one machine share, the one of this process.
    Raises BadSetting, a ValueError, for one that cannot be used here.  name: of the setting, for the message.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    local = environment.get("LOCAL_RANK") or environment.get("SLURM_LOCALID") or ""
    wanted = ("cuda" if gpus else "cpu") if device == "auto" else device
    try:
        chosen = torch.device(wanted)
        if chosen.type == "cuda" and not gpus:
            missing = "no GPU and driver are found" if torch.backends.cuda.is_built() else "this torch is built without CUDA"
            raise ValueError(missing)
        if chosen.type == "cuda" and (chosen.index or 0) >= gpus:
            raise ValueError(f"there {'is' if gpus == 1 else 'are'} {gpus} here, counted from 0")
        if chosen.type == "meta":
            raise ValueError("it computes nothing")
        if chosen.type not in ("cpu", "cuda"):
            torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError, ValueError) as error:
        reason = str(error).splitlines()[0][:120]
        raise BadSetting(name, f"{shown(device)} cannot be used ({reason}); take auto or cpu") from None
    return torch.device(chosen.type, int(local) % gpus) if wanted == "cuda" and local.isdecimal() else chosen


def free_on(device: torch.device) -> float:
    """Bytes of memory that are free there."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory()


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
    """bfloat16: matrix products in bfloat16, weights and sums in float32.  float32: nothing.  auto: the faster one here."""
    precision = faster_precision(device) if precision == "auto" else precision
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bfloat16" else nullcontext()


@cache
def faster_precision(device: torch.device) -> Literal["float32", "bfloat16"]:
    """The one in which the device multiplies matrices faster: many processors only emulate bfloat16.

    Measured, and only called bfloat16 where that more than makes up for what is converted.
    """
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return "float32"
    faster = flop_rate(device, torch.bfloat16) > 1.5 * flop_rate(device, torch.float32)
    return "bfloat16" if faster else "float32"


def flop_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of square matrix products: the best of three goes after one to warm up."""
    side = 4096 if device.type == "cuda" else 768
    a = torch.ones(side, side, device=device, dtype=dtype)
    best = min(seconds_of(lambda: [a @ a for _ in range(4)], device) for _ in range(4))
    return rate(4 * 2 * side**3, best)


def seconds_of(run: Callable[[], object], device: torch.device) -> float:
    """Wall time of `run`, what it left running on the GPU included."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


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
