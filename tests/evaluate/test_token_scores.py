"""Cross-entropy of truncated distributions: every rule for what was cut away, in closed form; and unigrams."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from refusing import refused

from hwm.evaluate.token_scores import topk_nll, unigram_counts, unigram_nll

# Top-k cross-entropy: four ids kept of ten, with probabilities 0.4, 0.3, 0.2, 0.05 and 0.05 left over.

PROBS = torch.tensor([0.4, 0.3, 0.2, 0.05], dtype=torch.float64)
INDICES = torch.tensor([7, 1, 4, 0])


def score(target, missing, values=None):
    values = PROBS.log() if values is None else values
    nll, covered = topk_nll(INDICES[None], values[None], torch.tensor([target]), missing=missing, vocab_size=10)
    return nll.item(), float(covered)


@pytest.mark.parametrize(("missing", "inside", "outside"), [
    ("floor", -math.log(0.3 / 0.95), -math.log(1e-8)), ("min", -math.log(0.3 / 0.95), -math.log(0.05 / 1.0)),
    ("uniform_rest", -math.log(0.3), -math.log(0.05 / 6)),
    ("fill_min", -math.log(0.3 / (0.95 + 6 * 0.05)), -math.log(0.05 / (0.95 + 6 * 0.05))),
    ("ignore", -math.log(0.3 / 0.95), math.nan)
])
def test_every_policy_has_its_closed_form(missing, inside, outside):
    assert score(1, missing) == (pytest.approx(inside), 1.0)
    assert score(9, missing) == (pytest.approx(outside, nan_ok=True), 0.0)
    if missing != "uniform_rest":  # all others depend on differences of logits alone
        assert score(1, missing, PROBS.log() + 3.7)[0] == pytest.approx(inside)


def test_uniform_rest_refuses_plain_logits():
    refused("log-probabilities", score, 1, "uniform_rest", PROBS.log() + 2)


def test_uniform_guess_scores_ln_500():
    target = torch.arange(1000).view(2, 500)
    indices = torch.arange(500).expand(2, 500, 500)
    nll, covered = topk_nll(indices, torch.zeros(2, 500, 500), target, missing="floor")
    assert covered.double().mean() == 0.5
    assert nll[covered].mean().item() == pytest.approx(math.log(500))
    whole = topk_nll(torch.arange(64).expand(1, 64), torch.zeros(1, 64), torch.tensor([5]), vocab_size=64)[0]
    assert whole.item() == pytest.approx(math.log(64))


@given(seed=st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_with_all_ids_kept_every_policy_is_the_cross_entropy(seed):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(5, 12, generator=g).log_softmax(-1)
    target = torch.randint(0, 12, (5,), generator=g)
    values, indices = logits.topk(12, -1)
    expected = torch.nn.functional.cross_entropy(logits, target).item()
    for missing in ("floor", "min", "uniform_rest", "fill_min", "ignore"):
        nll, covered = topk_nll(indices, values, target, missing=missing, vocab_size=12)
        assert nll.mean().item() == pytest.approx(expected, abs=1e-5) and covered.all()


def test_wrong_top_k_input_is_refused():
    refused("one of floor", score, 1, "guess")
    refused("indices", topk_nll, INDICES, PROBS, torch.tensor([1]))
    refused("1 to 3", topk_nll, INDICES[None], PROBS[None], torch.tensor([1]), vocab_size=3)


def test_unigram_is_the_add_one_smoothed_frequency():
    train = torch.tensor([[[[0, 1], [1, 1]]]])
    counts = unigram_counts([train, train], vocab_size=3)
    assert counts.tolist() == [2, 6, 0]
    nll = unigram_nll(torch.tensor([[[[0, 1], [2, 2]]]]), counts)
    assert nll.flatten().exp().reciprocal().tolist() == pytest.approx([3 / 11, 7 / 11, 1 / 11, 1 / 11])


def test_unigram_without_tokens_is_refused():
    with pytest.raises(ValueError, match="at least one batch"):
        unigram_counts([], vocab_size=3)
