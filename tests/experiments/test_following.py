"""The table of goals and the minute of rollout: what is asked of which data, how goals are read, and both pages."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from refusing import refused

from hwm.cli import main
from hwm.clock import SAMPLING_CONTEXT, SAMPLING_FRAMES
from hwm.data.writers import RawShardWriter, write_dataset_metadata
from hwm.evaluate.intervals import Interval
from hwm.evaluate.metrics import MASK_IOU, TOLD_APART
from hwm.evaluate.protocols import COPY_FRAME, EARLIER, ONE_SAMPLE, STILL
from hwm.evaluate.scores import ORIGINAL, Cost, Difference, Row, Score, Scores, frame_span
from hwm.experiments.declared import goals, rollout
from hwm.experiments.declared.goals import Goal, best, frames_a_second, over_copying
from hwm.experiments.experiment import config_of
from hwm.experiments.following import WORLD, Following, common_length
from hwm.publish.trained import located

AHEAD = (9, 17, 60, 300, 1500, 1560, 1800)


def scores(ahead=AHEAD, **found):
    """Values by row and metric, one a scored frame; what a row has over copying by its name alone."""
    settings = {"ahead": list(ahead), "reference": ORIGINAL, "span": "last frame", "control": ONE_SAMPLE, "branches": 8,
                "controls": {"permuted": "wrong"}, "image_size": [64, 64], "num_clips": 9, "num_segments": 9}  # fmt: skip
    table = Scores("sampling", ONE_SAMPLE, settings, [Row(ONE_SAMPLE, "model"), Row(STILL, "model"), Row(COPY_FRAME, "baseline")],
                   [], [])  # fmt: skip
    for name, values in found.items():
        for place, value in enumerate(values, 1):
            row, _, metric = name.partition("/")
            at = {"reference": ORIGINAL, "span": frame_span(place), "value": Interval(value, value - 1, value + 1)}
            if metric:
                table.scores.append(Score(row, metric, **at))
            else:
                first, other = (ONE_SAMPLE, row) if row == "wrong" else (row, COPY_FRAME)
                table.differences.append(Difference(first, other, "psnr", share_higher=1.0, **at))
    return table


def test_a_goal_is_reached_by_the_mean_whichever_way_is_better():
    reading = (ONE_SAMPLE, Interval(0.5, 0.4, 0.6))
    assert Goal("a", reading, 0.5, unit="%", digits=0, scale=100).line == ["a", ONE_SAMPLE, "50 [40, 60] %", ">= 50 %", "reached"]
    assert Goal("a", reading, 0.51).line[3:] == [">= 0.51", "missed"]
    assert Goal("a", reading, most=0.5).line[3:] == ["<= 0.50", "reached"] and Goal("a", reading, most=0.4).line[4] == "missed"
    assert Goal("a", None, 0.5).line == ["a", "–", "not measured", ">= 0.50", "–"]
    assert Goal("a", reading, most=math.nan).line == ["a", "–", "not measured", "–", "–"]


def test_the_best_reading_is_that_of_the_number_itself():
    masks = {ONE_SAMPLE: [0.9, 0.5], STILL: [0.8, 0.7], COPY_FRAME: [1.0, 1.0]}
    found = scores(**{ONE_SAMPLE: [1, 2, 3], STILL: [2, 1, 3], **{f"{row}/{MASK_IOU}": values for row, values in masks.items()}})
    readings = [over_copying(found, n) for n in (9, 17, 60)]
    assert [(row, value.mean) for row, value in readings] == [(STILL, 2), (ONE_SAMPLE, 2), (ONE_SAMPLE, 3)]
    assert over_copying(found, 300) is None and over_copying(found, 18) is None
    assert best(found, MASK_IOU, [9])[0] == ONE_SAMPLE and best(found, MASK_IOU, [17])[0] == STILL
    row, mean = best(found, MASK_IOU, [9, 17])
    assert (row, mean.mean, mean.low) == (STILL, 0.75, None) and best(found, "ssim", [9]) is None
    found.cost = Cost(1, 1, "cpu", {"seconds, 1 sample": 60.0}, None, "", "")
    assert frames_a_second(found)[1].mean == 30


def test_the_table_asks_what_the_data_tell():
    """Simulated frames have goals of their own; without masks a real robot's are asked for."""
    keys = {"near": "near", "what if": "what if", "long": "long"}
    near = {ONE_SAMPLE: [9, 3.6, 3.9], "wrong": [0, 5, 0]}
    tfd = {f"{ONE_SAMPLE}/TFD of pictures": [9, 9, 9, 9, 9, 1, 3], f"{EARLIER}/TFD of pictures": [9, 9, 9, 9, 9, 2, 3]}
    long = scores(**tfd, **{f"{ONE_SAMPLE}/{MASK_IOU}": [0, 0, 0, 0.7, 0, 0.5, 0.6]})
    shares = scores((17, 60), **{f"{ONE_SAMPLE}/{TOLD_APART}": [0.9, 1]})
    held = {"near": scores(**near, **{f"{ONE_SAMPLE}/{MASK_IOU}": [0.9, 0, 0.8]}), "long": long, "what if": shares}
    experiment = SimpleNamespace(scorings=keys)

    class Found(dict):
        def __init__(self, scorings):
            super().__init__(held)
            self.experiment = SimpleNamespace(scorings=scorings)

    lines = {line[0]: line[2:] for line in goals.filled(Found(experiment.scorings), "run", keys).rows}
    assert lines["over copying, 17 frames"] == ["3.60 [2.60, 4.60] dB", ">= 3.50 dB", "reached"]
    assert [line[2] for line in lines.values()] == [
        "reached", "missed", "reached", "reached", "reached", "reached", "missed", "reached", "missed", "reached", "–"
    ]  # fmt: skip
    assert next(line for name, line in lines.items() if name.startswith("TFD"))[:2] == ["2.000", "<= 2.500"]
    held["near"] = scores(**near)
    lines = {line[0]: line[2:] for line in goals.filled(Found({}), "run", keys).rows}
    assert lines["over copying, 60 frames"][1:] == [">= 9.00 dB", "missed"]
    assert not any("mask" in name or "own" in name for name in lines)


