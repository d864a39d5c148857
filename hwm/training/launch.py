"""Training on several processes of this machine: torchrun with the settings that make its restarts work.

What was measured on gloo (torch 2.13): restarted processes that share the launcher's store may read the addresses of dead
ones, and half of such jobs hang (pytorch#135712); with a store of their own all went on.  So the launcher's environment
says so, a process that dies is replaced, and a process whose launcher dies is told to save and leave.
"""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from hwm.config import RunConfig, to_toml
from hwm.training.loop import FitResult
from hwm.training.processes import LOOPBACK, STALE_STORE
from hwm.work.allowance import free_memory, killed_for_memory, usable_cores
from hwm.work.memory import EXIT_CODE, OutOfMemory
from hwm.work.outcome import OUTCOME, read_outcome
from hwm.work.signals import StopFlag, Stopped, stop_with_parent

RESTARTS = 3
"""Times a dead process is replaced before the job is given up."""
SAVING = 300
"""Seconds that processes have to save when they are told to stop; torchrun's own limit is 30."""


def launch(config: RunConfig, out: Path, *, nproc: int) -> FitResult:
    """Train in `nproc` processes of this machine and wait for them; a stop signal is passed on to them.

    Raises ValueError with the error of a process, or when they died more often than they are replaced; OutOfMemory.
    """
    with tempfile.TemporaryDirectory(prefix="hwm-") as temporary, StopFlag() as stop:
        killed = killed_for_memory()
        job, outcome = Path(temporary) / "config.toml", Path(temporary) / "outcome.json"
        job.write_text(to_toml(config), encoding="utf-8")
        command = [sys.executable, "-m", "hwm.training.launch", "--standalone", f"--nproc-per-node={nproc}"]
        command += [f"--local-addr={LOOPBACK}"]  # the name of this machine need not be known to anybody
        command += [f"--max-restarts={RESTARTS}", "--monitor-interval=0.5", f"--shutdown-timeout={SAVING}", "-m", "hwm", "train"]
        # In a session of its own: a Ctrl-C in the terminal reaches this process alone, which passes it on once.
        launcher = subprocess.Popen(
            [*command, f"--config={job}", f"--out={out}"],
            env=environment(nproc) | {OUTCOME: str(outcome)},
            start_new_session=True,
        )
        try:
            told = False
            while True:
                try:
                    code = launcher.wait(0.2)
                    break
                except subprocess.TimeoutExpired:
                    # An error of the user would only be repeated by the processes that replace the ones it ended.
                    if (stop or "error" in read_outcome(outcome)) and not told:
                        launcher.send_signal(signal.SIGTERM)
                        told = True
        finally:
            if launcher.poll() is None:
                launcher.kill()  # what it started is told by the system, see `signals.stop_with_parent`
        found = read_outcome(outcome)
    if not found and stop.signal:
        raise Stopped(stop.signal)  # between two attempts, when nobody was there to save; the last checkpoint is
    if "error" in found:
        raise (OutOfMemory if found["code"] == EXIT_CODE else ValueError)(found["error"])
    if not found and killed_for_memory() > killed:
        raise OutOfMemory(f"out of memory: the system killed a process for want of it, {free_memory() / 1e9:.3g} GB are free now")
    if not found:
        raise ValueError(f"{out}: the processes died before the end (torchrun's code {code}); what they said stands above, "
                         "the same command goes on from the last checkpoint")  # fmt: skip
    return FitResult(found["step"], found["best"], found["seconds"], found["signal"])


def agent(arguments: list[str]) -> int:
    """torchrun with these arguments, without the traces that it leaves when it is stopped or its processes fail."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    stop_with_parent()
    try:
        run.run(run.parse_args(arguments))
        return 0
    except SignalException as stop:
        return 128 + stop.sigval
    except ChildFailedError as error:
        ranks = ", ".join(f"process {rank} with {failure.exitcode}" for rank, failure in error.failures.items())
        print(f"hwm train: given up after {RESTARTS} restarts; ended: {ranks}", file=sys.stderr)
        return 1


def environment(nproc: int) -> dict[str, str]:
    """The environment of a launcher of `nproc` processes."""
    share = max(1, usable_cores() // nproc)
    given = os.environ.get("OMP_NUM_THREADS", "")
    threads = str(min(share, int(given)) if given.isdecimal() and int(given) else share)
    # C++ warns that a model has no idle weights after all; errors still show.
    quiet = {"TORCH_CPP_LOG_LEVEL": os.environ.get("TORCH_CPP_LOG_LEVEL", "ERROR")}
    return os.environ | quiet | {STALE_STORE: "1", "OMP_NUM_THREADS": threads}


if __name__ == "__main__":
    sys.exit(agent(sys.argv[1:]))
