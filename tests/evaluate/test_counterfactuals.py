"""Futures of one start held against each other, in a world in which a frame is as bright as its state says."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scored import Filmed, score

from hwm.contracts import Prediction
from hwm.evaluate.metrics import ENTROPY, MARGIN, METRICS, TOLD_APART, margin, told_apart
from hwm.evaluate.protocols import COPY_FRAME, SAMPLING, mean_of
from hwm.evaluate.scenes import View, siblings
from hwm.evaluate.scores import frame_span
from hwm.evaluate.table import verdict
from hwm.tokenizers.open import PIXELS

STARTS, WAYS, SIDE = 6, 4, 8
AHEAD = (1, 20, 60)


class Follower(torch.nn.Module):
    """Predicts what the first state says, but for `error` levels."""

    predicts, frame_step, reach, temperature, dropout_rate, neutral_state_A = "video", 1, 60, 0.0, 0.0, torch.zeros(2)
    context_grids, future_grids, num_states, draws = 17, 1, 77, False

    def __init__(self, error=0.0):
        super().__init__()
        self.error = torch.nn.Parameter(torch.tensor(error))
        self.config = SimpleNamespace(grid=(SIDE, SIDE))

    def predict(self, context_BFHWC, states_BFA, *, generator, num_samples=1, sampling=None, only=None):
        levels = (bright(states_BFA)[:, 17:] + self.error.detach()).round().to(torch.uint8)
        video = levels[:, [n - 1 for n in only], None, None, None].expand(-1, -1, SIDE, SIDE, 3)
        return Prediction(video_BKFHWC=video[:, None])


def bright(states_BFA):
    return 100 + 10 * states_BFA[..., 0]


@pytest.fixture(scope="module")
def branched():
    """From each start ways that part after its first future frame: a level a frame, the way's own number of times."""
    states = torch.zeros(STARTS * WAYS, 77, 2)
    way = torch.arange(STARTS * WAYS) % WAYS
    states[:, 18:, 0] = (way + 1)[:, None] * torch.linspace(0, 3, 59)
    states[..., 1] = (torch.arange(STARTS * WAYS) // WAYS)[:, None]
    video = bright(states).round().to(torch.uint8)[..., None, None, None].expand(-1, -1, SIDE, SIDE, 3).clone()
    video[:, :, 0, 0] = (states[..., 1:] * 9).to(torch.uint8)  # tells the start
    return Filmed(video, states)


def scored(model, clips, **options):
    return score(
        model, PIXELS, clips, SAMPLING.at(AHEAD), members=(1,), tuning_clips=2, starts=np.arange(STARTS * WAYS) // WAYS, **options
    )


def test_a_picture_is_told_apart_by_the_nearest_truth():
    truths = torch.tensor([10, 20, 40], dtype=torch.uint8)[:, None, None, None].expand(3, 2, 2, 3)
    view = View(truths[:1, None], truths[:1, None], others=truths[1:][None, :, None])
    levels = {14: (1.0, 36 / 16), 15: (0.5, 1.0), 16: (0.0, 16 / 36)}
    for level, (share, ratio) in levels.items():
        found = torch.full((1, 1, 2, 2, 3), level, dtype=torch.uint8)
        assert told_apart(found, view).tolist() == [[share]]
        assert margin(found, view).item() == pytest.approx(10 * np.log10(ratio))
    same = view._replace(others=view.truth[:, None].expand(-1, 2, -1, -1, -1, -1))
    assert told_apart(found, same).isnan().all() and margin(found, same).isnan().all()
    assert told_apart(found, View(view.past, view.truth)) is None and margin(found, View(view.past, view.truth)) is None


def test_siblings_are_the_others_that_begin_alike():
    assert siblings(np.array([5, 7, 5, 5, 9])).tolist() == [[2, 3], [1, 1], [0, 3], [0, 2], [4, 4]]


def test_who_follows_the_states_is_told_apart_and_copying_by_chance(branched):
    scores = scored(Follower(), branched)
    one = mean_of(1)
    assert scores.settings["branches"] == WAYS and scores.settings["num_segments"] == STARTS - 1  # one start tunes
    assert scores.of(one, TOLD_APART).mean == 1 and scores.of(COPY_FRAME, TOLD_APART).mean == 1 / WAYS
    first, later = (scores.select(row=one, metric=TOLD_APART, span=frame_span(n))[0] for n in (1, 2))
    assert np.isnan(first.value.mean) and later.value.mean == 1 and scores.settings["ahead"] == [1, 20, 60]
    assert scores.of(COPY_FRAME, MARGIN).mean < 0 < scores.of(one, MARGIN).mean
    said = " ".join(verdict(scores))
    assert f"Of {WAYS} futures of one start it resembles its own most in 100 [100, 100] % of clips, by chance in 25.0 %" in said
    assert TOLD_APART in {metric.name for metric in METRICS}


def test_who_is_wrong_alike_everywhere_is_not_told_apart(branched):
    """Thirty levels too bright at the end, each but the last way looks like the next one."""
    scores = scored(Follower(30.0), branched)
    assert scores.of(mean_of(1), TOLD_APART).mean == 1 / WAYS


def test_a_model_of_tokens_tells_its_entropy_along_a_rollout(world, branched):
    """Each of 16 ids but one with a fifteenth of the doubt."""
    doubt, video = 0.3, branched.grids[:8].repeat_interleave(4, 2).repeat_interleave(4, 3)
    options, model = {"members": (1,), "tuning_clips": 2, "temperature": 0.0}, world.Mover(doubt)
    model.config = SimpleNamespace(grid=(SIDE, SIDE))
    scores = score(model, world.tokenizer, Filmed(video, branched.states[:8]), SAMPLING.at((1, 40)), **options)
    wanted = -(1 - doubt) * np.log(1 - doubt) - doubt * np.log(doubt / 15)
    found = {s.span: s.value.mean for s in scores.select(metric=ENTROPY)}
    assert found == pytest.approx(dict.fromkeys(("last frame", "all frames", frame_span(1), frame_span(2)), wanted), abs=1e-6)
    assert {s.row for s in scores.select(metric=ENTROPY)} == {mean_of(1)}


def test_without_shared_starts_nothing_is_told_apart(branched):
    scores = score(Follower(), PIXELS, branched, SAMPLING, members=(1,), tuning_clips=2)
    assert "branches" not in scores.settings and not scores.select(metric=TOLD_APART) and scores.settings["ahead"] == [60]
