"""The process in which TorchScript runs: started as a script by `program`, it imports torch and nothing of this package.

It takes tensors from its standard input and gives tensors to its standard output, each after a line of JSON; nothing is
pickled on the way.  Before the program is even loaded, which may run parts of it, the process gives up what it does not
need: files and, on a CPU, memory beyond a limit.
"""

import io
import json
import math
import os
import resource
import sys
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

MAX_HEAD = 100_000
MAX_BYTES = 16 * 2**30
DTYPES = {
    str(dtype): dtype
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8)
}


def send(stream: BinaryIO, head: dict[str, Any], tensor: Tensor | None = None) -> None:
    """Write a message."""
    if tensor is not None:
        tensor = tensor.detach().cpu().contiguous()
        head = head | {"dtype": str(tensor.dtype), "shape": list(tensor.shape)}
    stream.write(json.dumps(head).encode() + b"\n")
    if tensor is not None:
        stream.write(tensor.reshape(-1).view(torch.uint8).numpy().data)
    stream.flush()


def receive(stream: BinaryIO) -> tuple[dict[str, Any], Tensor | None] | None:
    """Read a message; None at the end.  Raises ValueError for what is no message."""
    line = stream.readline(MAX_HEAD)
    if not line:
        return None
    head = json.loads(line)
    if not isinstance(head, dict):
        raise ValueError("no message")
    if "dtype" not in head:
        return head, None
    dtype = DTYPES.get(str(head["dtype"]))
    shape: Any = head.get("shape")
    sizes = isinstance(shape, list) and len(shape) <= 8 and all(type(n) is int and 0 <= n < 2**40 for n in shape)
    if dtype is None or not sizes:
        raise ValueError("no tensor")
    if math.prod(shape) * dtype.itemsize > MAX_BYTES:
        raise ValueError("a tensor too large")
    tensor = torch.empty(math.prod(shape), dtype=dtype)
    rest = tensor.view(torch.uint8).numpy().data
    while len(rest):
        count = stream.readinto(rest)  # type: ignore[attr-defined]
        if not count:
            return None
        rest = rest[count:]
    return head, tensor.reshape(shape)


def give_up(*, cpu: bool, memory: int) -> None:
    """Write no byte into a file, leave no core; on a CPU open no file at all and take no more than so much memory.

    CUDA opens files of its own as it goes, and maps more addresses than there is memory.
    """
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if cpu:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if sys.platform == "linux" else 0
        if used:
            resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))
        free = os.open(os.devnull, os.O_RDONLY)  # the lowest number that is free
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, free))


def main() -> None:
    """Serve until the other end closes."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the program prints is no answer
    requests = sys.stdin.buffer
    message = receive(requests)
    assert message is not None
    head = message[0]
    torch.set_num_threads(head["threads"])
    device, dtype = torch.device(head["device"]), DTYPES[head["dtype_of_weights"]]
    contents = [Path(file).read_bytes() for file in head["files"]]
    # The library reads its own facts about the machine now, not later.
    torch.nn.functional.conv3d(torch.zeros(1, 4, 4, 8, 8, device=device), torch.zeros(4, 4, 3, 3, 3, device=device))
    give_up(cpu=device.type == "cpu", memory=head["memory"])
    try:
        programs = [torch.jit.load(io.BytesIO(content), map_location=device).to(dtype).eval() for content in contents]
        send(answers, {})
    except Exception as error:
        send(answers, {"error": " ".join(str(error).split())[-300:]})
        return
    while (message := receive(requests)) is not None:
        head, tensor = message
        assert tensor is not None
        try:
            with torch.no_grad():
                found = programs[head["program"]](tensor.to(device))
            send(answers, {}, found if isinstance(found, Tensor) else found[0])
        except Exception as error:
            send(answers, {"error": " ".join(str(error).split())[-300:]})


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
