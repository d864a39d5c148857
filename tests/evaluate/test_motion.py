"""Scores of a twin on recordings of which every number is known."""

import numpy as np
import pytest
import torch
from motion_data import recordings

from hwm.data.motion import Motion
from hwm.data.onex import open_dataset
from hwm.evaluate.motion import COMMANDED, DRIFTS, ERROR, SCALE, STAYS, TWIN, _doubts, measured, motion_page, motion_text
from hwm.evaluate.protocols import MOTION, Scoring
from hwm.evaluate.scores import Means, Scores
from hwm.model_config import TwinConfig
from hwm.models.twin import Twin
from hwm.work.parts import read_results

SPEED, STD = 0.5, 4.0
"""Of both joints, rad a frame and rad."""


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
    """Of a robot that moves evenly and is always where it was asked to be, by a twin that thinks it stays."""
    states = [np.tile(SPEED * np.arange(64, dtype=np.float32)[:, None] + k, (1, 2)) for k in range(6)]
    commands = [rows + SPEED for rows in states]
    folder = recordings(tmp_path_factory.mktemp("even") / "raw", states=states, commands=commands)
    twin = Twin(TwinConfig(members=2, width=4, num_layers=1, context_grids=2, state_dim=2))
    twin.set_state_statistics(torch.tensor([[0.0, 0.0], [1 / STD, 1 / STD]]))
    return measured(twin, Motion(open_dataset(folder)), Scoring(clips=0, batch_size=4))


def test_errors_are_those_of_an_even_motion(scores):
    for span, frames in (("0.1 s", 3), ("0.5 s", 15), ("2 s", 60)):
        for row, wanted in ((STAYS, frames * SPEED / STD), (TWIN, frames * SPEED / STD), (COMMANDED, 0), (DRIFTS, 0)):
            assert scores.of(row, ERROR, span=span).mean == pytest.approx(wanted, abs=1e-4), (row, span)
        assert scores.of(STAYS, "angle error", span=span).mean == pytest.approx(frames * SPEED, abs=1e-4)
    assert scores.settings["num_clips"] == scores.settings["num_segments"] == 6
    assert scores.difference(TWIN, COMMANDED, ERROR).value.mean == pytest.approx(60 * SPEED / STD, abs=1e-4)


def test_tables_and_page_show_every_row(scores):
    again = Scores.from_json(scores.to_json())
    page = motion_page(again, MOTION, scores.to_json())
    for row in (TWIN, COMMANDED, STAYS, DRIFTS):
        assert row in motion_text(again) and row in page
    assert "2 s ahead the twin errs by 7.500" in motion_text(again)


def test_a_spread_that_is_half_the_error_is_told_so():
    errors = np.random.default_rng(0).normal(size=(400, 3)) * np.linspace(0.5, 3, 400)[:, None]
    spreads = np.tile(np.linspace(0.25, 1.5, 400)[:, None], (1, 3))
    found = _doubts(errors, spreads, Means(np.arange(400) // 20, 0))
    assert found[SCALE].mean == pytest.approx(2, rel=0.05) and found[SCALE].low < 2 < found[SCALE].high
    assert found["held by learned 95%"].mean == pytest.approx(0.95, abs=0.02)
    assert found["rank correlation, clips"].mean > 0.6


def test_from_recordings_to_a_report(tmp_path):
    from hwm.apply import evaluate_run
    from hwm.config import override
    from hwm.recipes import recipe
    from hwm.runs import load_run, train, world_model

    random = np.random.default_rng(0)
    states = [random.normal(size=(70, 2)).astype(np.float32) for _ in range(2)]
    data, run = recordings(tmp_path / "raw", states=states, commands=states), tmp_path / "run"
    small = ["train.steps=2", "train.batch_size=2", "train.validate_every=2", "model.width=4", "model.members=2"]
    train(override(recipe("twin"), [*small, f"data.train={data}", f"data.val={data}", "train.device=cpu"]), run)
    scores = evaluate_run(run, Scoring(clips=0, device="cpu"), data=data, out=tmp_path / "scores", command="hwm evaluate")
    assert scores.settings["num_clips"] == 2 and scores.settings["no_intervals"]
    assert Scores.from_json(read_results(tmp_path / "scores" / "results.json")).of(STAYS, ERROR).mean > 0
    assert "Joint-state twin" in (tmp_path / "scores" / "report.html").read_text()
    with pytest.raises(ValueError, match=r"--members, --video: of world models"):
        evaluate_run(run, Scoring(members=(2,)), data=data, video=data, out=tmp_path / "others")
    with pytest.raises(ValueError, match='data.clip must be "motion" for a twin'):
        train(override(recipe("twin"), ["data.clip=sampling", f"data.train={data}"]), tmp_path / "other")
    with pytest.raises(ValueError, match="holds a twin, not a world model"):
        world_model(load_run(run))
