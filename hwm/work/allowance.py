"""What this process may use of its machine: cores and memory, by its affinity, its limits and its cgroup (a container's)."""

import os
import re
import time
from pathlib import Path

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Cores that this process may keep busy: those of its affinity, but no more than its cgroup's quota."""
    cores, quota = len(_affinity()), cpu_quota()
    return cores if quota is None else max(1, min(cores, int(quota)))


def cpu_quota() -> float | None:
    """Cores that the quotas of the process's cgroups allow, which may be a fraction; None without one."""
    quotas = []
    for folder in _cgroups("cpu"):
        text = _read(folder / "cpu.max") or f"{_read(folder / 'cpu.cfs_quota_us')} {_read(folder / 'cpu.cfs_period_us')}"
        if match := re.fullmatch(r"([1-9]\d*) ([1-9]\d*)", text):  # "max" or -1 for none
            quotas.append(int(match[1]) / int(match[2]))
    return min(quotas, default=None)


def settle_threads() -> None:
    """Tell the libraries that compute, before they are loaded, how many threads suit this process, and not to wait busily.

    They count cores without the quota.  By their own choice a thread that waits for the others burns its core for
    milliseconds, which on a machine with other work makes two threads ten times slower than one.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    if (cores := usable_cores()) < len(_affinity()):
        os.environ.setdefault("OMP_NUM_THREADS", str(cores))


def idle_cores(seconds: float = 0.25) -> int:
    """Of the usable cores, those that nothing keeps busy while this process waits so long; all where the system is silent."""
    before = _cpu_times()
    time.sleep(seconds)
    passed = [[now - then for now, then in zip(after, earlier)] for earlier, after in zip(before, _cpu_times())]
    shares = [idle / whole if whole > 0 else 1.0 for idle, whole in passed]
    return max(1, min(usable_cores(), round(sum(shares)))) if shares else usable_cores()


def free_memory() -> float:
    """Bytes that this process could still allocate."""
    free = 4e9
    if available := re.search(r"MemAvailable:\s+(\d+) kB", _read(PROC / "meminfo")):
        free = 1024.0 * int(available[1])
    for folder in _cgroups("memory"):
        for limit, usage in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            most, used = _read(folder / limit), _read(folder / usage)
            if most.isdigit() and used.isdigit():
                # The cgroup counts files that were read too; what nobody uses of them is given back.
                files = re.search(r"^(?:total_)?inactive_file (\d+)$", _read(folder / "memory.stat"), re.MULTILINE)
                free = min(free, max(0.0, int(most) - int(used) + (int(files[1]) if files else 0)))
    return min(free, _below_the_limit())


def killed_for_memory() -> int:
    """How often the system has killed a process of this cgroup, or of the machine, for want of memory."""
    for folder in _cgroups("memory"):
        for name in ("memory.events", "memory.oom_control"):
            if match := re.search(r"^oom_kill (\d+)$", _read(folder / name), re.MULTILINE):
                return int(match[1])
    match = re.search(r"^oom_kill (\d+)$", _read(PROC / "vmstat"), re.MULTILINE)
    return int(match[1]) if match else 0


def _affinity() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _below_the_limit() -> float:
    """Bytes that may still be mapped below the process's own limit (ulimit -v)."""
    try:
        import resource

        soft = resource.getrlimit(resource.RLIMIT_AS)[0]
        pages = int(_read(PROC / "self/statm").split()[0])
    except (ImportError, OSError, IndexError, ValueError):
        return float("inf")
    return float("inf") if soft == resource.RLIM_INFINITY else float(max(0, soft - pages * resource.getpagesize()))


def _cpu_times() -> list[tuple[int, int]]:
    """Of every usable core, the time that it was free for others and all time so far; of what is nice, it is free."""
    found = []
    for line in re.findall(r"^cpu(\d+) (.*)$", _read(PROC / "stat"), re.MULTILINE):
        user, nice, system, idle, *rest = map(int, line[1].split())
        if int(line[0]) in _affinity():
            waiting = rest[0] if rest else 0
            found.append((nice + idle + waiting, user + nice + system + idle + sum(rest[:6])))
    return found


def _cgroups(controller: str) -> list[Path]:
    """Folders of the cgroups that this process is in, its own and those above, of both versions; not all need exist."""
    found: dict[Path, None] = {}
    for line in _read(PROC / "self/cgroup").splitlines() or ["0::/"]:
        _, names, path = line.split(":", 2)
        if names and controller not in names.split(","):
            continue
        for mount in (CGROUPS / names, CGROUPS / controller) if names else (CGROUPS, CGROUPS / "unified"):
            inside = mount / path.lstrip("/")
            found |= dict.fromkeys(p for p in (inside, *inside.parents) if p == mount or mount in p.parents)
    # A container sees its own cgroup as the root, whatever name it has outside.
    return [*found, *(mount for mount in (CGROUPS, CGROUPS / controller) if mount not in found)]


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except (OSError, ValueError):
        return ""
