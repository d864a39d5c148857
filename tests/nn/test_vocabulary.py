import pytest
import torch
from seeds import gen

from hwm.contracts import Sampling
from hwm.nn import vocabulary as module
from hwm.nn.vocabulary import Vocabulary

FACTORS = (4, 3, 5)


def build(factors=(), vocab_size=60, width=6):
    vocabulary = Vocabulary(vocab_size, width, tied=True, factors=factors).double()
    torch.nn.init.normal_(vocabulary.weight, generator=gen())
    hidden = torch.randn(33, width, generator=gen(1), dtype=torch.float64)
    ids = torch.randint(vocab_size, (33,), generator=gen(2))
    return vocabulary, hidden, ids


def test_digits_are_mixed_radix_lowest_first():
    vocabulary, _, _ = build(FACTORS)
    ids = torch.arange(60)
    digits = vocabulary.digits(ids)
    assert torch.equal((digits * torch.tensor([1, 4, 12])).sum(1), ids)
    assert (digits < torch.tensor(FACTORS)).all() and digits[1].tolist() == [1, 0, 0]


def test_factorised_embedding_sums_one_row_a_digit():
    vocabulary, _, ids = build(FACTORS)
    tables = vocabulary.weight.split(FACTORS)
    expected = sum(table[vocabulary.digits(ids)[:, i]] for i, table in enumerate(tables))
    torch.testing.assert_close(vocabulary.embed(ids), expected)
    assert vocabulary.embed(ids.view(3, 11)).shape == (3, 11, 6)


@pytest.mark.parametrize("factors", [(), FACTORS])
def test_loss_and_most_likely_agree_with_the_joint_distribution(factors):
    vocabulary, hidden, ids = build(factors)
    log_p = vocabulary.log_probabilities(hidden)
    loss, _, accuracy = vocabulary.loss(hidden, ids)
    torch.testing.assert_close(loss, -log_p.gather(1, ids[:, None]).mean())
    torch.testing.assert_close(vocabulary.most_likely(hidden), log_p.argmax(1))
    assert accuracy.item() == pytest.approx((log_p.argmax(1) == ids).double().mean().item())


@pytest.mark.parametrize("factors", [(), FACTORS])
def test_reading_chunk_by_chunk_equals_the_closed_forms(factors, monkeypatch):
    # 7 rows of logits at a time instead of all 33.
    monkeypatch.setattr(module, "chunk_rows", lambda weight: 7)
    vocabulary, hidden, ids = build(factors)
    codes = torch.randn(60, 2, generator=gen(4))
    reading = vocabulary.read(hidden, sampling=Sampling(), generator=gen(), num_draws=2, targets_N=ids, num_top=5, codes_VC=codes)
    log_p = torch.log_softmax(hidden @ vocabulary.weight.t(), 1) if not factors else vocabulary.log_probabilities(hidden)
    expected = log_p.topk(5)
    torch.testing.assert_close(reading.nll_N, -log_p.gather(1, ids[:, None])[:, 0])
    torch.testing.assert_close(reading.entropy_N, -(log_p.exp() * log_p).sum(1))
    torch.testing.assert_close(reading.codes_NC, log_p.exp() @ codes.double())
    torch.testing.assert_close(reading.top_values_NK, expected.values)
    assert torch.equal(reading.top_indices_NK, expected.indices)
    assert torch.equal(reading.drawn_NK, log_p.argmax(1)[:, None].expand(-1, 2))


def test_flat_and_factorised_agree_where_the_distribution_factorises():
    """A flat table whose rows are the sums of the digits' rows is the same model."""
    factorised, hidden, ids = build(FACTORS)
    flat = Vocabulary(60, 6, tied=True).double()
    with torch.no_grad():
        flat.weight.copy_(factorised.embed(torch.arange(60)))
    torch.testing.assert_close(flat.embed(ids), factorised.embed(ids))
    torch.testing.assert_close(flat.loss(hidden, ids)[0], factorised.loss(hidden, ids)[0])
    torch.testing.assert_close(flat.log_probabilities(hidden), factorised.log_probabilities(hidden))
    for sampling in (Sampling(), Sampling(temperature=0.7), Sampling(temperature=1, top_k=9, top_p=0.8)):
        drawn = [v.read(hidden, sampling=sampling, generator=gen(), num_draws=4).drawn_NK for v in (flat, factorised)]
        assert torch.equal(*drawn)


def test_only_what_was_asked_for_is_filled():
    vocabulary, hidden, ids = build()
    reading = vocabulary.read(hidden, sampling=Sampling(), generator=gen())
    assert [name for name, value in vars(reading).items() if value is not None] == ["drawn_NK"]
    reading = vocabulary.read(hidden, sampling=Sampling(), generator=gen(), targets_N=ids)
    assert [name for name, value in vars(reading).items() if value is not None] == ["drawn_NK", "nll_N", "entropy_N"]