def test_new_rooms_are_as_long_as_is_asked_and_runs_are_taken_as_they_are(tmp_path):
    plan = Following(out=tmp_path, recipes=("direct-tiny",), seconds=20, cohort=3, starts=0)
    told = plan.worlds[WORLD]
    assert plan.longest == 600 and plan.ahead[-2:] == (540, 600) and plan.world == WORLD and told["masks"]
    short = Following(out=tmp_path, seconds=0.5).worlds[WORLD]["segment_seconds"]
    assert round(told["segment_seconds"][0] * 30) == SAMPLING_CONTEXT + 601 and round(short[0] * 30) == SAMPLING_FRAMES + 1
    assert "what-if" not in str(goals.declare(plan).scorings)
    assert list(rollout.declare(plan).scorings) == ["rollout/direct-tiny"]
    assert rollout.declare(plan).scorings["rollout/direct-tiny"] == goals.declare(plan).scorings["rollout/direct-tiny"]
    refused("give trained runs as --runs", Following(out=tmp_path).wanted)


def test_rollouts_of_recordings_go_on_as_long_as_enough_of_them_do(tmp_path):
    """One long recording among short ones gives no rollout of its length: it alone would be scored, with none to tune on."""
    for name in ("train", "val"):
        root, lengths = tmp_path / f"{name}_v2.0_raw", (40, 90, 60, 50)
        with RawShardWriter(root, shard=0, height=16, width=16) as writer:
            for number, length in enumerate(lengths):
                writer.append(np.zeros((length, 16, 16, 3), np.uint8), np.zeros((length, 25), np.float32), number)
        write_dataset_metadata(root, num_shards=1, num_images=sum(lengths))
    assert [common_length(tmp_path, recordings) for recordings in (1, 2, 3, 4, 9)] == [90, 60, 50, 40, 40]


@pytest.mark.full
@pytest.mark.timeout(300)
def test_goals_and_rollout_of_recordings_are_pages(recordings, tmp_path, capsys):
    options = ["--out", str(tmp_path), "--data", str(recordings), "--recipes", "direct-tiny", "--steps", "1", "--clips", "4"]
    options += ["--cohort", "2", "--workers", "1", "--set", "train.batch_size=2", "train.validate_clips=2"]
    options += ["train.sample_every=0", "model.width=32", "model.num_layers=1", "model.num_heads=2"]
    assert main(["experiment", "goals", *options]) == 0
    record = json.loads((tmp_path / "goals.json").read_text())
    assert set(record["scorings"]) == {"goals/direct-tiny/near", "rollout/direct-tiny"}
    assert record["scorings"]["rollout/direct-tiny"]["settings"]["ahead"] == [1, 3, 9, 17, 30, 60]
    text = (tmp_path / "goals.md").read_text()
    assert "| over copying, 17 frames | one sample | " in text and ">= 7.50 dB" in text
    assert "| predicted frames a second, 64 px |" in text
    assert main(["experiment", "rollout", *options]) == 0
    text = (tmp_path / "rollout.md").read_text()
    assert "| direct-tiny |" in text and "Colour drift, levels:" in text and "| copy last frame |" in text
    assert "entropy" not in text  # it has no tokens
    assert "direct-tiny: its mean stays ahead of copying the last frame by PSNR for " in text
    assert (tmp_path / "rollout.html").read_text().count("data:image/png") == 1


@pytest.mark.parametrize("own, second", [((30, 20, 10), 1.0), ((30, 20, 9), 0.3), ((9, 20, 10), 0.0), ((30, 9, 10), 1 / 30)])
def test_a_rollout_is_ahead_until_it_first_is_not(own, second):
    found = scores((1, 9, 30), **{f"{ONE_SAMPLE}/psnr": own, f"{COPY_FRAME}/psnr": (9.5, 9.5, 9.5)})
    assert rollout.until(found, "psnr") == second and rollout.until(found, MASK_IOU) is None


def test_what_is_shipped_is_a_run_too(tmp_path):
    wanted = Following(out=tmp_path, runs=("hwm-sim", "other=hwm-g1")).wanted()
    assert wanted == {"hwm-sim": located("hwm-sim"), "other": located("hwm-g1")}
    assert [config_of(run).model.family for run in wanted.values()] == ["direct", "direct"]
    refused("holds a reader, not a world model", Following(out=tmp_path, runs=("robot-mask",)).wanted)
    refused("or a name that is shipped", Following(out=tmp_path, runs=(str(tmp_path),)).wanted)
