"""A trained world from Python: what goes in, what comes out, and what is said of a mistake."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from refusing import refused

import hwm
from hwm.data.onex import open_dataset


@pytest.fixture(scope="module")
def clip(place):
    shard = open_dataset(place.raw).shards[0]
    return np.array(shard.read(0, 51)), np.array(shard.states[:80])


@pytest.mark.parametrize("name", ["direct", "st"])
def test_one_clip_and_the_same_in_a_batch_as_numpy_and_torch(worlds, clip, name):
    world, (frames, states) = worlds[name], clip
    past = world.context_frames
    frames, rows = frames[:past], states[: past + 8]
    alone = world.predict(frames, rows, num_frames=8, samples=2, seed=4)
    assert alone.frames.shape == (2, 8, 32, 32, 3) and alone.frames.dtype == np.uint8
    twice = torch.from_numpy(np.stack([frames, frames]))
    batch = world.predict(twice, np.stack([rows, rows]), num_frames=8, samples=2, seed=3)
    assert batch.frames.shape == (2, 2, 8, 32, 32, 3) and np.array_equal(batch.frames[1], alone.frames)
    floats = world.predict(frames / 255, torch.from_numpy(rows).double(), num_frames=8, samples=2, seed=4)
    assert np.array_equal(floats.frames, alone.frames)
    levels = alone.frames.astype(np.float64)
    assert np.array_equal(alone.mean, np.floor(levels.mean(0) + 0.5)) or np.abs(alone.mean - levels.mean(0)).max() <= 0.5
    np.testing.assert_allclose(alone.spread, np.sqrt(levels.var(0, ddof=1).mean(-1)), atol=1e-4)
    assert batch.mean.shape == (2, 8, 32, 32, 3) and batch.spread.shape == (2, 8, 32, 32)
    assert (alone.spread.max() > 0) == (name == "st")  # direct leaves nothing to chance
    other = world.predict(frames, rows, num_frames=8, samples=2, seed=5)
    assert np.array_equal(other.frames, alone.frames) == (name == "direct")
    refused("one sample has no spread", lambda: world.predict(frames, rows, num_frames=8).spread)


def test_a_dream_goes_on_step_by_step_and_may_part(worlds, clip):
    for world in worlds.values():
        frames, states = clip
        past, step = world.context_frames, world.step_frames
        dream = world.dream(frames[:past], states[:past], seed=1)
        assert dream.step_frames == step
        first = dream.step(states[past : past + step])
        whole = world.predict(frames[:past], states[: past + step], num_frames=step, seed=1)
        assert np.array_equal(first.frames, whole.frames)
        other = dream.copy()
        left, right = dream.step(states[:step]), other.step(states[step : 2 * step])
        assert left.frames.shape == (1, step, 32, 32, 3) and not np.array_equal(left.frames, right.frames)
        refused("states of 1 clips", dream.step, states[:0])
        refused("one row of states for each", world.dream, frames[:past], states[: past + 1])
    refused("reaches 60 frames", worlds["direct"].dream, frames[:9], states[:9], step_frames=61)
    refused("predicts 17 frames a step", worlds["st"].dream, frames, states[:51], step_frames=3)


def test_pictures_of_another_size_are_resized_and_that_is_said(worlds, clip):
    world, (frames, states) = worlds["direct"], clip
    exact = world.predict(frames[:9], states[:12], num_frames=3)
    with pytest.warns(UserWarning, match="64x64 pixels were resized to 32x32"):
        large = world.predict(frames[:9].repeat(2, 1).repeat(2, 2), states[:12], num_frames=3)
    assert np.array_equal(large.frames, exact.frames)
    with pytest.warns(UserWarning, match="16x16 pixels were resized to 32x32"):
        world.predict(frames[:9, ::2, ::2], states[:12], num_frames=3)
    wide = np.pad(frames[:9], ((0, 0), (0, 0), (11, 11), (0, 0)), constant_values=99)
    with pytest.warns(UserWarning, match="32x54 pixels were cut to their centre, 32x32, and resized to 32x32"):
        assert np.array_equal(world.predict(wide, states[:12], num_frames=3).frames, exact.frames)
    tall = wide.swapaxes(1, 2).repeat(2, 1).repeat(2, 2)
    with pytest.warns(UserWarning, match="108x64 pixels were cut to their centre, 64x64, and resized to 32x32"):
        turned = world.predict(tall, states[:12], num_frames=3)
    assert np.array_equal(turned.frames, world.predict(frames[:9].swapaxes(1, 2), states[:12], num_frames=3).frames)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        world.predict(frames[:9], states[:12], num_frames=3)


def test_a_mistake_is_named(worlds, clip):
    world, (frames, states) = worlds["direct"], clip
    frames, rows = frames[:9], states[:12].copy()
    broken, unseen = rows.copy(), (frames / 255)
    broken[7, 3], unseen[2, 0, 0, 0] = np.nan, np.nan
    for wrong, given, told in (
        (frames.astype(np.int64), rows, "uint8, or floats from 0 to 1, got int64"),
        (frames.astype(np.float32), rows, "colours from 0 to 1, got from .* to"),
        (unseen, rows, "frames must be finite"),
        (frames[0], rows, r"got \(32, 32, 3\); the last 9 pictures"),
        (frames.transpose(0, 3, 1, 2), rows, "colours come last"),
        (frames[:, :0], rows, r"got \(9, 0, 32, 3\), which are no pixels"), (frames[..., :1], rows, r"got \(9, 32, 32, 1\)"),
        (frames[:5], rows, "starts from 9 frames, got 5"),
        (["a"], rows, "frames must be an array of numbers, got list"),
        ([[1], [1, 2]], rows, "list of unequal rows"),
        (frames, rows[:11], "need 12 rows of states, one a frame, got 11"),
        (frames, rows[:, :24], r"shape \(rows, 25\), the states of 1x-eve, HIP_YAW to ANGULAR_VELOCITY, got float32 \(12, 24\)"),
        (frames, rows[None], r"shape \(rows, 25\)"),
        (frames[None], rows, r"shape \(clips, rows, 25\)"),
        (frames[None], np.stack([rows, rows]), "frames of 1 clips need states of as many, got 2"),
        (frames, broken, "states must be finite, row 7 is not"),
        (frames[None], broken[None], "row 7 of clip 0"),
    ):  # fmt: skip
        refused(told, world.predict, wrong, given, num_frames=3)
    refused("num_frames must be at least 1", world.predict, frames, rows, num_frames=0)
    refused("samples at least 1", world.predict, frames, rows, num_frames=1, samples=0)
    refused("no setting of a scoring", world.evaluate, "x", out="y", protokol="hwm")
    refused("device .*cannot be used", hwm.load, "nothing", device="abacus")


def test_importing_is_light_and_every_public_name_is_there():
    code = (
        "import hwm, sys, inspect; heavy = sorted({'torch', 'numpy', 'gymnasium', 'mujoco'} & set(sys.modules))\n"
        "import hwm.evaluate.intervals\n"  # which gives the name to the room, before anyone asked for it
        "print(heavy, *(f'{n} {callable(getattr(hwm, n))}' for n in hwm.__all__[1:]), set(hwm.__all__) <= set(dir(hwm)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] evaluate True load True make_env True simulate True True"
    with pytest.raises(AttributeError, match="no attribute 'laod'; it offers __version__, evaluate, load, make_env"):
        hwm.laod  # noqa: B018


def test_scores_of_a_run_from_python(place, tmp_path):
    scores = hwm.evaluate(place.root / "st", data=place.root / "tokens", out=tmp_path, clips=2, batch_size=2, device="cpu")
    assert scores.of(scores.headline, "psnr").mean > 0 and (tmp_path / "report.html").is_file()
    refused("protokol: no setting of a scoring; there are protocol, clips", hwm.evaluate, "x", data="d", out="y", protokol="hwm")
    refused("device gpu cannot be used", hwm.evaluate, place.root / "st", data="d", out=tmp_path, device="gpu")
    refused("no run folder", hwm.evaluate, place.root, data="d", out=tmp_path)
