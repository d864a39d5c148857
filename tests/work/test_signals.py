"""A stop is heard wherever it falls: by work that looks at its flag, else by the process itself; none is lost."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAD = """
import os, sys, time
from pathlib import Path
from hwm.work import signals
from hwm.work.signals import StopFlag, Stopped, ending, unfinished
signals.GRACE = 0.5
def ready(): print("ready", flush=True)
def library(): ready(); time.sleep(30)  # one call that looks at nothing
"""


def run(body, *numbers, pause=0.3, clock=""):
    """Exit code, what was said, seconds from the last of the signals on."""
    command = [sys.executable, "-c", HEAD + clock + body]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    assert process.stdout.readline() == "ready\n"
    for number in numbers:
        time.sleep(pause)
        began = time.monotonic()
        process.send_signal(number)
    said = process.communicate(timeout=60)[0]
    return process.returncode, said, time.monotonic() - began


LINE = "hwm x: stopped by {}; run the same command again to go on\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_where_nobody_looks_the_process_ends_at_once(number):
    code, said, seconds = run("with ending('hwm x'): library()", number)
    assert (code, said) == (128 + number, LINE.format(number.name)) and seconds < 2


def test_work_that_does_not_look_in_time_is_ended_and_leaves_nothing(tmp_path):
    body = f"""
half, folder = (Path({str(tmp_path)!r}) / name for name in ("half", "folder"))
with ending("hwm x"), StopFlag(), unfinished(half), unfinished(folder):
    half.write_text("half"); folder.mkdir(); (folder / "file").touch()
    library()
"""
    code, said, seconds = run(body, signal.SIGTERM, clock="time.monotonic = lambda: 0.0\n")
    assert (code, said) == (143, LINE.format("SIGTERM")) and 0.4 < seconds < 4 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wait", ["stop.saving = True; time.sleep(1.5); stop.check()", """
    while not stop: time.sleep(0.01)
    time.sleep(1.5); stop.check()"""])  # fmt: skip
def test_who_has_looked_or_holds_what_is_not_saved_gets_its_time(wait):
    body = f"""
def work():
  with StopFlag() as stop:
    ready(); {wait.strip() if "stop.saving" in wait else wait}
with ending('hwm x'):
    try: work()
    except Stopped as told: print("saved", flush=True); sys.exit(128 + told.signal)
"""
    code, said, seconds = run(body, signal.SIGTERM)
    assert (code, said) == (143, "saved\n") and seconds > 1


def test_a_second_interrupt_ends_at_once():
    body = "with ending('hwm x'), StopFlag() as stop: stop.saving = True; library()"
    code, said, seconds = run(body, signal.SIGINT, signal.SIGINT)
    assert (code, said) == (130, LINE.format("SIGINT")) and seconds < 2


def test_no_stop_is_lost_between_two_pieces_of_work():
    body = """
with ending('hwm x'):
    try:
        with StopFlag() as outer:
            with StopFlag(): ready(); time.sleep(1)  # ends before it looks
            with StopFlag() as second: assert outer.signal; second.check()
    except Stopped as told: sys.exit(128 + told.signal)
"""
    assert run(body, signal.SIGTERM)[0] == 143


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, -15), (signal.SIGINT, 1)])
def test_a_script_does_not_go_on_after_a_stop_that_came_too_late(number, code):
    found, said, _ = run("with StopFlag(): ready(); time.sleep(1)\nprint('went on')", number)
    assert found in (code, -number) and "went on" not in said


def test_an_ignored_signal_stays_ignored():
    body = """
import signal
signal.signal(signal.SIGHUP, signal.SIG_IGN)
with ending('hwm x'), StopFlag() as stop: ready(); time.sleep(1); stop.check()
print("whole")
"""
    assert run(body, signal.SIGHUP)[:2] == (0, "whole\n")


def caught(process):
    """Signals that a process has handlers for, as bits."""
    return int(Path(f"/proc/{process}/status").read_text().partition("SigCgt:")[2].split()[0], 16)


@pytest.mark.fault("F5", "from the first moment on, while modules are loaded: one line, 128 + signal, at once")
@pytest.mark.parametrize("after", [0, 0.2, 1.0])
def test_a_signal_in_the_first_second_is_one_line(after):
    for number in (signal.SIGINT, signal.SIGTERM):
        command = [sys.executable, "-m", "hwm", "recipes", "--costs"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        while not caught(process.pid) >> (signal.SIGTERM - 1) & 1:  # Python itself is loaded
            time.sleep(0.001)
        time.sleep(after)
        process.send_signal(number)
        said = process.communicate(timeout=10)[1]
        assert process.returncode == 128 + number and f"stopped by {number.name}" in said and said.count("\n") == 1, said
