"""Ids, digits and codes of finite scalar quantisation against closed forms."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from hwm.tokenizers import quantiser as q

LEVELS = st.lists(st.integers(2, 9), min_size=1, max_size=5).map(tuple)


def test_cosmos_vocabulary_and_first_code():
    assert q.basis(q.COSMOS_LEVELS).tolist() == [1, 8, 64, 512, 2560, 12800]
    assert q.ids_to_digits(torch.tensor(0), q.COSMOS_LEVELS).tolist() == [0] * 6
    table = q.code_table(q.COSMOS_LEVELS)
    assert table[0].tolist() == [-1.0] * 6
    assert table[-1].tolist() == [0.75, 0.75, 0.75, 1.0, 1.0, 1.0]


@given(LEVELS)
def test_ids_and_digits_and_codes_are_one_to_one(levels):
    ids = torch.arange(min(math.prod(levels), 3000))
    digits = q.ids_to_digits(ids, levels)
    assert (digits >= 0).all() and (digits < torch.tensor(levels)).all()
    assert torch.equal(q.digits_to_ids(digits, levels), ids)
    assert torch.equal(q.codes_to_digits(q.digits_to_codes(digits, levels), levels), digits)


@given(LEVELS, st.floats(-20, 20))
def test_bounded_activations_round_to_existing_digits(levels, value):
    z = torch.full((len(levels),), value)
    digits = q.codes_to_digits(q.bound(z, levels), levels)
    assert (digits >= 0).all() and (digits < torch.tensor(levels)).all()


def test_bound_reaches_every_level():
    z = torch.linspace(-8, 8, 2001)[:, None].expand(-1, 6)
    digits = q.codes_to_digits(q.bound(z, q.COSMOS_LEVELS), q.COSMOS_LEVELS)
    for channel, level in enumerate(q.COSMOS_LEVELS):
        assert digits[:, channel].unique().tolist() == list(range(level))


def test_quantise_rounds_and_passes_the_gradient_through():
    codes = torch.tensor([[-0.93, 0.1, 0.8]], requires_grad=True)
    out = q.quantise(codes, (8, 5, 5))
    assert torch.allclose(out.detach(), torch.tensor([[-1.0, 0.0, 1.0]]))
    out.sum().backward()
    assert torch.equal(codes.grad, torch.ones_like(codes))
