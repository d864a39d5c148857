"""A world to act in: Gymnasium's own checks, the same bytes for the same seed in any company, rewards, ends, truncation."""

import inspect
import json
import warnings

import numpy as np
import pytest
import torch
from refusing import refused

import hwm

gymnasium = pytest.importorskip("gymnasium")
from gymnasium.utils.env_checker import check_env  # noqa: E402
from gymnasium.vector import AutoresetMode  # noqa: E402

from hwm.interact.control import DreamOptions, MakeOptions, Moment, Options, PictureGoal, StateGoal  # noqa: E402
from hwm.interact.env import DreamEnv, DreamVectorEnv, WorldEnv  # noqa: E402
from hwm.models.twin import Motion  # noqa: E402
from hwm.runs import load_run  # noqa: E402


@pytest.mark.parametrize("name, control", [("direct", "commands"), ("st", "states")])
def test_gymnasium_finds_nothing_wrong(worlds, place, twin, name, control):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # states have no bounds, and commands others than [-1, 1], which it finds unusual
        followed = {"twin": twin.run} if control == "commands" else {}
        env = hwm.make_env(worlds[name], data=place.raw, render_mode="rgb_array", control=control, **followed)
        check_env(env.unwrapped, skip_render_check=True)
    env.reset(seed=0)
    assert env.render().shape == (32, 32, 3)
    frames = env.step(env.action_space.sample())[4]["frames"]
    assert len(frames) == {"direct": 1, "st": 17}[name]
    assert np.array_equal(frames[-1], env.render())


def rollout(env, actions, seed):
    """Observed frames, of every lane, in every step."""
    seen = [env.reset(seed=seed)[0]]
    seen += [env.step(action)[0] for action in actions]
    return np.stack([obs["frame"] for obs in seen]), np.stack([obs["states"] for obs in seen])


@pytest.mark.parametrize("name, options", [
    ("direct", {}), ("st", {"samples": 2, "temperature": 1.0}),
    ("direct", {"twin": True, "doubt": "disagreement", "most_doubt": 1e9}),
])  # fmt: skip
def test_a_seed_gives_the_same_bytes_alone_and_among_eight(worlds, place, twin, name, options):
    options = options | ({"twin": twin.run} if "twin" in options else {})
    actions = np.random.default_rng(0).uniform(-1, 1, (3, 8, 25)).astype(np.float32)
    many = DreamVectorEnv(8, worlds[name], place.raw, **options)
    frames, states = rollout(many, actions, seed=5)
    again, _ = rollout(many, actions, seed=5)
    assert np.array_equal(frames, again) and frames.shape == (4, 8, 32, 32, 3)
    for lane in (0, 3):
        alone = rollout(DreamEnv(worlds[name], place.raw, **options), actions[:, lane], seed=5 + lane)
        assert np.array_equal(alone[0], frames[:, lane]) and np.array_equal(alone[1], states[:, lane])
    one = rollout(DreamVectorEnv(1, worlds[name], place.raw, **options), actions[:, 3:4], seed=8)
    assert np.array_equal(one[0], frames[:, 3:4]) and np.array_equal(one[1], states[:, 3:4])
    assert len({frames[:, lane].tobytes() for lane in range(8)}) > 1


def test_lanes_go_together_or_one_by_one_to_the_same_bytes(worlds, place, monkeypatch):
    world, passes = worlds["st"], []
    of = world.model.predict
    monkeypatch.setattr(world.model, "predict", lambda grids, *a, **o: passes.append(len(grids)) or of(grids, *a, **o))
    actions = np.random.default_rng(0).uniform(-1, 1, (2, 3, 25)).astype(np.float32)
    found = [rollout(DreamVectorEnv(3, world, place.raw, together=how), actions, seed=1) for how in (None, False)]
    assert passes == [3, 3] + 6 * [1] and np.array_equal(found[0][0], found[1][0])
    monkeypatch.setattr(type(world.model), "predicts", "latents")  # whose last bits depend on the company
    assert DreamVectorEnv(3, world, place.raw).together is False


