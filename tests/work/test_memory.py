"""Memory that runs out is known however a library says it; no other error is taken for it."""

import numpy as np
import pytest
import torch

from hwm.cli import main
from hwm.work import memory
from hwm.work.memory import OutOfMemory, shortage

CUDA = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 139.81 GiB of which 10.12 MiB is free. "
    "Process 1 has 3.00 GiB memory in use."
)


def raised(work):
    with pytest.raises(Exception) as found:
        work()
    return found.value


@pytest.mark.parametrize("error, told", [
    (lambda: raised(lambda: torch.empty(1 << 60, dtype=torch.uint8)), "out of memory: 1.15e+09 GB more were asked for, 5 GB"),
    (lambda: raised(lambda: np.empty(1 << 60, np.uint8)), "out of memory: 1.15e+09 GB more were asked for, 5 GB are free"),
    (lambda: MemoryError(), "out of memory: 5 GB are free for this process"),
    (lambda: torch.OutOfMemoryError(CUDA), "out of memory on the GPU: 21.5 GB more were asked for, 10.12 MiB of 139.81 GiB"),
    (lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), "out of memory on the GPU: "),
    (lambda: RuntimeError("std::bad_alloc"), "out of memory: 5 GB"),
    (lambda: OSError(12, "Cannot allocate memory"), "out of memory: 5 GB"),
    (lambda: ImportError("libtorch_cpu.so: failed to map segment from shared object"), "out of memory: 5 GB"),
    (lambda: OutOfMemory("run: training failed"), "run: training failed"),
    (lambda: RuntimeError("shapes cannot be multiplied"), None), (lambda: ValueError("data: out of memory"), None),
    (lambda: OSError(28, "No space left on device"), None),
])  # fmt: skip
def test_shortage(error, told, monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda: 5e9)
    found = shortage(error())
    assert found is None if told is None else found.startswith(told) and "\n" not in found


@pytest.mark.parametrize("verb", ["recipes", "train"])
def test_a_command_says_what_to_lower(verb, monkeypatch, capsys):
    def full(*_, **__):
        raise torch.OutOfMemoryError(CUDA)

    monkeypatch.setattr("hwm.recipes.recipe", full)
    assert main([verb, "st-tiny", *(["--out", "x", "--data", "y"] if verb == "train" else [])]) == 3
    said = capsys.readouterr().err
    assert said.startswith(f"hwm {verb}: error: out of memory on the GPU: 21.5 GB more") and said.count("\n") == 1
    assert ("lower train.batch_size" if verb == "train" else "close other programs") in said


def test_a_worker_that_somebody_killed_is_no_shortage():
    assert shortage(ChildProcessError("a worker process ended by signal 9 (out of memory?)")) is None
