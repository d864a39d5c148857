"""Memory that runs out: known in whatever way a library says it, and told in one line with the sizes."""

import re

from hwm.work.allowance import free_memory

SIGNS = re.compile(
    r"out of memory|(can't|cannot|unable to|failed to) allocate|not enough memory|bad_alloc|ALLOC_FAILED|failed to map segment"
    r"|can't start new thread", re.IGNORECASE,
)  # fmt: skip
ASKED = re.compile(r"allocate ([\d.]+) ?(bytes|[KMGTPE]iB|[kMGT]?B)\b")
ON_GPU = re.compile(r"GPU (\d+) has a total capacity of ([\d.]+ \w+) of which ([\d.]+ \w+) is free")
UNITS = {"bytes": 1, "B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
UNITS |= {f"{letter}iB": 2.0 ** (10 * power) for power, letter in enumerate("KMGTPE", 1)}
EXIT_CODE = 3
"""Of a command that ran out of memory."""


class OutOfMemory(Exception):
    """Memory ran out in another process; the message is one line."""


def shortage(error: BaseException) -> str | None:
    """How much was asked for and how much is there, where the error says that memory ran out; None for any other error."""
    text = " ".join(str(error).split())
    if isinstance(error, OutOfMemory):
        return text
    library = isinstance(error, RuntimeError | OSError | ImportError) and not isinstance(error, ChildProcessError)
    told = library and SIGNS.search(text)
    if not told and not isinstance(error, MemoryError):
        return None
    asked = ASKED.search(text)
    size = float(asked[1]) * UNITS[asked[2]] if asked else 0.0
    wanted = f"{size / 1e9:.3g} GB more were asked for, " if size else ""
    if re.search("CUDA|CUBLAS|CUDNN", text):
        found = ON_GPU.search(text)
        return "out of memory on the GPU: " + (f"{wanted}{found[3]} of {found[2]} are free" if found else text[:200])
    return f"out of memory: {wanted}{free_memory() / 1e9:.3g} GB are free for this process"
