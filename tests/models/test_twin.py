"""The twin: what a linear robot does is learned, nothing is foreseen before its time, and steps are a rollout."""

import pytest
import torch

from hwm.contracts import Batch
from hwm.model_config import TwinConfig
from hwm.models.twin import Motion, Twin

SMALL = TwinConfig(members=3, width=8, num_layers=1, context_grids=3, future_grids=5, state_dim=2)


def twin(config=SMALL, *, moving=True):
    torch.manual_seed(0)
    model = Twin(config)
    model.set_state_statistics(torch.tensor([[1.0, -2.0], [0.5, 4.0]]))
    if moving:  # as after training: the networks start as nothing
        for layer in (model.straight, model.out):
            torch.nn.init.normal_(layer.weight, std=0.1)
    return model


def clips(number=4, frames=8, seed=0):
    """A robot that goes a fifth of the way to its command in every frame."""
    generator = torch.Generator().manual_seed(seed)
    commands = torch.randn(number, frames, 2, generator=generator).cumsum(1)
    states = [torch.randn(number, 2, generator=generator)]
    for frame in range(frames - 1):
        states.append(0.8 * states[-1] + 0.2 * commands[:, frame])
    return Batch(states_BFA=torch.stack(states, 1), commands_BFA=commands)


def test_a_linear_robot_is_learned():
    model, generator = twin(moving=False), torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for step in range(150):
        optimiser.zero_grad()
        model.loss(clips(16, seed=step), generator=generator)["loss"].backward()
        optimiser.step()
    scores = {name: value.mean().item() for name, value in model.validate(clips(64, seed=999), generator=generator).items()}
    assert scores["mse"] < 1e-3 * scores["mse_last"] and scores["mse"] < 1e-3 * scores["mse_command"]


def test_an_untrained_robot_stays_and_costs_what_arithmetic_says():
    model, batch = twin(moving=False), clips()
    expected = model.normalised(batch.states_BFA[:, 3:]) - model.normalised(batch.states_BFA[:, 2:3])
    loss = model.loss(batch, generator=torch.Generator())["mse"].item()
    assert loss == pytest.approx(model.first_loss(batch), rel=1e-5) == pytest.approx(expected.square().mean().item(), rel=1e-5)
    motion = Motion(model)
    last = motion.reset(batch.states_BFA)
    torch.testing.assert_close(motion.step(torch.ones(4, 2))[0], last)


def test_a_rollout_of_no_steps_is_the_state_itself():
    model, batch = twin(), clips()
    assert model.rollout(batch.states_BFA[:, :3], batch.commands_BFA[:, :2]).shape == (3, 4, 0, 2)
    assert torch.equal(Motion(model).reset(batch.states_BFA), batch.states_BFA[:, -1])


def test_members_that_are_equal_have_no_spread_and_others_have():
    model, batch = twin(), clips()

    def spread():
        motion = Motion(model)
        motion.reset(batch.states_BFA[:, :3], batch.commands_BFA[:, :2])
        return [motion.step(command)[1] for command in batch.commands_BFA[:, 2:].unbind(1)]

    assert all((step > 0).all() for step in spread())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter[:1].expand_as(parameter))
    assert all(step.abs().max() < 1e-6 for step in spread())


def test_steps_are_a_rollout_for_every_robot_by_itself():
    model, batch = twin(), clips()
    whole = model.raw(model.rollout(batch.states_BFA[:, :3], batch.commands_BFA).mean(0))
    motion = Motion(model)
    motion.reset(batch.states_BFA[1:2, :3], batch.commands_BFA[1:2, :2])
    steps = [motion.step(command)[0] for command in batch.commands_BFA[1:2, 2:].unbind(1)]
    torch.testing.assert_close(torch.stack(steps, 1), whole[1:2])


def test_no_command_acts_before_its_time():
    model, batch = twin(), clips()
    changed = batch.commands_BFA.clone()
    changed[:, 4] += 1
    one, other = (model.rollout(batch.states_BFA[:, :3], commands) for commands in (batch.commands_BFA, changed))
    assert torch.equal(one[:, :, :2], other[:, :, :2]) and (one[:, :, 2] != other[:, :, 2]).any()


def test_the_past_counts_no_further_than_the_context_and_a_short_one_is_a_robot_that_stood():
    model, batch = twin(), clips()
    first, second, third = Motion(model), Motion(model), Motion(model)
    first.reset(batch.states_BFA[:, 2:5], batch.commands_BFA[:, 2:4])
    second.reset(batch.states_BFA[:, :5], batch.commands_BFA[:, :4])
    assert torch.equal(first.step(torch.ones(4, 2))[0], second.step(torch.ones(4, 2))[0])
    first.reset(batch.states_BFA[:, :1])
    third.reset(batch.states_BFA[:, :1].expand(-1, 3, -1))
    assert torch.equal(first.step(torch.ones(4, 2))[0], third.step(torch.ones(4, 2))[0])


@pytest.mark.parametrize("call", [
    lambda m: m.reset(torch.zeros(3, 2)), lambda m: m.reset(torch.zeros(1, 3, 5)), lambda m: m.reset(torch.zeros(1, 0, 2)),
    lambda m: m.reset(torch.zeros(1, 3, 2), torch.zeros(1, 3, 2)), lambda m: m.step(torch.zeros(2, 2)),
])  # fmt: skip
def test_other_shapes_are_refused(call):
    motion = Motion(twin())
    motion.reset(torch.zeros(1, 3, 2))
    with pytest.raises(ValueError, match="got"):
        call(motion)


def test_clips_without_commands_or_too_short_are_refused():
    model, batch = twin(), clips()
    for other in (Batch(states_BFA=batch.states_BFA), Batch(batch.states_BFA[:, :3], commands_BFA=batch.commands_BFA[:, :3])):
        with pytest.raises(ValueError, match="a twin learns from"):
            model.loss(other, generator=torch.Generator())
