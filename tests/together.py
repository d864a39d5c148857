"""A script in several processes that find each other, of the server that has imported torch already."""

from __future__ import annotations

import os
import runpy
import socket
import sys
import tempfile
import time
from pathlib import Path

from hwm.work.server import context, start, take_over, warm


def processes(world: int, script: Path, *arguments: object, **variables: str) -> list[str]:
    """Run it in `world` processes; what each printed.  Fails if one does."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), **variables}
    warm("torch._dynamo", "torch.distributed.checkpoint")
    with tempfile.TemporaryDirectory() as folder:
        said, started = [Path(folder, str(rank)) for rank in range(world)], []
        for rank in range(world):
            environment = os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            command = [str(script), *map(str, arguments)]
            started.append(context().Process(target=_run, args=(command, environment, said[rank]), daemon=True))
            start(started[-1])
        end = time.monotonic() + 150
        for process in started:
            process.join(max(0.0, end - time.monotonic()))
        told = [file.read_text() if file.is_file() else "" for file in said]
        assert [process.exitcode for process in started] == [0] * world, "\n".join(told)
    return told


def _run(command: list[str], environment: dict[str, str], said: Path) -> None:
    take_over(environment)
    with said.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = command
    sys.path.insert(0, str(Path(command[0]).parent))
    runpy.run_path(command[0], run_name="__main__")
    sys.stdout.flush()