@pytest.mark.slow
def test_the_magvit_vocabulary_of_262144_is_read_within_bounds():
    vocabulary = Vocabulary(512 * 512, 16, tied=True, factors=(512, 512))
    torch.nn.init.normal_(vocabulary.weight, generator=gen())
    hidden = torch.randn(64, 16, generator=gen(1))
    reading = vocabulary.read(hidden, sampling=Sampling(), generator=gen(), num_top=500)
    torch.testing.assert_close(reading.top_indices_NK[:, 0], vocabulary.most_likely(hidden))
    assert (reading.top_values_NK.diff(dim=1) <= 0).all()


def test_digits_describe_the_same_distribution_as_the_joint_table():
    """Reading a factorised vocabulary digit by digit gives what the table over all ids gives."""
    torch.manual_seed(0)
    factors = (4, 3, 2)
    vocabulary = Vocabulary(24, 16, tied=True, factors=factors).double()
    torch.nn.init.normal_(vocabulary.weight)
    hidden, targets = torch.randn(50, 16, dtype=torch.float64), torch.randint(0, 24, (50,))
    digits = vocabulary.digits(torch.arange(24)).double()
    codes = torch.stack([digits[:, 0] - 2, digits[:, 1] * 0.5, digits[:, 2]], 1)
    ask = {"sampling": Sampling(), "generator": torch.Generator(), "targets_N": targets}
    quick = vocabulary.read(hidden, **ask, codes_VC=codes)
    full = vocabulary.read(hidden, **ask, codes_VC=codes, num_top=24)
    for name in ("drawn_NK", "nll_N", "entropy_N", "codes_NC"):
        assert torch.allclose(getattr(quick, name).double(), getattr(full, name).double()), name
    first = vocabulary.read(hidden, **ask, codes_VC=codes, num_top=1)
    assert torch.equal(first.top_indices_NK, full.top_indices_NK[:, :1])
    assert torch.allclose(first.top_values_NK, full.top_values_NK[:, :1]) and torch.allclose(first.codes_NC, full.codes_NC)
    mixed = codes.clone()
    mixed[5] += 1  # no longer a sum over digits: the joint table must be used
    expected = vocabulary.log_probabilities(hidden).exp() @ mixed
    assert torch.allclose(vocabulary.read(hidden, **ask, codes_VC=mixed).codes_NC, expected)


@pytest.mark.parametrize("factors", [(), FACTORS])
def test_a_head_of_its_own_has_weights_and_a_bias(factors):
    torch.manual_seed(0)
    vocabulary = Vocabulary(60, 6, tied=False, factors=factors).double()
    for parameter in vocabulary.parameters():
        torch.nn.init.normal_(parameter)
    rows = sum(factors) or 60
    assert {k: tuple(v.shape) for k, v in vocabulary.state_dict().items()} == {
        "weight": (rows, 6), "head.weight": (rows, 6), "head.bias": (rows,)
    }
    hidden, ids = torch.randn(33, 6, dtype=torch.float64), torch.randint(60, (33,))
    parts = [p.log_softmax(1) for p in (hidden @ vocabulary.head.weight.t() + vocabulary.head.bias).split(factors or 60, 1)]
    digits = vocabulary.digits(torch.arange(60))
    log_p = sum(part[:, digits[:, i]] for i, part in enumerate(parts))
    torch.testing.assert_close(vocabulary.log_probabilities(hidden), log_p)
    torch.testing.assert_close(vocabulary.most_likely(hidden), log_p.argmax(1))
    torch.testing.assert_close(vocabulary.loss(hidden, ids)[0], -log_p.gather(1, ids[:, None]).mean())
    reading = vocabulary.read(hidden, sampling=Sampling(), generator=gen(), targets_N=ids)
    torch.testing.assert_close(reading.nll_N, -log_p.gather(1, ids[:, None])[:, 0])
    assert torch.equal(reading.drawn_NK[:, 0], log_p.argmax(1))


def test_tied_tables_are_named_as_in_saved_runs():
    assert list(Vocabulary(60, 6, tied=True).state_dict()) == ["weight"]


@pytest.mark.parametrize("factors", [(), FACTORS])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=2.0, top_k=9)])
@pytest.mark.parametrize("others", [False, True])
def test_confidence_is_the_log_probability_of_what_was_drawn(factors, sampling, others):
    vocabulary, hidden, ids = build(factors)
    asked = {"targets_N": ids, "num_top": 2} if others else {}
    reading = vocabulary.read(hidden, sampling=sampling, generator=gen(), num_draws=3, confidence=True, **asked)
    log_p = vocabulary.log_probabilities(hidden)
    torch.testing.assert_close(reading.confidence_NK, log_p.gather(1, reading.drawn_NK))
