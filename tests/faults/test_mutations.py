"""The tests of the promises test: each fails when what it guards is taken out of the code."""

import shutil
import subprocess
import sys

import pytest
from mutations import MUTATIONS
from tiny_line import ENVIRONMENT, ROOT

B11 = pytest.mark.fault("B11", "the test of each promise fails where the code that keeps it is taken out")


@B11
@pytest.mark.parametrize("mutation", MUTATIONS, ids=[m.broken.replace(" ", "-") for m in MUTATIONS])
def test_what_is_changed_and_the_test_of_it_are_there(mutation):
    assert (ROOT / mutation.file).read_text(encoding="utf-8").count(mutation.old) == 1, "the code has changed: so must the list"
    assert mutation.new != mutation.old
    file, _, name = mutation.test.partition("::")
    assert f"def {name}" in (ROOT / file).read_text(encoding="utf-8")


def run(copy, *tests):
    """Exit code and last lines of pytest in a copy of the project."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", *tests]
    environment = ENVIRONMENT | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=900)
    return done.returncode, done.stdout[-2000:] + done.stderr[-500:]


@pytest.mark.full
@B11
@pytest.mark.timeout(3600)
def test_every_mutation_is_noticed(tmp_path, record_property):
    copy = tmp_path / "copy"
    for name in ("hwm", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    code, told = run(copy, *sorted({m.test for m in MUTATIONS}))
    assert code == 0, f"without any mutation: {told}"
    survived = []
    for mutation in MUTATIONS:
        path = copy / mutation.file
        whole = path.read_text(encoding="utf-8")
        path.write_text(whole.replace(mutation.old, mutation.new), encoding="utf-8")
        code, told = run(copy, mutation.test)
        if code != pytest.ExitCode.TESTS_FAILED:
            survived.append(f"{mutation.broken} ({mutation.file}): {mutation.test} ended with {code}: {told[-300:]}")
        path.write_text(whole, encoding="utf-8")
    record_property("measured", f"{len(MUTATIONS) - len(survived)} of {len(MUTATIONS)} noticed")
    assert not survived, "\n".join(survived)
