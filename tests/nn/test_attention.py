import math

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
