"""Scores of ways of doubting: on a model whose error is known, learned on some clips and held against others."""

import numpy as np
import pytest
import torch
from refusing import refused

from hwm.contracts import Prediction, Sampling
from hwm.evaluate.calibration import spearman
from hwm.evaluate.doubting import CLIPS_RANK, ERROR, PICTURE, PIXELS_RANK, covered, width
from hwm.evaluate.protocols import HWM, SAMPLING, Scoring
from hwm.evaluate.scores import ALL
from hwm.evaluate.scoring import evaluate
from hwm.evaluate.table import doubts_table
from hwm.predict.doubt import LEVELS, Scale


class Uneven(torch.nn.Module):
    """Right but for noise, which grows along the rows of a grid."""

    def __init__(self, mover):
        super().__init__()
        self.mover = mover
        for name in ("predicts", "context_grids", "future_grids", "num_states", "frame_step", "reach", "temperature"):
            setattr(self, name, getattr(mover, name))
        self.dropout_rate, self.neutral_state_A = 0.0, mover.neutral_state_A

    def predict(self, context_BTCHW, states_BFA, *, generator, unrest=False, **options):
        found = self.mover.predict(context_BTCHW, states_BFA, generator=generator, **options).latents_BKTCHW
        size = torch.linspace(0.5, 4, found.shape[-2])[:, None]
        options["sampling"] = Sampling(temperature=0.0)
        exact = self.mover.predict(context_BTCHW, states_BFA, generator=generator, **options)
        return Prediction(latents_BKTCHW=exact.latents_BKTCHW + size * (found - exact.latents_BKTCHW))


@pytest.fixture(scope="module")
def scored(world):
    scoring = Scoring(clips=0, batch_size=8, doubt=4, tuning_clips=40)
    clips, others = (world.Clips(num=n, seed=seed, num_grids=3, latents=True) for n, seed in ((28, 1), (40, 2)))
    options = {"segments": np.arange(28) // 4, "tuning_clips": others, "cost_repeats": 0, "num_examples": 2}
    return evaluate(Uneven(world.LatentMover(0.03)), world.latent_tokenizer, clips, HWM, scoring, **options)


def test_spread_knows_where_a_noisy_model_errs_and_a_constant_does_not(scored):
    rank = {row: scored.of(row, PIXELS_RANK, span=ALL) for row in scored.names("doubt")}
    assert rank["ensemble spread"].low > 0.3 and rank["ensemble spread"].mean > rank["predicted change"].mean
    assert rank["none"].mean == 0 and scored.of("none", CLIPS_RANK, span=ALL).mean == 0
    assert {"MC dropout", "token entropy", "flow unrest"}.isdisjoint(rank)


def test_intervals_learned_on_other_clips_hold_their_share(scored):
    for row in scored.names("doubt"):
        held = [scored.of(row, covered(level), span=ALL).mean for level in LEVELS]
        assert all(share > level - 0.04 for share, level in zip(held, LEVELS)), row
        if not row.startswith("round trip"):  # knows these errors but for whole levels, many of which are equal
            assert held == pytest.approx(LEVELS, abs=0.04), row
        widths = [scored.of(row, width(level), span=ALL).mean for level in LEVELS]
        assert widths == sorted(widths) and widths[0] > 0
    spread, none = (scored.of(row, width(0.95), span=ALL).mean for row in ("ensemble spread", "none"))
    assert spread < none, "who knows where it errs needs less"


def test_the_scales_are_kept_and_the_table_and_the_pictures_show_them(scored):
    scales = {name: Scale.from_json(table) for name, table in scored.to_json()["facts"]["doubt"].items()}
    assert set(scales) == set(scored.names("doubt")) and len(scales["ensemble spread"].rms) > 5
    table = doubts_table(scored)
    assert table is not None and len(table.rows) == len(scales) and len(table.head) == 1 + 2 + 2 * len(LEVELS)
    for example in scored.examples:
        names = {name for name in example.pictures if name.startswith(PICTURE)}
        assert names == {PICTURE + name for name in scales} and example.pictures[ERROR].shape == (8, 32, 32, 3)
        assert len(np.unique(example.pictures[PICTURE + "none"])) <= 3 < len(np.unique(example.pictures[ERROR]))


def test_without_data_of_their_own_scales_are_learned_on_segments_that_are_not_scored(world):
    scoring = Scoring(clips=0, batch_size=8, doubt=2, tuning_clips=3)
    options = {"segments": world.segments, "cost_repeats": 0, "num_examples": 0}
    found = evaluate(world.LatentMover(), world.latent_tokenizer, world.latents, HWM, scoring, **options)
    assert found.settings["num_clips"] == 8 and found.settings["doubt"] == 2
    again = evaluate(world.LatentMover(), world.latent_tokenizer, world.latents, HWM, scoring, **options)
    assert again.scores == found.scores and again.facts == found.facts


def test_what_cannot_be_doubted_is_refused(world):
    refused(
        "doubt must be 0 or at least 2", evaluate, world.LatentMover(), world.latent_tokenizer, world.latents, HWM,
        Scoring(doubt=1),
    )  # fmt: skip
    refused("--doubt: only with --protocol compression or hwm", SAMPLING.refuse, {"doubt": 4})
    HWM.refuse({"doubt": 4, "tuning": "x", "tuning_clips": 3})
    refused("--tuning: only with --protocol sampling", HWM.refuse, {"doubt": 0, "tuning": "x"})


def test_spearman_equals_the_closed_form_and_gives_ties_their_middle_rank():
    rng = np.random.default_rng(0)
    first, second = rng.permutation(50), rng.permutation(50)
    assert spearman(first, second) == pytest.approx(1 - 6 * np.square(first - second).sum() / (50 * (50**2 - 1)))
    assert spearman(first, np.exp(first / 10)) == 1 and spearman(first, -first) == -1 and spearman(first, np.ones(50)) == 0
    tied, ranks = np.array([3.0, 1, 1, 2, 3, 3]), np.array([5, 1.5, 1.5, 3, 5, 5])
    other = np.array([0.1, 0.5, 0.3, 0.2, 0.9, 0.8])
    expected = np.corrcoef(ranks, other.argsort().argsort())[0, 1]
    assert spearman(tied, other) == pytest.approx(expected)
