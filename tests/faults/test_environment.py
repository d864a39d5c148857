"""Places that are not made for us: no network, nothing writable but the output, odd homes, locales and paths."""

import ctypes
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_line import COMMAND, ENVIRONMENT, ROOT, raw_data, token_data, tokenizer, train_command

DEMO = ["demo", "--minutes", "0.5", "--steps", "4", "--workers", "2"]


def succeed(command: list[str], environment: dict[str, str] | None = None, **options) -> str:
    options = {"env": environment or ENVIRONMENT, "cwd": ROOT, "timeout": 600} | options
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", **options)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


# --- F17 -------------------------------------------------------------------------------------------------------------

NOBODY = "0 attempts to connect"


@pytest.fixture
def attempts(tmp_path):
    """Where the processes of a test note what they tried; empty at first."""
    path = tmp_path / "connections"
    path.touch()
    return path


def watched(path: Path) -> dict[str, str]:
    return ENVIRONMENT | {"HWM_TEST_CONNECTIONS": str(path), "PYTHONPATH": os.environ["PYTHONPATH"]}


@pytest.mark.fault("F17", NOBODY)
def test_an_attempt_would_be_seen(attempts):
    with pytest.raises(OSError, match="forbidden in tests"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    own = Path(os.environ["HWM_TEST_CONNECTIONS"])
    own.write_text("".join(line for line in own.read_text().splitlines(keepends=True) if "192.0.2.1" not in line))
    calls = ["socket.create_connection(('192.0.2.1', 80))", "socket.getaddrinfo('example.org', 80)",
             "socket.socket(type=socket.SOCK_DGRAM).sendto(b'', ('192.0.2.1', 53))"]  # fmt: skip
    for number, call in enumerate(calls, 1):
        code = f"import socket\ntry: {call}\nexcept Exception: pass"
        subprocess.run([sys.executable, "-c", code], env=watched(attempts), check=True)
        assert len(attempts.read_text().splitlines()) == number


@pytest.mark.fault("F17", NOBODY)
def test_tokenizing_connects_to_nobody(tmp_path, attempts):
    raw_data(tmp_path / "raw", shards=1)
    tokenizer(tmp_path / "coder")
    places = [str(tmp_path / "raw"), str(tmp_path / "tokens"), "--tokenizer", str(tmp_path / "coder")]
    succeed([*COMMAND, "tokenize", *places], watched(attempts))
    assert attempts.read_text() == ""


@pytest.mark.full
@pytest.mark.fault("F17", NOBODY)
@pytest.mark.timeout(900)
def test_the_demo_connects_to_nobody(tmp_path, attempts, record_property):
    pytest.importorskip("mujoco")
    succeed([*COMMAND, *DEMO, str(tmp_path / "demo")], watched(attempts))
    assert (tmp_path / "demo/report.html").is_file() and attempts.read_text() == ""
    record_property("measured", "demo with 4 steps, all its processes: 0; whole suite runs so, too")


# --- F18 -------------------------------------------------------------------------------------------------------------

ANYWHERE = "the demo ends well in the folder it is given"
DROP_FROM_BOUNDING_SET, MAY_WRITE_ANYWHERE, MAY_READ_ANYWHERE = 24, 1, 2


def like_everybody() -> None:
    """Give up root's right to write what is read-only (nothing happens to others)."""
    if os.geteuid() == 0:
        library = ctypes.CDLL(None)
        for right in (MAY_WRITE_ANYWHERE, MAY_READ_ANYWHERE):
            library.prctl(DROP_FROM_BOUNDING_SET, right, 0, 0, 0)


def read_only(folder: Path) -> Path:
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    return folder


def writable_again(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir():
            path.chmod(0o755)


def odd_place(tmp_path: Path) -> Path:
    out = tmp_path / "mit Leerzeichen, größer — 世界"
    out.mkdir()
    return out


def without(environment: dict[str, str], *names: str) -> dict[str, str]:
    return {key: value for key, value in environment.items() if key not in (*names, "PYTHONDONTWRITEBYTECODE")}


@pytest.fixture
def bare(tmp_path):
    """Environment and options of a process whose home and package are read-only, in folders made for it."""
    home, package = tmp_path / "home", tmp_path / "package"
    home.mkdir()
    shutil.copytree(ROOT / "hwm", package / "hwm", ignore=shutil.ignore_patterns("__pycache__"))
    read_only(home)
    read_only(package)
    environment = without(ENVIRONMENT, "XDG_CACHE_HOME") | {"HOME": str(home), "PYTHONPATH": str(package)}
    yield environment, {"preexec_fn": like_everybody, "cwd": package}
    writable_again(home)
    writable_again(package)


def test_read_only_is_read_only(bare):
    environment, options = bare
    for variable in ("HOME", "PYTHONPATH"):
        code = f"import os; open(os.path.join(os.environ['{variable}'], 'new'), 'w')"
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, **options)
        assert "PermissionError" in done.stderr
    told = succeed([sys.executable, "-c", "import hwm; print(hwm.__file__)"], environment, **options)
    assert told.startswith(environment["PYTHONPATH"])


@pytest.mark.fault("F18", ANYWHERE)
@pytest.mark.parametrize("kind", ["read-only", pytest.param("no home, C locale", marks=pytest.mark.full)])
def test_training_in_odd_places(tmp_path, bare, kind, record_property):
    out = odd_place(tmp_path)
    environment, options = bare
    if kind != "read-only":
        environment, options = without(ENVIRONMENT, "HOME", "XDG_CACHE_HOME", "LANG") | {"LC_ALL": "C"}, {}
    command = train_command(out, token_data(out / "data"), "train.steps=2", "train.validate_every=2")
    record_property("measured", f"training, {kind}: passed")
    told = succeed(command, environment, **options)
    assert (out / "run/checkpoints/step-2/manifest.json").is_file(), told


@pytest.mark.full
@pytest.mark.fault("F18", ANYWHERE)
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["read-only home and package", "no HOME, C locale"])
def test_the_demo_in_odd_places(tmp_path, bare, kind, record_property):
    pytest.importorskip("mujoco")
    out = odd_place(tmp_path)
    environment, options = bare
    if kind == "no HOME, C locale":
        environment, options = without(ENVIRONMENT, "HOME", "XDG_CACHE_HOME", "LANG") | {"LC_ALL": "C"}, {}
    told = succeed([*COMMAND, *DEMO, str(out / "demo")], environment, **options)
    assert (out / "demo/report.html").is_file() and "copy last frame" in told
    record_property("measured", f"{kind}, path with spaces and 世界: passed")
