"""Hundreds and thousands of damaged files of every kind: each is opened, or refused in one line that names it."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from tiny_line import ENVIRONMENT

SCRIPT = Path(__file__).parent / "fuzzing.py"
B10 = pytest.mark.fault("B10", "opened, or refused by one line that names a file or its folder, within 10 s and 1 GB")


def fuzz(place, seed, count, *options):
    """How the inputs 0..count-1 of a seed ended, and those that did not end well, also those that ended the process."""
    counts, failures, first = Counter(), [], 0
    while first < count:
        stop = min(count, first + 1000)
        command = [sys.executable, str(SCRIPT), str(place), str(seed), str(first), str(stop), *options]
        try:
            process = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=900)
            code = process.returncode
            lines = [json.loads(line) for line in process.stdout.splitlines()]
        except subprocess.TimeoutExpired as late:
            code, lines = "no answer", [json.loads(line) for line in (late.stdout or b"").splitlines()]
        failures += [line for line in lines if "counts" not in line]
        if code == 0:
            counts.update(lines[-1]["counts"])
            first = stop
        else:
            assert code == "no answer" or code < 0, process.stderr[-3000:]
            reached = int((place / "number").read_text())
            failures.append({"number": reached, "fault": f"the process ended: {code}"})
            shutil.rmtree(place)  # damaged as that input left it
            first = reached + 1
    return counts, failures


def told(seed, failures):
    """Every failure with what repeats it."""
    lines = [f"{SCRIPT.name} PLACE {seed} {f['number']} {f['number'] + 1}: {json.dumps(f, indent=1)}" for f in failures[:20]]
    return "\n".join([f"{len(failures)} inputs did not end well", *lines])


@B10
def test_a_hundred_damaged_files(tmp_path):
    counts, failures = fuzz(tmp_path / "place", 0, 100)
    assert not failures, told(0, failures)
    assert counts["opened"] + counts["refused"] == 100 and counts["refused"] > 25


@pytest.mark.full
@B10
@pytest.mark.timeout(3600)
def test_five_thousand_damaged_files(tmp_path, record_property):
    seed = int(os.environ.get("HWM_FUZZ_SEED", "1"))
    counts, failures = fuzz(tmp_path / "place", seed, 6000, "--long")
    record_property("measured", f"6000 inputs: {counts['refused']} refused, {counts['opened']} opened, {len(failures)} otherwise")
    assert not failures, told(seed, failures)
