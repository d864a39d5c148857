import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from refusing import refused
from scipy.stats import rankdata, spearmanr

from hwm.evaluate.calibration import FRACTIONS, Calibration
from hwm.predict.ensemble import spread

K = 10


def gaussian(seed=0, clips=16, size=40, members_scale=1.0, unrelated=False, num_members=K):
    """Members and truth around one middle, with a deviation of 2 to 25 that differs by pixel and by clip.

    members_scale: of the members' deviation alone.  unrelated: theirs is drawn anew.
    """
    g = torch.Generator().manual_seed(seed)

    def deviation():
        return (2 + 23 * torch.rand(clips, 1, size, size, 1, generator=g)) * torch.linspace(0.5, 1, clips).view(-1, 1, 1, 1, 1)

    own = deviation()
    truth = 128 + own * torch.randn(clips, 1, size, size, 3, generator=g)
    own = deviation() if unrelated else own
    members = 128 + members_scale * own * torch.randn(clips, num_members, size, size, 3, generator=g)
    members, truth = (x.clamp(0, 255).round().to(torch.uint8) for x in (members, truth))
    return members, truth[:, 0]


def calibration(members, truth, *, batch=5, seed=0):
    gathered = Calibration(seed=seed)
    for part, (x, y) in enumerate(zip(members.split(batch), truth.split(batch))):
        gathered.add(gathered.measure(x, y, first_clip=part * batch))
    return SimpleNamespace(**gathered.result())


def test_draws_from_the_truths_own_distribution_are_calibrated():
    result = calibration(*gaussian())
    assert result.error_to_spread == pytest.approx(1, abs=0.02)
    assert result.rank_deviation < 0.01 and len(result.ranks) == K + 1
    assert result.pixel_correlation > 0.3 and result.clip_correlation > 0.9
    assert 0 < result.ause < 0.6 * result.ause_random
    uniform = torch.Generator().manual_seed(1)
    members = torch.randint(0, 256, (300, K, 8, 8, 3), generator=uniform).to(torch.uint8)
    truth = torch.randint(0, 256, (300, 8, 8, 3), generator=uniform).to(torch.uint8)
    assert calibration(members, truth).error_to_spread == pytest.approx(1, abs=0.01)


def test_many_members_lie_on_the_diagonal():
    result = calibration(*gaussian(num_members=60, size=24))
    assert result.expected_calibration_error < 0.5
    assert np.allclose(result.predicted, result.rmse, rtol=0.15)
    assert list(result.predicted) == sorted(result.predicted) and len(result.predicted) == 20


def test_half_the_spread_is_overconfident_by_two():
    result = calibration(*gaussian(members_scale=0.5))
    # With K members of half the deviation: error^2 = s^2 (1 + 1/4K), predicted^2 = s^2 / 4 (1 + 1/K).
    assert result.error_to_spread == pytest.approx(2 * np.sqrt((1 + 0.25 / K) / (1 + 1 / K)), rel=0.02)
    assert result.ranks[0] > 2 / (K + 1) and result.ranks[-1] > 2 / (K + 1) and result.rank_deviation > 0.2
    calm = calibration(*gaussian(members_scale=2.0))
    assert calm.error_to_spread < 0.75 and calm.ranks[0] < 0.5 / (K + 1)
    assert result.expected_calibration_error > 5 * calibration(*gaussian(num_members=60)).expected_calibration_error


def test_unrelated_spread_tells_nothing():
    # Many members: the error of the mean itself, spread / sqrt(K), is related.
    result = calibration(*gaussian(unrelated=True, clips=1, size=100, num_members=60))
    assert abs(result.pixel_correlation) < 0.07
    assert result.ause == pytest.approx(result.ause_random, rel=0.05)
    assert result.clip_correlation == 0  # a single clip


def test_the_tables_equal_a_plain_computation():
    members, truth = gaussian(seed=3, clips=6, size=60)
    result = calibration(members, truth)
    predicted = (spread(members).double() * np.sqrt(1 + 1 / K)).numpy().ravel()
    squares = ((members.double().mean(1) - truth) ** 2).mean(-1).numpy()
    clips = np.sqrt(squares.reshape(6, -1).mean(1)), np.sqrt((predicted.reshape(6, -1) ** 2).mean(1))
    squares = squares.ravel()
    assert result.random == pytest.approx([squares.mean()] * len(FRACTIONS))
    assert result.pixel_correlation == pytest.approx(spearmanr(predicted, squares).statistic, abs=1e-3)
    assert result.clip_correlation == pytest.approx(spearmanr(*clips).statistic)
    for curve, order in ((result.sparsification, predicted), (result.oracle, squares)):
        descending = squares[np.argsort(-rankdata(order))]
        removed = (np.array(result.fractions) * len(squares)).round().astype(int)
        np.testing.assert_allclose(curve, [descending[n:].mean() for n in removed], rtol=0.02, atol=0.05)


def test_a_spread_that_orders_the_errors_reaches_the_oracle():
    """Two members at +-d around a mean that is off by d: the predicted order is the real one."""
    g = torch.Generator().manual_seed(4)
    d = torch.randint(1, 100, (4, 16, 16, 1), generator=g)
    members = torch.stack([128 - d, 128 + d], 1).expand(-1, -1, -1, -1, 3).to(torch.uint8)
    result = calibration(members, (128 + d).expand(-1, -1, -1, 3).to(torch.uint8))
    assert result.pixel_correlation == pytest.approx(1, abs=1e-4)  # levels 98 and 99 share a fine bin
    assert result.ause == pytest.approx(0, abs=1e-3) and result.ause_random > 0.3


def test_batches_and_videos_do_not_matter_and_ties_are_drawn_by_the_seed():
    members, truth = gaussian(clips=6, size=12)
    one, three = calibration(members, truth, batch=6), calibration(members, truth, batch=2)
    assert one == calibration(members, truth, batch=6)
    assert one.ranks == three.ranks
    assert one.rmse == pytest.approx(three.rmse) and one.sparsification == pytest.approx(three.sparsification)
    assert one.ranks != calibration(members, truth, batch=6, seed=1).ranks
    video = Calibration()
    video.add(video.measure(members.unflatten(0, (3, 2)).transpose(1, 2), truth.unflatten(0, (3, 2)), first_clip=0))
    assert video.result()["sparsification"] == pytest.approx(one.sparsification)


@pytest.mark.parametrize(("truth_level", "ratio"), [(90, 1.0), (95, math.inf)])
def test_flat_pictures_give_no_nan(truth_level, ratio):
    members = torch.full((2, 3, 8, 8, 3), 90, dtype=torch.uint8)
    values = vars(calibration(members, torch.full((2, 8, 8, 3), truth_level, dtype=torch.uint8)))
    assert values.pop("error_to_spread") == ratio
    assert json.loads(json.dumps(values, allow_nan=False)) == values and values["pixel_correlation"] == 0
    assert values["rmse"] == [truth_level - 90] and values["predicted"] == [0]


def test_wrong_input_is_refused_and_leaves_nothing_behind():
    members, truth = gaussian(clips=2, size=6)
    gathered = Calibration()
    refused("no clips", gathered.result)
    for x, y, message in [
        (members[:, :1], truth, "at least 2"), (members, truth.float(), "uint8"), (members, truth[:, 1:], "truth")
    ]:
        refused(message, gathered.measure, x, y, first_clip=0)
    gathered.add(gathered.measure(members, truth, first_clip=0))
    before = gathered.result()
    refused("same number", gathered.add, gathered.measure(members[:, :4], truth, first_clip=2))
    assert gathered.result() == before
