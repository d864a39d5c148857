import os
import subprocess
import sys

import mujoco
import numpy as np
import pytest

from hwm.sim.renderer import WarpRenderer, arm_geoms, choose_backend, find_gl, lens, quiet_stderr, robot_mask


@pytest.fixture(scope="module")
def pictures(scene):
    """The scene at rest, one ray per pixel twice, and four."""
    data = mujoco.MjData(scene.model)
    data.qpos[scene.model.joint("knee_pitch").qposadr[0]] = 0.9
    data.qpos[scene.model.joint("hip_pitch").qposadr[0]] = -0.45
    data.qpos[scene.model.joint("ankle_pitch").qposadr[0]] = -0.45
    mujoco.mj_forward(scene.model, data)
    plain = WarpRenderer(scene.model, size=64)
    four_rays = WarpRenderer(scene.model, size=64, antialias=True)
    return plain.render(data), plain.render(data), four_rays.render(data)


def test_pictures_show_something_and_repeat(pictures):
    first, again, _ = pictures
    assert first.shape == (64, 64, 3) and first.dtype == np.uint8
    assert first.std() > 20 and 40 < first.mean() < 220
    np.testing.assert_array_equal(first, again)


def test_four_rays_show_the_same_picture_in_more_detail_than_one_behind_the_lens(pictures):
    first, _, four_rays = pictures
    difference = np.abs(first.astype(float) - four_rays).mean()
    assert 0 < difference < 15

    def detail(picture):
        return np.abs(np.diff(picture.astype(float), axis=1)).mean()

    assert detail(first) < detail(four_rays)


def test_the_mask_is_where_the_arms_are_seen(scene):
    """The chest is not marked; marking changes no picture; a raised arm is marked where the picture changes."""
    data = mujoco.MjData(scene.model)
    data.qpos[scene.model.joint("neck_pitch").qposadr[0]] = 0.6
    mujoco.mj_forward(scene.model, data)
    plain, marked = WarpRenderer(scene.model, size=64), WarpRenderer(scene.model, size=64, masks=True)
    before = marked.render(data)
    np.testing.assert_array_equal(before, plain.render(data))
    mask = marked.mask()
    assert plain.mask() is None and mask.shape == (64, 64) and mask.dtype == bool
    assert mask.mean() < 0.1 and not mask[0].any()  # the arms hang down, the chest is below
    data.qpos[scene.model.joint("left_shoulder_pitch").qposadr[0]] = -1.2
    mujoco.mj_forward(scene.model, data)
    after, raised = marked.render(data), marked.mask()
    gained, changed = raised & ~mask, (np.abs(after.astype(int) - before).max(-1) > 8)
    assert gained.sum() > 30 and changed[gained].mean() > 0.9
    robot = arm_geoms(scene.model)
    named = [scene.model.body(int(body)).name for body in scene.model.geom_bodyid[robot]]
    assert {name.partition("_")[0] for name in named} == {"left", "right"} and {"left_upper_arm", "right_thumbtip"} < set(named)
    objects = np.array([[[0, 5], [-1, -1], [int(np.flatnonzero(robot)[0]), 5], [int(np.flatnonzero(robot)[0]), 1]]])
    assert robot_mask(objects, robot).tolist() == [[bool(robot[0]), False, True, False]]


def test_small_frames_are_ray_traced_without_a_probe():
    assert choose_backend("auto", 128) == "disable" == choose_backend("warp", 512)


def test_opengl_is_probed_and_its_absence_explained():
    found = find_gl()
    if found is None:
        assert choose_backend("auto", 256) == "disable"
        with pytest.raises(ValueError, match="OpenGL"):
            choose_backend("gl", 64)
    else:
        assert choose_backend("gl", 64) == found == choose_backend("auto", 256)


def test_native_noise_is_silenced_and_exceptions_are_not(capfd):
    with pytest.raises(RuntimeError, match="heard"), quiet_stderr():
        os.write(2, b"noise")
        raise RuntimeError("heard")
    os.write(2, b"voice")
    assert capfd.readouterr().err == "voice"


def test_the_simulator_is_importable_without_its_packages(tmp_path):
    code = (
        "import sys\n"
        "for name in ('mujoco', 'mujoco_warp', 'warp'): sys.modules[name] = None\n"
        "from hwm.sim.simulate import simulate\n"
        f"simulate({str(tmp_path)!r}, minutes=1)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ValueError: the simulator needs mujoco" in done.stderr.splitlines()[-1]
    assert "pip install 'humanoid-world-models[sim]'" in done.stderr


def test_the_lens_is_the_binomial_blur_and_keeps_light():
    point = np.zeros((7, 7, 1))
    point[3, 3] = 1
    row = np.array([1, 2, 1]) / 4
    assert np.allclose(lens(point)[2:5, 2:5, 0], np.outer(row, row)) and np.isclose(lens(point).sum(), 1)
    assert np.allclose(lens(np.full((5, 6, 3), 0.3)), 0.3)