def test_episodes_begin_again_in_each_of_the_three_ways(worlds, place):
    options = {"data": place.raw, "ends": lambda m: m.step == 2 and m.action[0] > 0, "reward": lambda m: float(m.step)}
    action = np.zeros((2, 25), np.float32)
    action[0, 0] = 0.5  # only the first one ends

    def after_the_end(mode):
        env = gymnasium.make_vec("hwm/Dream-v0", num_envs=2, run=worlds["direct"], autoreset_mode=mode, **options)
        env.reset(seed=0)
        env.step(action)
        return env, env.step(action)

    env, (obs, reward, ended, cut, info) = after_the_end(AutoresetMode.NEXT_STEP)
    assert ended.tolist() == [True, False] and reward.tolist() == [2, 2] and not cut.any()
    assert info["why_ended"].tolist() == ["ends", ""]
    _, reward, ended, _, info = env.step(action)
    assert reward.tolist() == [0, 3] and not ended.any() and info["_clip"].tolist() == [True, False]
    assert env.envs[0].steps == 0 and env.envs[1].steps == 3
    assert env.step(action)[1].tolist() == [1, 4]  # lanes of different age

    env, (obs, reward, ended, _, info) = after_the_end(AutoresetMode.SAME_STEP)
    assert ended.tolist() == [True, False] and info["_final_obs"].tolist() == [True, False]
    assert not np.array_equal(info["final_obs"][0]["frame"], obs["frame"][0])
    assert env.step(action)[1].tolist() == [1, 3]

    env, _ = after_the_end(AutoresetMode.DISABLED)
    refused("an episode is over", env.step, action)
    env.reset(options={"reset_mask": np.array([True, False])})
    assert env.step(action)[1].tolist() == [1, 3]


def test_what_an_action_means(worlds, place):
    env = DreamEnv(worlds["direct"], place.raw, frames=6, groups=["left_arm", "base"])
    obs, info = env.reset(options={"clip": 2})
    assert info["clip"] == 2 and env.action_space.shape == (9,)
    control, before = env.control, obs["states"]
    obs, _, _, _, info = env.step(np.full(9, -1, np.float32))
    rows = list(control.rows)
    assert rows == [6, 7, 8, 9, 10, 11, 12, 23, 24] and len(info["frames"]) == 6
    np.testing.assert_allclose(obs["states"][rows], control.low[rows], rtol=1e-5)
    others = [i for i in range(25) if i not in rows]
    assert np.array_equal(obs["states"][others], before[others])
    path = control.path(before, np.ones(9), 4)
    np.testing.assert_allclose(np.diff(path, axis=0), np.diff(path, axis=0)[:1].repeat(3, 0), atol=1e-5)  # a straight line

    env = DreamEnv(worlds["direct"], place.raw, frames=6, control="velocities", speed=0.5, groups=["left_arm", "base"])
    env.reset(options={"clip": 2})
    still = env.step(np.zeros(9, np.float32))[0]["states"]
    assert np.array_equal(still[6:13], before[6:13]) and still[[23, 24]].tolist() == [0, 0]
    moved = env.step(np.full(9, 0.2, np.float32))[0]["states"]
    span = control.high - control.low
    wanted = np.minimum(still[6:13] + 0.2 * 0.5 * span[6:13] * 6 / 30, control.high[6:13])
    np.testing.assert_allclose(moved[6:13], wanted, rtol=1e-4, atol=1e-6)


def test_commands_are_rows_in_the_units_of_the_states(worlds, place):
    env = DreamEnv(worlds["direct"], place.raw, frames=4, control="commands", groups=["left_arm"])
    before = env.reset(options={"clip": 1})[0]["states"]
    rows, control = list(env.control.rows), env.control
    assert env.action_space.shape == (4, 7)
    np.testing.assert_allclose(env.action_space.low[2], control.low[rows], rtol=1e-6)
    asked = np.random.default_rng(0).uniform(env.action_space.low, env.action_space.high).astype(np.float32)
    path = env.path(asked)
    np.testing.assert_allclose(path[:, rows], asked, rtol=1e-6)
    others = [i for i in range(25) if i not in rows]
    assert np.array_equal(path[:, others], np.tile(before[others], (4, 1)))
    assert np.array_equal(env.step(asked)[0]["states"], path[-1])
    refused("4 x 7 finite numbers in the states' range, got shape", env.step, asked[:3])


