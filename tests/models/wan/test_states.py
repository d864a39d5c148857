"""The state encoder of the sampling track: aligned with the latents, zero before training."""

import pytest
import torch

from hwm.models.wan.transformer import FrameStateEncoder


def encoder(**changes):
    torch.manual_seed(0)
    settings = dict(state_dim=5, rows=1, plain=(3,), frequencies=3, hidden=16, width_out=12)  # noqa: C408
    return FrameStateEncoder(**settings | changes)


def awake(net):
    """The same with an output layer that is not zero."""
    torch.manual_seed(1)
    torch.nn.init.normal_(net.out.weight)
    return net


@pytest.mark.parametrize("changes_from", [None, 4])
def test_a_frame_reaches_its_latent_alone(changes_from):
    net = awake(encoder(changes_from=changes_from))
    states = torch.randn(1, 21, 1, 5)
    before = net(states)
    for frame in (0, 1, 7, 20):
        states_changed = states.clone()
        states_changed[:, frame] += 1
        touched = (net(states_changed) - before).abs().amax((0, 2)) > 1e-6
        assert touched.nonzero().flatten().tolist() == [0 if frame == 0 else 1 + (frame - 1) // 4]


def test_changes_follow_the_last_seen_frame():
    net = awake(encoder(changes_from=4))
    states = torch.randn(1, 21, 1, 5)
    changed = states.clone()
    changed[:, 4] += 1
    assert ((net(changed) - net(states)).abs().amax((0, 2)) > 1e-6).all()


def test_plain_dimensions_have_no_sinusoids():
    assert encoder(plain=()).mlp[0].in_features == 5 + 2 * 3 * 5
    assert encoder(plain=(3,)).mlp[0].in_features == 5 + 2 * 3 * 4
    with pytest.raises(ValueError, match="state_plain"):
        encoder(plain=(5,))


def test_dropped_states_are_the_null_state():
    net = awake(encoder())
    a, b = torch.randn(2, 3, 21, 1, 5)
    drop = torch.tensor([True, False, True])
    first, second = net(a, drop), net(b, drop)
    assert torch.equal(first[drop], second[drop]) and not torch.equal(first[~drop], second[~drop])
    assert torch.equal(net(a, torch.zeros(3, dtype=torch.bool)), net(a))


def test_float32_whatever_surrounds_it():
    net = awake(encoder())
    states = torch.randn(2, 21, 1, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(net(states), net(states)) and net(states).dtype == torch.float32
        inside = net(states)
    assert torch.equal(inside, net(states))
