import torch

from hwm.models.masked_blocks import SlotCrossAttention
from hwm.nn.attention import KVCache
from hwm.nn.rope import rope_angles, rotate

T, B, S, D, N = 4, 2, 6, 16, 2
TIMES = rope_angles(torch.arange(T)[:, None], D // N)


def build(kind, *, qk_norm=True):
    torch.manual_seed(0)
    module = kind(D, num_heads=N, qk_norm=qk_norm, qkv_bias=False, dropout=0.0).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module, torch.randn(T, B, S, D, dtype=torch.float64), torch.randn(T, B, 1, D, dtype=torch.float64)


def plain(module, x_GLD, angles_LP, visible_LL):
    """Materialised attention along the middle axis over copies of everything."""
    q, k, v = module.qkv(x_GLD).unflatten(-1, (3, N, -1)).unbind(-3)
    q, k, v = (y.transpose(1, 2) for y in (module.q_norm(q), module.k_norm(k), v))
    scores = rotate(q, angles_LP) @ rotate(k, angles_LP).transpose(2, 3) / (D // N) ** 0.5
    y = scores.masked_fill(~visible_LL, -torch.inf).softmax(-1) @ v
    return module.out(y.transpose(1, 2).flatten(2))


def test_cross_attention_sees_the_past_of_its_place_and_the_shared_slots():
    for qk_norm in (True, False):
        module, x, shared = build(SlotCrossAttention, qk_norm=qk_norm)
        visible = torch.tensor([[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]]).bool()
        got = module(x, shared, num_past=2, newest=2, angles_TP=TIMES, visible_QU=visible)
        # The same as attention among [future | past | shared] copies, read at the future, which sees no future.
        order = torch.cat([x[2:], x[:2], shared.expand(-1, -1, S, -1)]).permute(1, 2, 0, 3).flatten(0, 1)
        angles = torch.cat([TIMES[2:], TIMES[:2], TIMES])
        rows = torch.ones(8, 8, dtype=torch.bool)
        rows[:2] = torch.cat([torch.zeros(2, 2, dtype=torch.bool), visible], 1)
        expected = plain(module, order, angles, rows).view(B, S, 8, D).permute(2, 0, 1, 3)[:2]
        torch.testing.assert_close(got, expected)

        cache = KVCache()
        module(x[:3], shared[:3], num_past=2, newest=1, angles_TP=TIMES[:3], visible_QU=visible[:1, :5], cache=cache)
        cache.keep(3)
        later = module(x[3:], shared[3:], num_past=0, newest=1, angles_TP=TIMES[3:], visible_QU=visible[1:], cache=cache)
        torch.testing.assert_close(later, got[1:])
