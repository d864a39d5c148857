"""The environments as policies of LeRobot meet them: names, a command a step, success.  Its settings need LeRobot itself."""

import numpy as np
import pytest
from refusing import refused

import hwm

pytest.importorskip("gymnasium")
from lerobot_env_hwm import ForPolicies


def third(moment):
    """Whether the first state was asked to be low in the third step."""
    return moment.step == 3 and moment.action[0, 0] < 0


def made(worlds, place, **options):
    given = {"data": place.raw, "control": "commands", "frames": 4, "horizon": 5, "ends": third, "render_mode": "rgb_array"}
    return hwm.make_env(worlds["direct"], num_envs=2, autoreset_mode="SameStep", **given | options)


def test_what_a_policy_sees_and_says(worlds, place):
    env = ForPolicies(made(worlds, place), camera="head", steps=5, task="dream", instruction="lift it")
    seen, _ = env.reset(seed=[3, 4], options={"lerobot_new_rollout": True})
    assert env.observation_space.contains(seen) and env.action_space.shape == (2, 25)
    assert seen["pixels"]["head"].shape == (2, 32, 32, 3) and seen["agent_pos"].shape == (2, 25)
    assert env.call("_max_episode_steps") == (5, 5) and env.get_attr("task") == ("dream", "dream")
    assert env.call("task_description")[1] == "lift it" and np.stack(env.call("render")).shape == (2, 32, 32, 3)
    with pytest.raises(AttributeError):
        env.get_attr("no_such_thing")
    low, high = env.action_space.low, env.action_space.high
    commands = np.random.default_rng(0).uniform(low, high).astype(np.float32)
    after = env.step(commands)[0]
    np.testing.assert_allclose(after["agent_pos"], commands, rtol=1e-6)
    whole = made(worlds, place)
    whole.reset(seed=[3, 4])
    assert np.array_equal(whole.step(commands[:, None].repeat(4, 1))[0]["frame"], after["pixels"]["head"])
    refused("commands of shape .2, 25., got .25,.", env.step, commands[0])
    plain = ForPolicies(made(worlds, place), camera="", steps=5, task="dream", instruction="")
    assert plain.reset(seed=0)[0]["pixels"].shape == (2, 32, 32, 3) and plain.call("task_description") == ("dream",) * 2


def test_success_is_told_when_an_episode_ends(worlds, place):
    env = ForPolicies(made(worlds, place), camera="", steps=5, task="dream", instruction="")
    env.reset(seed=0)
    commands = np.zeros((2, 25), np.float32)
    commands[0, 0], commands[1, 0] = env.action_space.low[0, 0], env.action_space.high[0, 0]
    told = [env.step(commands)[1:] for _ in range(5)]
    assert [info["is_success"].tolist() for *_, info in told] == [[False] * 2] * 2 + [[True, False]] + [[False] * 2] * 2
    assert told[2][3]["final_info"]["is_success"].tolist() == [True, False]
    assert told[4][2].tolist() == [False, True] and not told[4][3]["final_info"]["is_success"].any()  # cut off, no success


def test_its_settings_are_those_of_lerobot(place):
    pytest.importorskip("lerobot", reason="LeRobot is not installed")
    from lerobot.envs.factory import make_env, make_env_config
    from lerobot.envs.utils import env_to_policy_features

    options = {"run": str(place.direct), "data": str(place.raw), "device": "cpu", "camera": "head", "groups": ("left_arm",)}
    settings = make_env_config("hwm", success="test_lerobot_env:third", episode_length=7, **options)
    features = {name: feature.shape for name, feature in env_to_policy_features(settings).items()}
    assert features == {"action": (7,), "observation.state": (25,), "observation.images.head": (3, 32, 32)}
    env = make_env(settings, n_envs=2)["hwm"][0]
    assert env.num_envs == 2 and env.call("_max_episode_steps") == (7, 7) and settings.fps == 30
    refused("--env.run names", make_env_config, "hwm")
    refused("--env.task must be dream or simulator", make_env_config, "hwm", task="moon", **options)
