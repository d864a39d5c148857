"""The machine as PyTorch finds it, and the place where a run would live: what can be told without a recipe."""

import importlib.util
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from importlib import metadata
from pathlib import Path

import torch
import torch.distributed as dist
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from hwm.config import RunConfig, TrainConfig
from hwm.doctor.verdict import Verdict, count, fail, graded, ok, size, warn
from hwm.training.device import choose_device, flop_rate
from hwm.training.launch import environment
from hwm.training.processes import LOOPBACK, joined
from hwm.work.allowance import cpu_quota, free_memory, usable_cores
from hwm.work.cache import TEMPORARY, cache_folder
from hwm.work.files import existing
from hwm.work.signals import StopFlag
from hwm.work.workers import Tell, work_off

DISTRIBUTION = "humanoid-world-models"
LEAST_MEMORY = 2e9
"""Bytes of RAM below which even the smallest recipes are cramped."""
LEAST_DISK = 2e9
"""Free bytes below which a run should not begin."""
LEAST_FILES = 256
"""Open files that a run of any size wants to be allowed."""
LEAST_SHARED = 256e6
"""Bytes of /dev/shm that processes on one machine exchange data through."""
TOGETHER_SECONDS = 60.0
"""In which two processes find each other: two imports of torch on a busy machine, and little else."""


def versions() -> Iterator[Verdict]:
    """Python and torch against the range that the package declares; torchvision absent or of this torch."""
    python = platform.python_version()
    wanted = metadata.metadata(DISTRIBUTION)["Requires-Python"] or ""
    yield graded("python", f"{python} (wants {wanted})", f"install Python {wanted}", fails=not within(python, wanted))
    wanted = requirements(DISTRIBUTION).get("torch", "")
    fits = within(torch.__version__, wanted)
    yield graded("torch", f"{torch.__version__} (wants {wanted})", f"pip install 'torch{wanted}'", fails=not fits)
    yield torchvision(torch.__version__)


def torchvision(version: str) -> Verdict:
    """Another torchvision than torch's own replaces torch, or breaks every import of it."""
    try:
        found = metadata.version("torchvision")
    except metadata.PackageNotFoundError:
        return ok("torchvision", "absent, and not needed")
    wanted = requirements("torchvision").get("torch", "")
    remedy = f"pip uninstall torchvision (hwm does not use it), or install the one for torch {version}"
    return graded("torchvision", f"{found}, made for torch{wanted}", remedy, fails=not within(version, wanted))


def build(cuda: str | None, gpus: list[str]) -> Verdict:
    """Whether the wheel of torch fits the machine.  cuda: torch.version.cuda.  gpus: NVIDIA GPUs that the driver names."""
    if gpus and cuda is None:
        remedy = "the GPU would lie idle: reinstall torch's CUDA build (delete .venv, then HWM_TORCH=cuda python3 run.py demo)"
        return fail("torch build", f"CPU build, but the machine has {len(gpus)} x {gpus[0]}", remedy)
    if cuda is None:
        return ok("torch build", "CPU build, no NVIDIA GPU")
    if not gpus:
        remedy = "install NVIDIA's driver, or the smaller CPU build of torch"
        return warn("torch build", f"CUDA {cuda}, but no NVIDIA driver answers", remedy)
    return ok("torch build", f"CUDA {cuda}, {len(gpus)} x {gpus[0]}")


