from types import SimpleNamespace

import pytest
import torch

from hwm.evaluate.scenes import View, copy_last_grid
from hwm.evaluate.token_scores import unigram_counts, unigram_nll
from hwm.evaluate.ways import averaged, copied


def test_pixel_and_token_copies():
    video = torch.randint(0, 256, (2, 4, 5, 6, 3), dtype=torch.uint8)
    drawn = SimpleNamespace(scene=SimpleNamespace(view=View(video, video.new_zeros(2, 7, 5, 6, 3))))
    last = copied(drawn, video)
    assert last.shape == (2, 7, 5, 6, 3) and all(torch.equal(last[:, f], video[:, -1]) for f in range(7))
    assert torch.equal(averaged(drawn, video)[:, 1], video.double().mean(1).round().to(torch.uint8))
    tokens = torch.randint(0, 9, (2, 3, 4, 5))
    assert torch.equal(copy_last_grid(tokens, num_grids=2), torch.stack([tokens[:, 2]] * 2, 1))


def test_unigram_is_the_add_one_smoothed_frequency():
    train = torch.tensor([[[[0, 1], [1, 1]]]])
    counts = unigram_counts([train, train], vocab_size=3)
    assert counts.tolist() == [2, 6, 0]
    nll = unigram_nll(torch.tensor([[[[0, 1], [2, 2]]]]), counts)
    assert nll.flatten().exp().reciprocal().tolist() == pytest.approx([3 / 11, 7 / 11, 1 / 11, 1 / 11])


def test_unigram_without_tokens_is_refused():
    with pytest.raises(ValueError, match="at least one batch"):
        unigram_counts([], vocab_size=3)
