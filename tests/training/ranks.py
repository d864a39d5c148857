"""The ranks of one training as processes of this machine, forked from what has imported torch already."""

import os
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from hwm.work.jobs import Job, run_jobs


def ranks(world: int, call: Callable[..., Any], *arguments: Any, log: Path) -> str:
    """Call a module's function in `world` processes that find each other; what the first one printed.

    log: folder for what they print.  Raises ValueError, naming it, if one of them fails.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    places = [common | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)]
    logs = [log / f"rank-{rank}.log" for rank in range(world)]
    jobs = [Job(file, file, partial(_as_rank, place, call, arguments), 1, lambda: 0) for file, place in zip(logs, places)]
    run_jobs(jobs, parallel=world, what="training", unit="ranks", every=0.1)
    return logs[0].read_text()


def _as_rank(place: dict[str, str], call: Callable[..., Any], arguments: tuple[Any, ...]) -> int:
    os.environ |= place
    call(*arguments)
    return 0