def test_a_twin_says_where_commands_lead(worlds, twin):
    options = {"data": twin.raw, "frames": 4, "control": "commands"}
    world, actions = worlds["direct"], None
    seen = {}
    for name, more in (("foreseen", {"twin": twin.run}), ("commanded", {})):
        env = hwm.make_env(world, **options, **more).unwrapped
        actions = env.action_space.low + 0.6 * (env.action_space.high - env.action_space.low)
        assert env.reset(options={"clip": 1})[1]["states_are"] == name
        obs, _, _, _, info = env.step(actions)
        seen[name] = obs["states"], info
    shard, first = env.dataset.shards[env.index.shard[1]], env.index.start[1]
    past = slice(first, first + world.context_frames)
    motion = Motion(load_run(twin.run).model)
    motion.reset(torch.tensor(shard.states[past])[None], torch.tensor(shard.commands[past][:-1])[None])
    for row in actions:
        states, spread = motion.step(torch.from_numpy(row)[None])
    (there, info), (asked, bare) = seen["foreseen"], seen["commanded"]
    assert np.array_equal(there, states[0].numpy()) and np.array_equal(info["spread"], spread[0].numpy())
    size = np.sqrt(np.square(spread[0].numpy() * motion.twin.shift_scale[1].numpy()).mean())
    assert info["disagreement"] == pytest.approx(size, rel=1e-5) and size > 0
    assert np.array_equal(asked, actions[-1].astype(np.float32)) and bare["disagreement"] == 0 and not bare["spread"].any()
    assert not np.array_equal(bare["frames"], info["frames"])


def test_an_episode_breaks_off_where_the_twin_disagrees_more_than_it_ever_did(worlds, twin):
    env = DreamEnv(worlds["direct"], twin.raw, frames=4, twin=twin.run, doubt="disagreement")
    scale = json.loads((twin.run / "results.json").read_text())["facts"]["doubt"]["disagreement"]
    assert env.most_doubt == scale["edges"][-1] and len(scale["rms"]) == len(scale["edges"]) + 1
    env.reset(seed=0)
    _, _, _, cut, info = env.step(np.zeros(25))
    assert info["doubt"] == info["disagreement"] > 0
    for most, why in ((info["doubt"], ""), (info["doubt"] / 2, "doubt")):
        env = DreamEnv(worlds["direct"], twin.raw, frames=4, twin=twin.run, doubt="disagreement", most_doubt=most)
        env.reset(seed=0)
        _, _, ended, cut, info = env.step(np.zeros(25))
        assert (info["why_ended"], cut, ended) == (why, bool(why), False)


def test_goals_reward_and_end(worlds, place):
    env = DreamEnv(worlds["direct"], place.raw, horizon=3)
    start, _ = env.reset(options={"clip": 0})
    near = StateGoal(start["states"], rows=(0, 1), within=0.1)
    far = StateGoal(start["states"] + 1)
    picture = PictureGoal(start["frame"], psnr=40)
    moment = Moment(env.seen["frame"], env.seen["states"], np.zeros(25), 0)
    assert near.reached(moment) and near.reward(moment) == 0
    assert not far.reached(moment) and far.reward(moment) == pytest.approx(-1)
    assert picture.reached(moment) and picture.reward(moment) == 0
    small = PictureGoal(start["frame"][::2, ::2])
    refused("picture of a goal must have the shape .* .32, 32, 3., got .16, 16, 3.", small.reward, moment)
    refused("states of a goal .* .25,., got .24,.", StateGoal(start["states"][:24]).reached, moment)
    env.reward, env.ends = far.reward, far.reached
    action = np.zeros(25, np.float32)
    steps = [env.step(action) for _ in range(3)]
    assert all(step[1] < 0 and not step[2] for step in steps) and [step[3] for step in steps] == [False, False, True]
    assert steps[-1][4]["why_ended"] == "horizon"