def nvidia_gpus() -> list[str]:
    """Names of the NVIDIA GPUs that the driver knows, without torch."""
    program = shutil.which("nvidia-smi")
    if program:
        try:
            command = [program, "--query-gpu=name", "--format=csv,noheader"]
            told = subprocess.run(command, capture_output=True, text=True, timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            told = None
        if told is not None and told.returncode == 0:
            return [line.strip() for line in told.stdout.splitlines() if line.strip()]
    known = Path("/proc/driver/nvidia/gpus")
    return ["NVIDIA GPU"] * len(list(known.iterdir())) if known.is_dir() else []


def device(train: TrainConfig, *, nproc: int = 1) -> Verdict:
    """The device that training would choose, its memory, and enough of them for all processes."""
    chosen = choose_device(train.device)
    if chosen.type != "cuda":
        return ok("device", f"{chosen.type}, {torch.backends.cpu.get_cpu_capability()}")
    free, total = torch.cuda.mem_get_info(chosen)
    found = f"{chosen}, {torch.cuda.get_device_name(chosen)}, {size(free)} of {size(total)} free"
    if nproc > torch.cuda.device_count():
        remedy = f"start at most {torch.cuda.device_count()} processes here, one a GPU"
        return fail("device", f"{found}; {torch.cuda.device_count()} GPUs for {nproc} processes", remedy)
    return graded("device", found, "another process holds its memory: nvidia-smi names it", warns=free < 0.8 * total)


def speed(train: TrainConfig) -> Verdict:
    """Matrix products a second in both precisions, measured: bfloat16 is not faster everywhere."""
    chosen = choose_device(train.device)
    if chosen.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        found = f"float32 {size(flop_rate(chosen, torch.float32), 'FLOP/s')}, bfloat16 only emulated"
        return graded("arithmetic", found, '--set train.precision="float32"', warns=train.precision == "bfloat16")
    rates = {dtype: flop_rate(chosen, dtype) for dtype in (torch.float32, torch.bfloat16)}
    found = ", ".join(f"{str(dtype).removeprefix('torch.')} {size(rate, 'FLOP/s')}" for dtype, rate in rates.items())
    if train.precision == "float32" and rates[torch.bfloat16] > 2 * rates[torch.float32]:
        found += "; --set train.precision=auto may be faster, where the model can be trained so"
    slower = train.precision == "bfloat16" and rates[torch.bfloat16] < rates[torch.float32]
    return graded("arithmetic", found, 'bfloat16 is slower here: --set train.precision="float32"', warns=slower)


def cores(train: TrainConfig, *, nproc: int = 1) -> Verdict:
    """Cores that this process may use, by its affinity and its cgroup, against the threads that training starts."""
    allowed, quota = usable_cores(), cpu_quota()
    each = int(environment(nproc)["OMP_NUM_THREADS"]) if nproc > 1 else torch.get_num_threads()
    threads = train.threads or min(each, allowed)
    found = f"{allowed} usable" + (f" (the cgroup's quota is {quota:g})" if quota else "")
    found += f"; {count(threads, 'thread')}" + (f" in each of {nproc} processes" if nproc > 1 else "")
    most = max(1, allowed // nproc)
    crowded = threads * nproc > max(allowed, nproc)
    return graded("cores", found, f"threads would wait for one another: --set train.threads={most}", warns=crowded)


def memory(*, least: float = LEAST_MEMORY) -> Verdict:
    """RAM that is free for this process, by the system and by its cgroup."""
    free = free_memory()
    remedy = "close other programs, or raise the container's limit"
    return graded("memory", f"{size(free)} of RAM free", remedy, fails=free < least / 4, warns=free < least)


def requirements(distribution: str, *, extra: str = "") -> dict[str, str]:
    """What an installed distribution needs, by name: version ranges such as ">=2.11,<2.17"; of one extra, or always."""
    needs = map(Requirement, metadata.requires(distribution) or ())
    own = [need for need in needs if bool(extra) == ("extra" in str(need.marker))]
    chosen = [need for need in own if need.marker is None or need.marker.evaluate({"extra": extra})]
    return {need.name: ",".join(sorted(map(str, need.specifier), reverse=True)) for need in chosen}


def within(version: str, wanted: str) -> bool:
    """Whether a version lies in a range such as ">=2.11,<2.17"."""
    return SpecifierSet(wanted).contains(version, prereleases=True)


def disk(name: str, folder: Path, *, least: float = LEAST_DISK) -> Verdict:
    """Free space where `folder` is or would be made."""
    free = shutil.disk_usage(existing(folder)).free
    remedy = f"{size(least)} are wanted: free some space or choose another disk"
    return graded(name, f"{size(free)} free at {folder}", remedy, fails=free < least)


def writing(folder: Path) -> Verdict:
    """Write, force to the disk, rename and delete a file; `folder` is the doctor's own temporary one."""
    file, other = folder / "written", folder / "renamed"
    try:
        with file.open("wb") as stream:
            stream.write(bytes(4096))
            os.fsync(stream.fileno())
        file.replace(other)
        whole = other.read_bytes() == bytes(4096)
        other.unlink()
    except OSError as error:
        return fail("writing", f"{folder.parent}: {error.strerror}", "choose a folder that you may write to with --out")
    return graded("writing", f"{folder.parent}", "what was written did not come back: change the disk", fails=not whole)


def cache() -> Verdict:
    """Whether what is made once is found again: checked files, decoded video, compiled kernels."""
    folder = cache_folder()
    remedy = "it is gone at the end: set XDG_CACHE_HOME to a folder that can be written"
    return graded("cache folder", f"{folder}", remedy, warns=folder.name.startswith(TEMPORARY))


def locking(folder: Path) -> Verdict:
    """Whether a lock that one open file holds is refused to another, which keeps two runs out of one folder."""
    remedy = "make sure yourself that no two processes train in one folder, or choose a local disk"
    try:
        import fcntl
    except ImportError:
        return warn("file locks", "this system has none", remedy)
    with (folder / "lock").open("wb") as first, (folder / "lock").open("wb") as second:
        try:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return warn("file locks", f"refused: {error.strerror}", remedy)
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return ok("file locks", "a second holder is refused")
        return warn("file locks", "a second holder is let in", remedy)


def open_files(*, needed: int = LEAST_FILES) -> Verdict:
    """Files that the process may hold open at a time, against what is needed: three for every mapped shard."""
    try:
        import resource
    except ImportError:
        return ok("open files", "no limit on this system")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return ok("open files", f"{soft} allowed, {needed} wanted")
    more = "ulimit -n " + str(2 * needed) if hard == resource.RLIM_INFINITY or hard >= needed else "ask for a higher limit"
    return fail("open files", f"{soft} allowed, {needed} wanted", more)


def extras(config: RunConfig | None) -> Iterator[Verdict]:
    """Optional libraries: what the recipe needs; without one, which are there."""
    if config is None:
        present = [extra for extra in ("sim", "report", "wan", "tensorboard") if not _lacking(extra)]
        yield ok("extras", f"{', '.join(present) or 'none'} installed")
        return
    needed = [config.model.family] * bool(config.model.needs) + ["tensorboard"] * config.train.tensorboard
    for extra in needed:
        lacking = _lacking(extra)
        found = f"{extra}: {', '.join(lacking) if lacking else 'all there'}"
        yield graded("extras", found, f"pip install '{DISTRIBUTION}[{extra}]'", fails=bool(lacking))
    if not needed:
        yield ok("extras", f"{config.recipe} needs none")


def _lacking(extra: str) -> list[str]:
    """Distributions of an extra that are absent or of another version."""
    lacking = []
    for name, wanted in requirements(DISTRIBUTION, extra=extra).items():
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            lacking.append(f"{name} is missing")
            continue
        if not within(found, wanted):
            lacking.append(f"{name} {found} is not {wanted}")
    return lacking


def compiler(folder: Path, *, cuda: bool) -> Verdict:
    """What torch.compile needs: on a CPU a C++ compiler that compiles, on a GPU Triton."""
    if cuda and importlib.util.find_spec("triton") is None:
        return fail("compiler", "no triton", "pip install triton, or --set train.compile=false")
    found = next(filter(None, map(shutil.which, ("g++", "clang++", "c++"))), None)
    remedy = "install g++ with its headers, or --set train.compile=false"
    if found is None:
        return fail("compiler", "no C++ compiler", remedy)
    source = folder / "program.cpp"
    source.write_text("#include <cmath>\n#include <vector>\nint main() { return std::vector<int>{int(std::sqrt(0.0))}[0]; }\n")
    done = subprocess.run([found, source, "-o", folder / "program"], capture_output=True, text=True, timeout=120)
    wrong = done.stderr.strip().splitlines()[:1]
    return graded("compiler", found + (f": {wrong[0]}" if wrong else ""), remedy, fails=done.returncode != 0)


def shared_memory(folder: Path = Path("/dev/shm"), *, least: float = LEAST_SHARED) -> Verdict:
    """Memory through which processes on one machine exchange data; containers often have 64 MB."""
    if not folder.is_dir():
        return warn("shared memory", f"no {folder}", "GPUs on one machine may talk more slowly")
    free = shutil.disk_usage(folder).free
    return graded("shared memory", f"{size(free)} free in {folder}", "give the container --shm-size=1g", warns=free < least)


def exchange(*, seconds: float = TOGETHER_SECONDS) -> Verdict:
    """Two processes find each other over the loopback and add up a number, as those of a training run do (gloo)."""
    remedy = "let processes reach 127.0.0.1: check the firewall, or export GLOO_SOCKET_IFNAME=lo"
    limit = timedelta(seconds=seconds)
    store = dist.TCPStore(LOOPBACK, 0, is_master=True, wait_for_workers=False, timeout=limit)
    sums: list[float] = []
    try:
        work_off([0, 1], _take_part, store.port, time.time() + seconds, workers=2, hear=sums.append, flag=StopFlag())
    except TimeoutError:
        return fail("processes", f"two did not find each other within {seconds:g} s", remedy)
    except (ValueError, ChildProcessError) as error:
        return fail("processes", f"two could not add up: {error}", remedy)
    if sums != [3.0, 3.0]:
        return fail("processes", f"two added 1 and 2 up to {sums}", remedy)
    return ok("processes", "two found each other over the loopback and added up (gloo)")


def _take_part(port: int, end: float) -> Callable[[int, Tell], None]:
    def add(rank: int, tell: Tell) -> None:
        if (left := end - time.time()) <= 0:
            raise TimeoutError
        # As the launcher tells its processes, but for the store, which is here before them.
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        os.environ |= {"MASTER_ADDR": LOOPBACK, "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
        try:
            with joined(device="cpu", timeout=left) as processes:
                tell(processes.sum([rank + 1.0])[0])
        except RuntimeError as error:  # the base of torch's own
            if time.time() >= end:
                raise TimeoutError from None
            raise ValueError((str(error).strip().splitlines() or ["no message"])[-1][:200]) from None

    return add
