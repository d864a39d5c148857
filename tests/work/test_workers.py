"""Worker processes: what they tell and raise, and that none outlives a death, a stop or its parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_line import alive

JOBS = """
import os, time
from functools import partial
from pathlib import Path
from hwm.work.files import atomic_path

def prepare(folder, lock):
    return partial(run, folder)

def run(folder, job, tell):
    if job == "fault":
        raise ValueError("a/file: is at fault")
    if job == "memory":
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8000000000 bytes.")
    if isinstance(job, int):
        return tell((os.getpid(), job * job))
    with atomic_path(folder / job) as temporary:
        temporary.write_text("half")
        tell((os.getpid(), job))
        time.sleep(60)
"""
SCRIPT = """
import sys
from functools import partial
from pathlib import Path
from jobs import prepare
from hwm.work.memory import OutOfMemory
from hwm.work.signals import StopFlag, Stopped
from hwm.work.workers import new_lock, work_off

folder, jobs = Path(sys.argv[1]), [int(a) if a.isdigit() else a for a in sys.argv[2:]]
try:
    with StopFlag() as flag:
        work_off(jobs, partial(prepare, folder), new_lock(), workers=2, flag=flag, folders=[folder],
                 hear=lambda value: print(*value, flush=True))
except Stopped as stop:
    sys.exit(128 + stop.signal)
except (ValueError, OSError, OutOfMemory) as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


LONG = """
import os, signal
from hwm.work.signals import StopFlag

def wait_for_a_stop():
    with StopFlag() as stop:
        print("waiting", os.getpid(), flush=True)
        while not stop:
            signal.pause()
    print("saved", flush=True)
    return 143
"""


@pytest.fixture
def start(tmp_path):
    script, folder = tmp_path / "script.py", tmp_path / "out"
    script.write_text(SCRIPT)  # which nothing guards against being run again
    (tmp_path / "jobs.py").write_text(JOBS)
    folder.mkdir()
    started = []

    def start(*jobs):
        command = [sys.executable, str(script), str(folder), *map(str, jobs)]
        root = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, env=root, start_new_session=True, **pipes))
        return started[-1], folder

    yield start
    for process in started:
        process.kill()
        process.communicate()


def workers_of(process):
    """Ids of the two workers, once both are in the middle of a file."""
    return [int(process.stdout.readline().split()[0]) for _ in range(2)]


def test_every_job_is_done_once(start):
    process, _ = start(*range(9))
    told, errors = process.communicate(timeout=60)
    rows = [line.split() for line in told.splitlines()]
    assert sorted(int(value) for _, value in rows) == [k * k for k in range(9)] and not errors
    assert process.returncode == 0 and 1 <= len({worker for worker, _ in rows}) <= 2


def test_an_error_of_a_job_is_raised_and_ends_the_others(start):
    process, folder = start("a.txt", "fault")
    told, errors = process.communicate(timeout=60)
    assert errors == "ValueError: a/file: is at fault\n" and process.returncode == 1
    assert list(folder.iterdir()) == [] and not any(alive(line.split()[0]) for line in told.splitlines())


def test_memory_that_runs_out_in_a_worker_is_told_with_its_size(start):
    process, _ = start("a.txt", "memory")
    errors = process.communicate(timeout=60)[1]
    assert errors.startswith("OutOfMemory: out of memory: 8 GB more were asked for, ") and errors.count("\n") == 1
    assert errors.endswith(" GB are free for this process\n")


def test_workers_of_a_script_from_standard_input(tmp_path):
    (tmp_path / "jobs.py").write_text(JOBS)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(__file__).resolve().parents[2])])}
    command = [sys.executable, "-", str(tmp_path), "2", "3"]
    done = subprocess.run(command, input=SCRIPT, capture_output=True, text=True, env=environment, timeout=60)
    assert sorted(int(line.split()[1]) for line in done.stdout.splitlines()) == [4, 9] and not done.stderr


@pytest.mark.fault("F9", "a killed worker of tokenise and simulate: one-line error, no hang, nothing half-written")
def test_a_killed_worker_is_an_error_not_a_hang(start, record_property):
    process, folder = start("a.txt", "b.txt")
    first, second = workers_of(process)
    os.kill(first, signal.SIGKILL)
    begin = time.monotonic()
    _, errors = process.communicate(timeout=30)
    seconds = time.monotonic() - begin
    assert "ChildProcessError: a worker process ended by signal 9" in errors and errors.count("\n") == 1
    assert seconds < 5 and not alive(second) and list(folder.iterdir()) == []
    record_property("measured", f"error after {seconds:.2f} s, 0 processes and 0 torsos left")


@pytest.mark.fault("F5", "workers of tokenise and simulate: whole tree gone in <= 10 s, nothing half-written, quiet")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_all_ends_all_quietly(start, number, record_property):
    process, folder = start("a.txt", "b.txt")
    workers = workers_of(process)
    os.killpg(process.pid, number)
    begin = time.monotonic()
    _, errors = process.communicate(timeout=30)
    seconds = time.monotonic() - begin
    assert process.returncode == 128 + number and errors == ""
    assert seconds < 10 and not any(map(alive, workers)) and list(folder.iterdir()) == []
    record_property("measured", f"{signal.Signals(number).name}: {seconds:.2f} s")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks processes up in /proc")
def test_workers_end_when_their_parent_is_killed(start):
    process, _ = start("a.txt", "b.txt")
    workers = workers_of(process)
    process.kill()
    process.wait()
    begin = time.monotonic()
    while any(map(alive, workers)) and time.monotonic() - begin < 10:
        time.sleep(0.02)
    assert not any(map(alive, workers)) and time.monotonic() - begin < 2


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks processes up in /proc")
def test_jobs_save_and_end_when_their_parent_is_killed(tmp_path):
    (tmp_path / "long.py").write_text(LONG)
    code = "from pathlib import Path; from long import wait_for_a_stop; from hwm.work.jobs import Job, run_jobs\n"
    code += "run_jobs([Job(Path(), Path('log'), wait_for_a_stop, 1, lambda: 0)], parallel=1, what='training', unit='steps')"
    path, log = os.pathsep.join([str(tmp_path), str(Path(__file__).resolve().parents[2])]), tmp_path / "log"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": path})
    while not (log.is_file() and log.read_text().endswith("\n")):
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    job, begin = log.read_text().split()[1], time.monotonic()
    while alive(job) and time.monotonic() - begin < 10:
        time.sleep(0.02)
    assert not alive(job) and log.read_text().splitlines()[1:] == ["saved"]
