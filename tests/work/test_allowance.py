"""Cores and memory that a process may use: affinity, quotas of either version of cgroups, at any depth."""

import os
import resource
import subprocess
import sys

import pytest

from hwm.training.launch import environment
from hwm.work import allowance

V1 = {"cpu.cfs_quota_us": "{}", "cpu.cfs_period_us": "100000"}


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Puts files of a made-up machine with 16 cores in the place of /proc and /sys/fs/cgroup."""
    monkeypatch.setattr(allowance, "PROC", tmp_path / "proc")
    monkeypatch.setattr(allowance, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(allowance, "_affinity", lambda: set(range(16)))

    def put(files):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(f"{text}\n")

    return put


@pytest.mark.parametrize("files, cores", [
    ({}, 16), ({"cgroup/cpu.max": "max 100000"}, 16), ({"cgroup/cpu.max": "250000 100000"}, 2),
    ({"cgroup/cpu.max": "50000 100000"}, 1), ({"cgroup/cpu.max": "9900000 100000"}, 16),
    ({"proc/self/cgroup": "0::/a/b", "cgroup/a/b/cpu.max": "max 100000", "cgroup/a/cpu.max": "300000 100000"}, 3),
    ({"proc/self/cgroup": "0::/a/b", "cgroup/a/b/cpu.max": "200000 100000", "cgroup/a/cpu.max": "300000 100000"}, 2),
    ({"proc/self/cgroup": "0::/docker/4f", "cgroup/cpu.max": "400000 100000"}, 4),
    ({"proc/self/cgroup": "4:cpu,cpuacct:/x", "cgroup/cpu,cpuacct/x/cpu.cfs_quota_us": "200000",
      "cgroup/cpu,cpuacct/x/cpu.cfs_period_us": "100000"}, 2),
    ({"proc/self/cgroup": "4:cpu,cpuacct:/docker/4f", "cgroup/cpu/cpu.cfs_quota_us": "500000",
      "cgroup/cpu/cpu.cfs_period_us": "100000"}, 5),
    ({"proc/self/cgroup": "1:cpu:/", "cgroup/cpu/cpu.cfs_quota_us": "-1", "cgroup/cpu/cpu.cfs_period_us": "100000"}, 16),
])  # fmt: skip
def test_cores_are_those_of_affinity_and_quota(machine, files, cores):
    machine(files)
    assert allowance.usable_cores() == cores


def test_libraries_and_processes_are_told_of_the_quota(machine, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    allowance.settle_threads()
    assert "OMP_NUM_THREADS" not in os.environ and os.environ["GOMP_SPINCOUNT"] == "7"
    assert environment(2)["OMP_NUM_THREADS"] == "8"
    machine({"cgroup/cpu.max": "400000 100000"})
    allowance.settle_threads()
    assert os.environ["OMP_NUM_THREADS"] == "4" and environment(2)["OMP_NUM_THREADS"] == "2"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    allowance.settle_threads()
    assert os.environ["OMP_NUM_THREADS"] == environment(2)["OMP_NUM_THREADS"] == "1"


def test_no_other_function_counts_cores():
    command = ["grep", "-rlE", r"cpu_count|sched_getaffinity|process_cpu_count", "hwm", "--include=*.py"]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "hwm/work/allowance.py\n"


@pytest.mark.parametrize("files, free", [
    ({"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:   2000 kB"}, 2000 * 1024),
    ({"proc/meminfo": "MemAvailable: 2000 kB", "cgroup/memory.max": "1000000", "cgroup/memory.current": "900000",
      "cgroup/memory.stat": "anon 1\ninactive_file 300000"}, 400_000),
    ({"proc/meminfo": "MemAvailable: 2000 kB", "proc/self/cgroup": "3:memory:/job",
      "cgroup/memory/job/memory.limit_in_bytes": "500000", "cgroup/memory/job/memory.usage_in_bytes": "600000"}, 0),
])  # fmt: skip
def test_memory_is_that_of_the_machine_and_the_cgroup(machine, files, free):
    machine(files)
    assert allowance.free_memory() == free


def test_a_limit_of_the_process_counts(monkeypatch):
    code = "import resource; from hwm.work.allowance import free_memory\n"
    code += f"resource.setrlimit(resource.RLIMIT_AS, ({10**9}, resource.RLIM_INFINITY)); print(free_memory())"
    left = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout)
    assert 0 < left < 10**9 and resource.getrlimit(resource.RLIMIT_AS)[0] != 10**9


@pytest.mark.parametrize("later, idle", [
    (["20 0 0 180", "30 0 0 170"], 2), (["200 0 0 0", "150 0 50 0"], 1), (["200 0 0 0", "100 100 0 0"], 1),
    (["0 0 0 0", "0 0 0 0"], 16),
])  # fmt: skip
def test_idle_cores_are_those_that_nobody_keeps_busy(machine, monkeypatch, later, idle):
    cores = 16 if idle == 16 else 2
    monkeypatch.setattr(allowance, "_affinity", lambda: set(range(cores)))
    first = ["0 0 0 0"] * cores
    machine({"proc/stat": "\n".join(f"cpu{i} {times}" for i, times in enumerate(first))})
    monkeypatch.setattr(allowance.time, "sleep", lambda seconds: machine(
        {"proc/stat": "\n".join(f"cpu{i} {times}" for i, times in enumerate(later * 8))}))  # fmt: skip
    assert allowance.idle_cores() == idle
