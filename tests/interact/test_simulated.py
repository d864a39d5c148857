"""The simulator in the place of a dream: the same spaces and starts, and it goes where it is told."""

import warnings

import numpy as np
import pytest

import hwm

pytest.importorskip("gymnasium")


@pytest.fixture(scope="module")
def both(worlds, simulated):
    options = {"frames": 6, "groups": ["left_arm"], "samples": 1, "render_mode": "rgb_array"}
    return [hwm.make_env(worlds["direct"], data=simulated, world=name, **options) for name in ("dream", "simulator")]


def test_dream_and_simulator_begin_in_the_same_moment_and_part(both):
    dream, sim = both
    assert dream.observation_space == sim.observation_space and dream.action_space == sim.action_space
    begun = [env.reset(seed=3) for env in both]
    (dreamed, told), (simulated, same) = begun
    assert told == {"clip": same["clip"], "states_are": "commanded"} and same["states_are"] == "measured"
    assert np.array_equal(dreamed["states"], simulated["states"])
    levels = dreamed["frame"].astype(float), simulated["frame"].astype(float)
    assert np.abs(levels[0] - levels[1]).mean() < 4  # the recording went through a video file
    control = dream.unwrapped.control
    arm = list(control.rows)
    action = np.where(simulated["states"][arm] < (control.low + control.high)[arm] / 2, 1, -1).astype(np.float32)
    after = [[env.step(action) for _ in range(5)][-1] for env in both]
    commanded, measured = (found[0]["states"] for found in after)
    asked, left = np.abs(commanded - simulated["states"])[arm].mean(), np.abs(commanded - measured)[arm].mean()
    assert asked > 0.01 and left < asked / 2  # radians
    others = [i for i in range(21) if i not in arm]
    assert np.abs(measured - simulated["states"])[others].max() < 0.1
    assert all(len(found[4]["frames"]) == 6 for found in after)
    again, _ = sim.reset(seed=3)
    assert np.array_equal(again["frame"], simulated["frame"])


def test_many_simulators_are_each_what_one_is_alone(both):
    sim = both[1]
    options = {"data": sim.unwrapped.dataset.root, "frames": 2, "groups": ["left_arm"], "num_envs": 2, "horizon": 1}
    many, dreamed = (hwm.make_env(sim.unwrapped.world, world=name, **options) for name in ("simulator", "dream"))
    assert many.action_space == dreamed.action_space and many.observation_space == dreamed.observation_space
    begun, _ = many.reset(seed=2)
    alone, _ = sim.reset(seed=3)
    assert np.array_equal(begun["frame"][1], alone["frame"]) and np.array_equal(begun["states"][1], alone["states"])
    _, _, _, cut, info = many.step(np.zeros(many.action_space.shape, np.float32))
    assert cut.all() and info["why_ended"].tolist() == ["horizon"] * 2 and info["frames"].shape == (2, 2, 32, 32, 3)
    many.close()


def test_gymnasium_finds_nothing_wrong_with_the_simulator(both):
    from gymnasium.utils.env_checker import check_env

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # states have no bounds, which it finds unusual
        check_env(both[1].unwrapped, skip_render_check=True)
    with pytest.raises(TypeError, match="dount: no option of an environment"):
        type(both[1].unwrapped)(both[1].unwrapped.world, both[1].unwrapped.dataset.root, dount="x")
    both[1].close()
