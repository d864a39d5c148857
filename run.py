#!/usr/bin/env python3
"""The project's commands, for a machine that has only Python >= 3.11 with venv and pip.

    python3 run.py demo [options of `hwm demo`]     simulate, train, evaluate, report
    python3 run.py test [options of pytest]         the test suite
    python3 run.py play [options of `hwm play`]     drive a world model in the browser
    python3 run.py test --faults                    every fault of docs/reliability.md, and the table of results

Standard library only.  Makes .venv beside this file, chooses the right build of torch, installs the package with
the pinned versions of constraints/, and remembers that it did, so that the next call starts at once.
Environment: HWM_TORCH=cpu|cuda overrides the choice of the build.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
EXTRAS = "sim,report,wan,lerobot,hub,env,serve,mcap,test"
INPUTS = ("pyproject.toml", "constraints/torch.txt", "constraints/pins.txt", "run.py")
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"


def say(text: str) -> None:
    print(f"run.py: {text}", flush=True)


def pip(*arguments: str) -> None:
    command = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", *arguments]
    if subprocess.run(command, cwd=ROOT).returncode:
        raise SystemExit(f"run.py: installation failed: pip {' '.join(arguments)}")


def stamp() -> str:
    """What the installed environment depends on."""
    digest = hashlib.sha256(f"{sys.version_info[:2]} {ROOT} {os.environ.get('HWM_TORCH', '')}".encode())
    for name in INPUTS:
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def has_gpu() -> bool:
    program = shutil.which("nvidia-smi")
    return bool(program) and subprocess.run([str(program), "-L"], capture_output=True).returncode == 0


def installed_torch_is_cpu() -> bool:
    """Whether pip, as configured on this machine, would pick a CPU build of torch by itself."""
    command = [str(PYTHON), "-m", "pip", "install", "--dry-run", "--no-deps", "--ignore-installed", "--quiet"]
    report = subprocess.run(
        [*command, "--report", "-", "-r", "constraints/torch.txt"], cwd=ROOT, capture_output=True, text=True
    )
    try:
        found = json.loads(report.stdout)["install"][0]
    except (ValueError, LookupError):
        return False
    return found["metadata"]["version"].endswith("+cpu") or "cpu" in found["download_info"]["url"]


def install_torch() -> None:
    choice = os.environ.get("HWM_TORCH") or ("cuda" if has_gpu() else "cpu")
    if choice not in ("cpu", "cuda"):
        raise SystemExit(f"run.py: HWM_TORCH must be cpu or cuda, not {choice!r}")
    arguments = ["install", "--quiet", "-r", "constraints/torch.txt"]
    if choice == "cpu" and sys.platform != "darwin" and not installed_torch_is_cpu():
        # The plain Linux wheel is the CUDA build, gigabytes larger; the CPU build has an index of its own.
        arguments += ["--extra-index-url", CPU_WHEELS, "--retries", "1", "--timeout", "15"]
    say(f"installing torch ({choice} build) ...")
    pip(*arguments)


def ensure_environment() -> None:
    mark = VENV / "hwm-installed"
    wanted = stamp()
    if mark.is_file() and mark.read_text() == wanted:
        return
    started = time.monotonic()
    if not PYTHON.is_file():
        say(f"making a virtual environment in {VENV.name}/ ...")
        venv.create(VENV, with_pip=True, clear=VENV.exists())
    install_torch()
    say(f"installing hwm and what the demo and the tests use ({EXTRAS}) ...")
    pins = ["-c", "constraints/torch.txt", "-c", "constraints/pins.txt"]
    pip("install", "--quiet", *pins, "-e", f".[{EXTRAS}]")
    mark.write_text(wanted)
    say(f"installed in {time.monotonic() - started:.0f} s; the next call starts at once")


def main() -> int:
    if sys.version_info < (3, 11):  # noqa: UP036 - that is what is checked here
        raise SystemExit(f"run.py: needs Python 3.11 or newer, this is {sys.version.split()[0]}")
    # Faults are injected one at a time: most start processes of their own, and some measure time.
    together = ["-n", "0"] if "--faults" in sys.argv else ["-n", "2", "--dist", "worksteal"]
    commands = {"play": ["-m", "hwm", "play"], "demo": ["-m", "hwm", "demo"], "test": ["-m", "pytest", *together]}
    if len(sys.argv) < 2 or sys.argv[1] not in commands:
        print(__doc__)
        return 2
    ensure_environment()
    # The tests are two processes at a time: more threads than one each would wait for one another.
    threads = {"OMP_NUM_THREADS": "1"} if sys.argv[1] == "test" else {}
    command = [str(PYTHON), *commands[sys.argv[1]], *sys.argv[2:]]
    return subprocess.run(command, cwd=ROOT, env={**threads, **os.environ}).returncode


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
