import math

import pytest
import torch
import torch.nn.functional as F

from hwm.nn.attention import KVCache, SpatialAttention, TemporalAttention

T, B, S, D, N = 5, 2, 6, 16, 4


def build(kind, **options):
    torch.manual_seed(0)
    settings = {"num_heads": N, "qk_norm": True, "qkv_bias": True, "dropout": 0.0} | options
    module = kind(D, **settings).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module, torch.randn(T, B, S, D, dtype=torch.float64)


def plain_attention(module, x_GLD, mask=None):
    """Materialised attention over the middle axis, head by head."""
    q, k, v = F.linear(x_GLD, module.qkv.weight, module.qkv.bias).chunk(3, -1)
    outs = []
    for head in range(N):
        part = slice(head * D // N, (head + 1) * D // N)
        a = module.q_norm(q[..., part]) @ module.k_norm(k[..., part]).transpose(1, 2) / math.sqrt(D // N)
        a = a if mask is None else a.masked_fill(mask, -torch.inf)
        outs.append(a.softmax(-1) @ v[..., part])
    return module.out(torch.cat(outs, -1))


@pytest.mark.parametrize("options", [{}, {"qk_norm": False}, {"qkv_bias": False}])
def test_spatial_attention_equals_the_plain_form(options):
    module, x = build(SpatialAttention, **options)
    expected = plain_attention(module, x.flatten(0, 1)).view_as(x)
    torch.testing.assert_close(module(x), expected)


@pytest.mark.parametrize("options", [{}, {"qk_norm": False}, {"qkv_bias": False}])
def test_temporal_attention_equals_the_plain_form(options):
    module, x = build(TemporalAttention, **options)
    mask = torch.ones(T, T, dtype=torch.bool).triu(1)
    expected = plain_attention(module, x.permute(1, 2, 0, 3).flatten(0, 1), mask).view(B, S, T, D).permute(2, 0, 1, 3)
    torch.testing.assert_close(module(x, newest=T), expected)
    torch.testing.assert_close(module(x, newest=2), expected[-2:])


@pytest.mark.parametrize("pieces", [[3, 1, 1], [1, 4], [5]])
def test_cache_equals_no_cache(pieces):
    module, x = build(TemporalAttention)
    cache = KVCache()
    parts = [module(part, newest=len(part), cache=cache) for part in x.split(pieces)]
    torch.testing.assert_close(torch.cat(parts), module(x, newest=T))
    assert cache.num_grids == T


def test_repeated_cache_serves_every_copy_and_leaves_the_original():
    module, x = build(TemporalAttention)
    cache = KVCache()
    module(x[:4], newest=4, cache=cache)
    copies = cache.repeat(3)
    new = torch.randn(1, 3 * B, S, D, dtype=torch.float64)
    got = module(new, newest=1, cache=copies)
    for copy in range(3):
        part = new[:, copy * B : (copy + 1) * B]
        torch.testing.assert_close(got[:, copy * B : (copy + 1) * B], module(torch.cat([x[:4], part]), newest=1))
    assert cache.num_grids == 4 and copies.num_grids == 5


@pytest.mark.parametrize("kind", [SpatialAttention, TemporalAttention])
def test_dropout_is_on_in_training_only_and_keeps_the_mean(kind):
    module, x = build(kind, dropout=0.3)
    call = (lambda y: module(y, newest=T)) if kind is TemporalAttention else module
    still = module.eval() and call(x)
    assert torch.equal(still, call(x))
    module.train()
    torch.manual_seed(1)
    outs = torch.stack([call(x) for _ in range(800)])
    assert not torch.equal(outs[0], outs[1])
    assert (outs.mean(0) - still).abs().max() < 6 * outs.std(0).max() / math.sqrt(800)
