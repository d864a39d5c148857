import math

import pytest
import torch

from hwm.contracts import Batch, Sampling
from hwm.evaluate.baselines import (
    CopyLastGrid,
    copy_last_frame,
    copy_last_grid,
    mean_of_context,
    unigram_counts,
    unigram_nll,
)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def clips(seed=0, num=4, vocab=11):
    g = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, vocab, (num, 6, 3, 5), generator=g)
    tokens[:, 4] = torch.where(torch.rand(num, 3, 5, generator=g) < 0.7, tokens[:, 3], tokens[:, 4])
    return Batch(states_BFA=torch.zeros(num, 34, 2), tokens_BTHW=tokens)


def test_pixel_and_token_copies():
    video = torch.randint(0, 256, (2, 4, 5, 6, 3), dtype=torch.uint8)
    copied = copy_last_frame(video, num_frames=7)
    assert copied.shape == (2, 7, 5, 6, 3) and all(torch.equal(copied[:, f], video[:, -1]) for f in range(7))
    mean = mean_of_context(video, num_frames=2)
    assert torch.equal(mean[:, 1], video.double().mean(1).round().to(torch.uint8))
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


def test_the_loss_is_least_where_the_probability_is_the_share_of_tokens_that_stay(generator):
    batch, model = clips(num=64), CopyLastGrid(vocab_size=11)
    stays = (batch.tokens_BTHW[:, 3:] == batch.tokens_BTHW[:, 2:-1]).double().mean((0, 2, 3))
    model.stay_logit_T.data = stays.logit().float()
    least = model.loss(batch, generator=generator)["loss"]
    least.backward()
    assert model.stay_logit_T.grad.abs().max() < 1e-6
    for step in (-0.5, 0.5):
        model.stay_logit_T.data = stays.logit().float() + step
        assert model.loss(batch, generator=generator)["loss"] > least


def test_distribution_agrees_with_a_dense_one(generator):
    batch, model = clips(), CopyLastGrid(vocab_size=11)
    model.stay_logit_T.data = torch.tensor([2.0, 0.3, -4.0])
    context, future = batch.tokens_BTHW.split(3, 1)
    codes = torch.randn(11, 4)
    found = model.predict(
        context,
        batch.states_BFA,
        generator=generator,
        targets_BTHW=future,
        teacher_forced=True,
        top_k_logits=11,
        codes_VC=codes,
    )
    stay = model.stay_logit_T.sigmoid()
    previous = torch.cat([context[:, -1:], future[:, :-1]], 1)
    dense = ((1 - stay) / 10)[:, None, None, None].expand(4, 3, 3, 5, 11).clone()
    dense.scatter_(-1, previous[..., None], stay[:, None, None, None].expand(4, 3, 3, 5, 1))
    assert torch.allclose(found.nll_BTHW, -dense.gather(-1, future[..., None])[..., 0].log(), atol=1e-5)
    assert torch.allclose(found.entropy_BTHW, -(dense * dense.log()).sum(-1), atol=1e-5)
    assert torch.allclose(found.codes_BTHWC, dense @ codes, atol=1e-5)
    scattered = torch.zeros_like(dense).scatter_(-1, found.top_indices_BTHWK, found.top_values_BTHWK.exp())
    assert torch.allclose(scattered, dense, atol=1e-5)
    assert (found.top_values_BTHWK.diff(dim=-1) <= 0).all()
    greedy = found.tokens_BKTHW[:, 0]
    assert torch.equal(greedy[:, :2], previous[:, :2])
    assert (greedy[:, 2] != previous[:, 2]).all()  # staying is less likely than any one move


def test_autoregressive_copies_the_last_context_grid(generator):
    batch, model = clips(), CopyLastGrid(vocab_size=11)
    context, future = batch.tokens_BTHW.split(3, 1)
    found = model.predict(context, batch.states_BFA, generator=generator, targets_BTHW=future, num_samples=2)
    copied = copy_last_grid(context, num_grids=3)
    assert torch.equal(found.tokens_BKTHW, torch.stack([copied, copied], 1))
    scores = model.validate(batch, generator=generator)
    assert torch.allclose(scores["ce_auto"], found.nll_BTHW.mean((1, 2, 3)))
    assert torch.allclose(scores["accuracy_auto"], (copied == future).float().mean((1, 2, 3)))
    loss = model.loss(batch, generator=generator)
    assert torch.allclose(scores["ce_teacher"].mean(), loss["loss"])


def test_sampling_stays_as_often_as_the_tempered_probability_says(generator):
    model = CopyLastGrid(vocab_size=6)
    context = torch.full((1, 3, 100, 100), 2)
    found = model.predict(
        context, torch.zeros(1, 34, 2), generator=generator, num_samples=2, sampling=Sampling(temperature=2.0)
    )
    first = found.tokens_BKTHW[:, :, 0]
    weight = math.sqrt(0.5) / (math.sqrt(0.5) + 5 * math.sqrt(0.1))
    assert (first == 2).float().mean().item() == pytest.approx(weight, abs=0.02)
    assert sorted(first.unique().tolist()) == [0, 1, 2, 3, 4, 5]
    assert not torch.equal(found.tokens_BKTHW[:, 0], found.tokens_BKTHW[:, 1])


def test_bad_requests_are_refused(generator):
    model, context, states = CopyLastGrid(vocab_size=6), torch.zeros(1, 3, 2, 2).long(), torch.zeros(1, 34, 2)
    with pytest.raises(ValueError, match="targets"):
        model.predict(context, states, generator=generator, teacher_forced=True)
    with pytest.raises(ValueError, match="temperature only"):
        model.predict(context, states, generator=generator, sampling=Sampling(temperature=1.0, top_k=3))
    with pytest.raises(ValueError, match="6 token grids"):
        model.loss(Batch(states_BFA=states, tokens_BTHW=context), generator=generator)
    with pytest.raises(ValueError, match="at least 2"):
        CopyLastGrid(vocab_size=1)
