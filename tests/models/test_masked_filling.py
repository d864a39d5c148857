import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from seeds import gen

from hwm.models.masked_filling import masks_left, num_masked, random_mask, remask
from hwm.models.token_grids import corrupt


def test_corruption_replaces_at_a_uniform_rate_by_uniform_tokens():
    tokens = torch.full((4000, 3, 8, 8), 7)
    out = corrupt(tokens, vocab_size=10, max_rate=0.4, generator=gen())
    changed = (out != 7).float().mean((1, 2, 3))
    # A tenth of the replacements are the token itself; the rate of a clip is U(0, 0.4).
    rate = changed / 0.9
    assert rate.mean().item() == pytest.approx(0.2, abs=0.01)
    assert rate.std().item() == pytest.approx(math.hypot(0.4 / math.sqrt(12), math.sqrt(0.2 * 0.8 / 192) / 0.9), rel=0.1)
    assert rate.max() < 0.55 and rate.min() < 0.01
    drawn = torch.bincount(out[out != 7], minlength=10).double()
    others = drawn[[0, 1, 2, 3, 4, 5, 6, 8, 9]]
    assert drawn[7] == 0 and (others / others.mean() - 1).abs().max() < 0.05
    # Context and future alike, every place alike.
    for part in ((out != 7).float().mean((0, 2, 3)), (out != 7).float().mean((0, 1)).flatten()):
        assert (part / part.mean() - 1).abs().max() < 0.1


def test_without_a_rate_nothing_is_corrupted():
    tokens = torch.randint(10, (3, 3, 4, 4), generator=gen(1))
    assert torch.equal(corrupt(tokens, vocab_size=10, max_rate=0.0, generator=gen()), tokens)


def test_masked_share_follows_the_cosine():
    masked = random_mask((5000, 2, 8, 8), generator=gen())
    share = masked.float().mean((2, 3))
    # E cos(pi/2 r) = 2/pi and E cos^2 = 1/2; the two grids of a clip are drawn apart.
    assert share.mean().item() == pytest.approx(2 / math.pi, abs=0.01)
    spread = 0.5 - (2 / math.pi) ** 2 + (2 / math.pi - 0.5) / 64
    assert share.var().item() == pytest.approx(spread, rel=0.05)
    assert torch.corrcoef(share.t())[0, 1].abs() < 0.05
    # P(cos(pi/2 r) > 1/2) = 2/3
    assert (share > 0.5).float().mean().item() == pytest.approx(2 / 3, abs=0.03)


def test_a_batch_without_a_masked_token_cannot_be():
    counts = torch.tensor([random_mask((1, 1, 1, 2), generator=gen(seed)).sum().item() for seed in range(3000)])
    # Two tokens stay both open with probability E (1 - c)^2 = 1 - 4/pi + 1/2; then one of them is masked.
    one = 2 * (2 / math.pi - 0.5) + (1.5 - 4 / math.pi)
    assert counts.min() == 1 and (counts == 1).float().mean().item() == pytest.approx(one, abs=0.03)


def test_number_of_masked_places():
    assert [num_masked(k, 4, 1024) for k in range(4)] == [*(math.ceil(math.cos(math.pi / 8 * k) * 1024) for k in (1, 2, 3)), 0]
    assert num_masked(0, 1, 1024) == 0
    # cos(pi/3) * 1024 is 512, not a little more.
    assert num_masked(1, 3, 1024) == 512


@given(st.integers(1, 40), st.integers(1, 300))
def test_masks_shrink_to_nothing(steps, places):
    left = masks_left(steps, places)
    assert left[-1] == 0 and all(a > b for a, b in zip([places, *left], left))
    assert set(left) <= {num_masked(step, steps, places) for step in range(steps)} and len(left) <= steps


def test_remasking_keeps_the_least_confident_of_the_masked():
    masked = torch.tensor([[1, 1, 0, 1, 1], [0, 1, 1, 1, 1]]).bool()
    confidence = torch.tensor([[3.0, 1.0, 0.0, 2.0, 4.0], [0.0, 9.0, 8.0, 7.0, 6.0]])
    assert remask(masked, confidence, 2).int().tolist() == [[0, 1, 0, 1, 0], [0, 0, 0, 1, 1]]


def test_random_remasking_is_nested_and_spares_no_place():
    counts, masked = torch.zeros(6), torch.ones(2000, 6, dtype=torch.bool)
    for left in (4, 2):
        new = remask(masked, torch.rand(masked.shape, generator=gen(left)), left)
        assert (new.sum(1) == left).all() and (new <= masked).all()
        counts, masked = counts + new.float().mean(0), new
    assert counts.tolist() == pytest.approx([1.0] * 6, abs=0.08)
