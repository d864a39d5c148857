"""Counting on fake tensors: closed forms, and the same numbers as on real ones."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hwm.config import RunConfig
from hwm.contracts import Batch
from hwm.doctor.costs import count_state, count_step
from hwm.model_config import FlowConfig
from hwm.models.build import build_model

IN, HIDDEN, FRAMES = 6, 10, 4


class Regression(nn.Module):
    """Two linear layers on the states."""

    def __init__(self, device="meta"):
        super().__init__()
        self.first = nn.Linear(IN, HIDDEN, bias=False, device=device)
        self.second = nn.Linear(HIDDEN, 1, bias=False, device=device)

    def loss(self, batch, *, generator):
        hidden = self.first(batch.states_BFA).sigmoid()
        return {"loss": self.second(hidden).sum()}


def states(clips):
    return Batch(states_BFA=torch.zeros(clips, FRAMES, IN))


def test_two_linear_layers_in_closed_form():
    counted = count_step(Regression(), states, precision="float32")
    # Kept: the hidden layer once, which the sigmoid and the second product share; the input and the weights are not new.
    assert counted.clip_bytes == 4 * FRAMES * HIDDEN and counted.fixed_bytes == 0
    forward = 2 * FRAMES * (IN * HIDDEN + HIDDEN)
    assert counted.clip_flop == 2 * forward + 2 * FRAMES * HIDDEN  # the input wants no gradient


def test_copies_of_the_weights_are_counted_once_a_batch():
    counted = count_step(Regression(), states, precision="bfloat16")
    assert counted.fixed_bytes == 2 * HIDDEN  # the second layer's; the first one's input wants no gradient
    assert counted.clip_bytes == 2 * FRAMES * (IN + HIDDEN)


def test_frozen_weights_have_no_state():
    model = Regression()
    model.first.requires_grad_(False).to(torch.bfloat16)
    state = count_state(model, ema=True)
    assert state.parameters == IN * HIDDEN + HIDDEN and state.trainable_parameters == HIDDEN
    assert (state.frozen_weights, state.trained_weights, state.gradients) == (2 * IN * HIDDEN, 4 * HIDDEN, 4 * HIDDEN)
    assert (state.moments, state.average) == (8 * HIDDEN, 4 * HIDDEN)
    assert state.total == 2 * IN * HIDDEN + 5 * 4 * HIDDEN


def test_fused_attention_counts_as_its_products():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones((), device="meta"))

        def loss(self, batch, *, generator):
            x = (batch.states_BFA * self.scale)[:, None]
            return {"loss": F.scaled_dot_product_attention(x, x, x).sum()}

    product = 2 * FRAMES * FRAMES * IN
    assert count_step(Attention(), states, precision="float32").clip_flop == (2 + 5) * product


def test_a_real_step_keeps_and_computes_what_the_fake_one_does():
    config = RunConfig(model=FlowConfig(grid=(4, 4), num_layers=2, num_heads=2, width=32, unshared_blocks=1))

    def clips(count):
        return Batch(states_BFA=torch.zeros(count, 17, 25), latents_BTCHW=torch.zeros(count, 3, 16, 4, 4))

    with torch.device("meta"):
        shapes = build_model(config)
    counted = count_step(shapes, clips, precision="float32")
    model, batch, kept = build_model(config), clips(3), {}
    given = (*model.parameters(), *model.buffers(), batch.states_BFA, batch.latents_BTCHW)
    known = {tensor.untyped_storage().data_ptr() for tensor in given}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in known:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        loss = model.loss(batch, generator=torch.Generator())["loss"]
        products = counter.get_total_flops()
        loss.backward()
    found = sum(t.untyped_storage().nbytes() for t in kept.values())
    assert abs(found - counted.fixed_bytes - 3 * counted.clip_bytes) <= 0.01 * found
    # torch does not count fused attention on a CPU, so it must be a little less here.
    assert 2 * products < 3 * counted.clip_flop and counter.get_total_flops() > 0.8 * 3 * counted.clip_flop