def test_an_episode_breaks_off_where_the_model_doubts_too_much(worlds, place):
    asked = {"doubt": "ensemble spread", "samples": 3}
    action = np.zeros(25, np.float32)
    env = DreamEnv(worlds["st"], place.raw, most_doubt=1.0, **asked)
    env.reset(seed=0)
    _, _, ended, cut, info = env.step(action)
    assert 0 < info["doubt"] < 1 and not cut and info["why_ended"] == ""
    doubt = info["doubt"]
    env = DreamEnv(worlds["st"], place.raw, most_doubt=doubt / 2, **asked)
    env.reset(seed=0)
    _, _, ended, cut, info = env.step(action)
    assert info["doubt"] == doubt and cut and not ended and info["why_ended"] == "doubt"
    refused("no evaluation calibrated", DreamEnv, worlds["st"], place.raw, **asked)
    scale = {"edges": [doubt / 8, doubt / 4], "rms": [0.1, 0.2, 0.3], "widths": [[0.1] * 3] * 3}
    results = place.st / "results.json"
    results.write_text(json.dumps({"facts": {"doubt": {"ensemble spread": scale}}}))
    assert DreamEnv(worlds["st"], place.raw, **asked).most_doubt == doubt / 4
    results.unlink()


def test_what_does_not_fit_is_refused(worlds, place):
    st, raw = worlds["st"], place.raw
    for options, told in (
        ({"frames": 3}, "the model predicts 17 at once, got 3"), ({"groups": ["tail"]}, "no group 'tail'; it has legs"),
        ({"control": "forces"}, "control must be"), ({"speed": 0}, "speed must be"), ({"horizon": -1}, "0 or more"),
        ({"doubt": "gut feeling"}, "doubt must be one of"), ({"doubt": "ensemble spread"}, "2 for a spread"),
        ({"most_doubt": 0.1}, "goes with doubt"), ({"render_mode": "human"}, "render_mode"),
        ({"doubt": "disagreement"}, "is a twin's; give twin"), ({"twin": place.direct}, "holds a world model, not a twin"),
    ):  # fmt: skip
        refused(told, DreamEnv, st, raw, **options)
    refused("recorded video", DreamEnv, st, place.root / "tokens")
    env = DreamEnv(worlds["direct"], raw)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(25))
    refused("which has clips", env.reset, options={"clip": 10**6})
    env.reset(seed=0)
    refused("25 finite numbers", env.step, np.full(25, np.nan))
    refused("25 finite numbers", env.step, np.zeros(24))
    refused("world must be", hwm.make_env, st, data=raw, world="moon")
    refused("not written by", hwm.make_env, st, data=raw, world="simulator")


def test_what_is_missing_is_named(worlds, place, monkeypatch):
    refused("num_envs must be at least 1, got -1", hwm.make_env, worlds["st"], data=place.raw, num_envs=-1)
    refused("device gpu cannot be used", hwm.make_env, place.st, data=place.raw, device="gpu")
    monkeypatch.setattr("hwm.interact.find_spec", lambda name: None)
    refused("needs gymnasium, not installed here: pip install", hwm.make_env, worlds["st"], data=place.raw)


def test_options_are_typed_as_they_are_taken():
    def taken(of):
        given = inspect.signature(of).parameters.values()
        return {p.name for p in given if p.kind == p.KEYWORD_ONLY}

    assert Options.__annotations__.keys() == taken(WorldEnv)
    assert DreamOptions.__annotations__.keys() == taken(WorldEnv) | taken(DreamEnv)
    assert MakeOptions.__annotations__.keys() == DreamOptions.__annotations__.keys() | taken(DreamVectorEnv)
