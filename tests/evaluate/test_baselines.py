import pytest
import torch

from hwm.evaluate.token_scores import unigram_counts, unigram_nll


def test_unigram_is_the_add_one_smoothed_frequency():
    train = torch.tensor([[[[0, 1], [1, 1]]]])
    counts = unigram_counts([train, train], vocab_size=3)
    assert counts.tolist() == [2, 6, 0]
    nll = unigram_nll(torch.tensor([[[[0, 1], [2, 2]]]]), counts)
    assert nll.flatten().exp().reciprocal().tolist() == pytest.approx([3 / 11, 7 / 11, 1 / 11, 1 / 11])


def test_unigram_without_tokens_is_refused():
    with pytest.raises(ValueError, match="at least one batch"):
        unigram_counts([], vocab_size=3)
