"""The experiments on tiny data, from raw video to tables and pages."""

import json

import numpy as np
import pytest
import torch

from hwm.data.writers import RawShardWriter, write_dataset_metadata
from hwm.evaluate_old import perceptual
from hwm.experiments import flow_steps as steps_module
from hwm.experiments.flow_steps import flow_steps, verdict
from hwm.experiments.hwm_tables import hwm_tables
from hwm.experiments.jobs import Training, train_all
from hwm.experiments.plan import Plan
from hwm.experiments.published import TABLES


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    """Intervals of distances are tested elsewhere; here they would take most of the time."""
    monkeypatch.setattr(perceptual, "NUM_RESAMPLES", 3)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """Recordings of a square that moves with the first state, and two training steps of every model."""
    root, rng = tmp_path_factory.mktemp("experiments"), np.random.default_rng(0)
    for name in ("train", "val"):
        folder = root / "data" / f"{name}_v2.0_raw"
        with RawShardWriter(folder, shard=0, height=64, width=64) as writer:
            for segment in range(4):
                states = rng.normal(size=(60, 25)).astype(np.float32).cumsum(0) * 0.1
                frames = np.full((60, 64, 64, 3), 90, np.uint8)
                for frame, state in zip(frames, states):
                    x = int(np.clip(24 + 12 * state[0], 0, 48))
                    frame[16:32, x : x + 16] = 200
                writer.append(frames, states, segment)
        write_dataset_metadata(folder, num_shards=1, num_images=240)
    return Plan(out=root / "out", data=root / "data", steps=2, clips=4, workers=2)


def test_tables_hold_ours_and_the_published_figures_apart(plan):
    page = hwm_tables(plan, ["full"])
    record = json.loads((plan.out / "tables.json").read_text())
    assert [(row["family"], row["variant"]) for row in record["rows"]] == [("masked", "full"), ("flow", "full")]
    for row in record["rows"]:
        assert row["parameters"] > 1e6 and row["samples_per_second"] > 0 and row["psnr"]["mean"] > 5
        difference = row["psnr"]["mean"] - row["psnr_copy"]["mean"]
        assert row["over_copy"]["mean"] == pytest.approx(difference, abs=1e-6)
    text = (plan.out / "tables.md").read_text()
    assert text.index("Ours: tiny twins") < text.index("Published: 1X data")
    assert f"{TABLES['masked']['full'].fid:.2f}" in text and f"{TABLES['flow']['full'].psnr_db:.2f}" in text
    html = page.read_text()
    assert html.count("data:image/png") == 2 and "<script" not in html and "src=\"http" not in html
    assert (plan.out / "scores" / "flow-hwm-full-tiny" / "report.html").is_file()

    before = (plan.out / "scores" / "flow-hwm-full-tiny" / "results.json").stat().st_mtime_ns
    hwm_tables(plan, ["full"])
    assert (plan.out / "scores" / "flow-hwm-full-tiny" / "results.json").stat().st_mtime_ns == before


def test_steps_are_scored_for_both_trainings(plan, monkeypatch):
    monkeypatch.setattr(steps_module, "STEPS", (2, 4))
    monkeypatch.setattr(steps_module, "FEW", 2)
    monkeypatch.setattr(steps_module, "MANY", 4)
    flow_steps(plan, "full")
    record = json.loads((plan.out / "steps.json").read_text())
    assert set(record["curves"]) == {"plain", "shortcut"}
    assert [point["steps"] for point in record["curves"]["shortcut"]] == [2, 4]
    assert (plan.out / "runs" / "flow-hwm-full-tiny-shortcut" / "config.toml").read_text().count("shortcut = 0.25") == 1
    assert "copy last frame" in (plan.out / "steps.md").read_text()


def curve(**psnr):
    return [{"steps": n, "psnr": {"mean": v}, "tfd": {"mean": 0.1}} for n, v in ((4, psnr["few"]), (50, psnr["many"]))]


def test_the_goal_of_few_steps_is_judged_by_its_size():
    said = verdict({"curves": {"plain": curve(few=20.0, many=20.3), "shortcut": curve(few=20.2, many=20.3)}})
    assert "misses" in said[0] and "-0.30 dB" in said[0]
    assert "reaches" in said[1] and "-0.10 dB" in said[1]


def test_a_failed_training_names_its_run_and_reason(tmp_path):
    training = Training(tmp_path / "run", ("masked-hwm-full-tiny", "--data", str(tmp_path / "nowhere")), 2)
    with pytest.raises(ValueError, match="run: training failed: .*nowhere"):
        train_all([training], parallel=1, every=0.1)
