"""The page on one's own robot, walked by its own commands at tiny size: an arm of seven joints at 15 frames a second."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from arm_logs import HZ, JOINTS, write_arm
from refusing import refused

import hwm
from hwm.cli import main
from hwm.data.onex import open_dataset
from hwm.data.video import probe
from hwm.runs import load_run

PAGE = (Path(__file__).parent.parent / "docs" / "your-own-robot.md").read_text()
SMALL = ["train.steps=2", "train.batch_size=2", "train.validate_every=2", "train.validate_clips=2", "train.sample_every=0",
         "train.threads=1", "train.warmup_steps=0"]  # fmt: skip
TINY = {
    "train direct-tiny": ["--set", *SMALL, "model.num_layers=1", "model.width=32", "model.num_heads=2", "model.map_hidden=32"],
    "train fsq-8x8x8": ["--set", *SMALL],
    "train st-demo": ["--set", *SMALL, "model.num_layers=1", "model.width=24"],
    "evaluate": ["--clips", "2"],
    "tokenize": ["--workers", "1"],
    "predict": ["--frames", "2"],
}
"""What is added to the page's commands so that they take seconds."""


def commands(text):
    return [line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """The folder in which every command of the page was carried out."""
    place = tmp_path_factory.mktemp("own")
    write_arm(place / "logs", recordings=5, num_frames=80, side=64, rows_hz=30)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for line in commands(PAGE):
            words = shlex.split(line)[1:]
            if words[:2] == ["data", "convert"]:
                Path("logs/robot.toml").write_text(re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)[1])
            added = next((more for start, more in TINY.items() if " ".join(words).startswith(start)), [])
            assert main([*words, *added[1:]] if "--set" in words else [*words, *added]) == 0, line
    return place


def test_the_page_goes_from_recordings_to_scores():
    verbs = [line.split()[1] for line in commands(PAGE)]
    used = ["train", "evaluate", "predict"]
    assert verbs == [*["data"] * 4, *used, "train", "export", "tokenize", "tokenize", *used]


def test_the_robot_goes_along(walked):
    raw, tokens = (open_dataset(walked / "data" / name) for name in ("val_raw", "train_tokens"))
    run = load_run(walked / "runs/st")
    assert (raw.num_frames, len(raw.shards), raw.hz, tokens.hz) == (80, 1, HZ, HZ)
    assert raw.robot.names == tokens.robot.names == JOINTS and raw.robot.groups == {"right_arm": (0, 1, 2, 3, 4, 5, 6)}
    assert run.config.model.state_dim == 7 and run.identity["robot"]["name"] == "my-arm"


def test_it_moves_as_fast_as_the_robot(walked):
    for film in ("direct.mp4", "st.mp4"):
        assert probe(walked / film)[2] == pytest.approx(HZ)
    for place in ("runs/direct", "runs/st"):
        assert json.loads((walked / place / "results.json").read_text())["settings"]["hz"] == HZ
        assert (walked / place / "report.html").is_file()


def test_arrays_in_frames_out(walked):
    model = hwm.load(walked / "runs/direct", device="cpu")
    assert (model.robot, model.states, model.size) == ("my-arm", JOINTS, (64, 64))
    shard = open_dataset(walked / "data/val_raw").shards[0]
    frames, states = np.stack(list(shard.iter_pictures()))[:30], np.array(shard.states)
    video = model.predict(frames, states, num_frames=6).frames
    assert video.shape == (1, 6, 64, 64, 3) and video.dtype == np.uint8
    last = model.context_frames
    again = model.predict(torch.from_numpy(frames[-last:]), torch.from_numpy(states[30 - last :]), num_frames=6, samples=2)
    assert again.frames.shape == (2, 6, 64, 64, 3) and np.array_equal(again.frames[:1], video)
    assert not np.array_equal(model.predict(frames, np.concatenate([states[:30], states[:6]]), num_frames=6).frames, video)
    refused(r"shape \(rows, 7\), the states of my-arm, joint_1 to joint_7, got float32 \(80, 6\)",
            model.predict, frames, states[:, :6], num_frames=6)  # fmt: skip
