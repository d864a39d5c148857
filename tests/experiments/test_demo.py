"""The demo, small: every stage runs, the report and the table are there, and a second call goes on from what is done."""

import json
from pathlib import Path

import pytest

from hwm.cli import main
from hwm.experiments.declared import demo


def test_any_recipe_is_scored_as_its_family_is():
    for recipe, protocol, grid in (("direct-tiny", "compression", 64), ("st-demo", "compression", 8), ("wan-tiny", "sampling", 8),
                                   ("masked-hwm-base-tiny", "hwm", 8)):  # fmt: skip
        found = demo.declare(demo.Options(out=Path("out"), recipe=recipe))
        shorter = ("train.steps=500",) if recipe == "direct-tiny" else ()
        changes = (f"model.grid=[{grid}, {grid}]", *shorter)
        assert found.scorings["."].scoring.protocol == protocol and found.runs["run"].changes == changes


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_whole_line_on_the_built_in_robot(tmp_path, capsys):
    out = tmp_path / "demo"
    command = ["demo", str(out), "--minutes", "0.15", "--steps", "4", "--workers", "1"]
    assert main(command) == 0
    assert "\nsteps = 4\n" in (out / "run/config.toml").read_text()  # and not the demo's own
    printed = capsys.readouterr().out
    assert "copy last frame" in printed and "report.html" in printed
    results = json.loads((out / "results.json").read_text())
    assert results["settings"]["references"] == ["original"] and results["settings"]["protocol"] == "compression"
    assert (out / "report.html").stat().st_size > 10_000 and (out / "rollout.mp4").is_file()
    data = [out / "raw/train_v2.0_raw/metadata.json", out / "results.json", out / "run/metrics.jsonl"]
    before = [file.stat().st_mtime_ns for file in data]
    assert main(command) == 0
    assert [file.stat().st_mtime_ns for file in data] == before
