import torch

from hwm.models.masked_blocks import PlaceAttention, SlotAttention, SlotCrossAttention, attend, slot_visibility
from hwm.nn.attention import KVCache
from hwm.nn.rope import grid_positions, rope_angles, rotate

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


def test_attention_over_places_is_plain_attention_of_rotated_heads():
    module, x, _ = build(PlaceAttention)
    angles = rope_angles(grid_positions(2, 3), D // N)
    expected = plain(module, x.flatten(0, 1), angles, torch.ones(S, S, dtype=torch.bool)).view_as(x)
    torch.testing.assert_close(module(x, angles_SP=angles), expected)


def test_shared_slots_equal_copies_at_every_place_averaged():
    for rule in ("causal", "full", "released"):
        module, x, shared = build(SlotAttention)
        visible = slot_visibility(T, rule)
        copies = torch.cat([x, shared.expand(-1, -1, S, -1)]).permute(1, 2, 0, 3).flatten(0, 1)
        expected = plain(module, copies, TIMES.repeat(2, 1), visible).view(B, S, 2 * T, D).permute(2, 0, 1, 3)
        own, mean = module(x, shared, angles_TP=TIMES, visible_QU=visible, newest=T)
        torch.testing.assert_close(own, expected[:T])
        torch.testing.assert_close(mean, expected[T:].mean(2, keepdim=True))
        last, none = module(x, shared, angles_TP=TIMES, visible_QU=visible[T - 1 : T], newest=1, finish_shared=False)
        torch.testing.assert_close(last, expected[T - 1 : T])
        assert none is None


def test_slots_in_the_cache_equal_slots_computed_again():
    module, x, shared = build(SlotAttention)
    visible = slot_visibility(T, "causal").view(2, T, 2, T)
    whole = module(x, shared, angles_TP=TIMES, visible_QU=visible.reshape(2 * T, 2 * T), newest=T)
    cache, parts = KVCache(), []
    for first, end in ((0, 2), (2, 3), (3, 4)):
        rows = visible[:, first:end, :, :end].reshape(2 * (end - first), 2 * end)
        # What was only tried out is forgotten.
        for wrong in (1.0, 0.0):
            got = module(
                x[first:end] + wrong, shared[first:end], angles_TP=TIMES[first:end], visible_QU=rows, newest=end - first,
                cache=cache
            )
            cache.keep(end if not wrong else first)
        parts.append(got)
    for i in range(2):
        torch.testing.assert_close(torch.cat([part[i] for part in parts]), whole[i])
    assert cache.num_grids == T


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


def test_hidden_slots_have_no_weight():
    q, k, v = torch.randn(3, 2, B, S, N, 4).unbind()
    visible = torch.tensor([[True, False], [True, True]])
    out = attend(q, k, v, visible_TU=visible)
    torch.testing.assert_close(out[0], v[0].flatten(2))
    assert not torch.allclose(out[1], v[0].flatten(2))


def test_video_sees_the_actions_up_to_its_time() -> None:
    sees = slot_visibility(3, "causal")
    video, actions = slice(0, 3), slice(3, 6)
    for part in (sees[video, video], sees[video, actions], sees[actions, video], sees[actions, actions]):
        assert torch.equal(part, torch.ones(3, 3, dtype=torch.bool).tril())
    assert slot_visibility(3, "full").all()
    assert not slot_visibility(3, "released")[video, actions].any()
