import math
from functools import partial

import pytest
import torch

from hwm.nn.attention import KVCache, SpatialAttention, TemporalAttention

T, B, S, D, N = 5, 2, 6, 16, 4


def build(kind, **options):
    torch.manual_seed(0)
    settings = {"num_heads": N, "qk_norm": True, "qkv_bias": True, "dropout": 0.0} | options
    module = kind(D, **settings).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module, torch.randn(T, B, S, D, dtype=torch.float64)


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


@pytest.mark.parametrize("kind", [SpatialAttention, partial(SpatialAttention, full=True), TemporalAttention])
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


def test_full_attention_is_that_of_all_tokens_behind_a_mask_of_whole_grids():
    module, x = build(SpatialAttention, full=True)
    q, k, v = (y.permute(1, 3, 0, 2, 4).flatten(2, 3) for y in module.heads(x))
    grid = torch.arange(T).repeat_interleave(S)
    weights = (q @ k.transpose(2, 3) / math.sqrt(D // N)).masked_fill(grid[:, None] < grid[None], -torch.inf).softmax(-1)
    expected = module.out((weights @ v).unflatten(2, (T, S)).permute(2, 0, 3, 1, 4).flatten(3))
    torch.testing.assert_close(module(x), expected)
    cache = KVCache()
    parts = [module(part, cache=cache) for part in x.split([2, 1, 2])]
    torch.testing.assert_close(torch.cat(parts), expected)
    alone = build(SpatialAttention)[0]
    torch.testing.assert_close(module(x)[0], alone(x)[0])
    assert not torch.isclose(module(x)[1:], alone(x)[1:]).any(-1).all()
