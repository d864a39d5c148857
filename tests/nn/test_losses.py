import pytest
import torch
import torch.nn.functional as F

from hwm.nn.losses import chunk_rows, linear_cross_entropy


def problem(N=23, D=6, factors=(11,), dtype=torch.float64):
    g = torch.Generator().manual_seed(0)
    h = torch.randn(N, D, generator=g, dtype=dtype).requires_grad_()
    W = torch.randn(sum(factors), D, generator=g, dtype=dtype).requires_grad_()
    digits = torch.stack([torch.randint(f, (N,), generator=g) for f in factors], 1)
    return h, W, digits


def reference(h, W, digits, factors, bias=None):
    parts = F.linear(h, W, bias).split(factors, 1)
    return sum(F.cross_entropy(part, digits[:, i]) for i, part in enumerate(parts)), parts


@pytest.mark.parametrize("factors", [(11,), (4, 3, 5)])
@pytest.mark.parametrize("chunk", [1, 7, 23, 1000])
@pytest.mark.parametrize("code_weight", [0.0, 2.5])
@pytest.mark.parametrize("with_bias", [False, True])
def test_value_and_gradients_equal_the_plain_form(factors, chunk, code_weight, with_bias):
    h, W, digits = problem(factors=factors)
    bias = torch.randn(len(W), dtype=torch.float64, requires_grad=True) if with_bias else None
    trained = (h, W) if bias is None else (h, W, bias)
    cross_entropy, parts = reference(h, W, digits, factors, bias)
    expected = cross_entropy
    for part, size, digit in zip(parts, factors, digits.unbind(1)):
        codes = (torch.arange(size, dtype=torch.float64) - size // 2) / (size // 2)
        expected = expected + code_weight * (part.softmax(1) @ codes - codes[digit]).square().mean()
    expected_grads = torch.autograd.grad(3 * expected, trained)
    loss, nll, accuracy = linear_cross_entropy(h, W, digits, factors=factors, bias_V=bias, code_weight=code_weight, chunk=chunk)
    grads = torch.autograd.grad(3 * loss, trained)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(nll, cross_entropy.detach(), rtol=1e-12, atol=1e-12)
    for got, want in zip(grads, expected_grads):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    right = torch.stack([part.argmax(1) for part in parts], 1) == digits
    assert accuracy.item() == pytest.approx(right.all(1).double().mean().item())


def test_no_gradient_where_none_is_wanted():
    h, W, digits = problem()
    with torch.no_grad():
        loss, _, _ = linear_cross_entropy(h, W, digits, factors=(11,))
    assert not loss.requires_grad
    torch.testing.assert_close(loss, reference(h, W, digits, (11,))[0].detach())


def test_extreme_logits_stay_finite():
    h = torch.tensor([[300.0], [-300.0]], requires_grad=True)
    W = torch.tensor([[1.0], [-1.0], [0.5]], requires_grad=True)
    loss, _, accuracy = linear_cross_entropy(h, W, torch.tensor([[0], [0]]), factors=(3,))
    loss.backward()
    assert loss.item() == pytest.approx(300.0) and accuracy.item() == 0.5
    assert h.grad.isfinite().all() and W.grad.isfinite().all()


def test_autocast_runs_the_products_in_bfloat16_and_keeps_gradient_types():
    h, W, digits = problem(N=64, D=32, factors=(50,), dtype=torch.float32)
    expected, _ = reference(h, W, digits, (50,))
    want = torch.autograd.grad(expected, (h, W))
    with torch.autocast("cpu", torch.bfloat16):
        loss, _, _ = linear_cross_entropy(h, W, digits, factors=(50,), chunk=20)
    got = torch.autograd.grad(loss, (h, W))
    assert loss.dtype == torch.float32 and [g.dtype for g in got] == [torch.float32] * 2
    assert loss.item() != expected.item() and loss.item() == pytest.approx(expected.item(), rel=2e-2)
    for a, b in zip(got, want):
        assert (a - b).norm() < 0.03 * b.norm()


def test_chunks_are_bounded_in_bytes():
    W = torch.empty(64000, 8, device="meta")
    assert chunk_rows(W) * 64000 * 4 <= 64 * 2**20
    assert chunk_rows(W, chunk_bytes=1) == 16
