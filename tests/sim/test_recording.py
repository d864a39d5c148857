import numpy as np
import pytest

from hwm.sim.behaviours import MENU
from hwm.sim.body.robot import JOINTS, joint_limits
from hwm.sim.home.room import build_room
from hwm.sim.home.scene import Shift, build_scene
from hwm.sim.record import Recording, Segment

FRAMES = 240
LARGEST_JOINT_STEP = 0.35
"""Radians in one frame (10 rad/s): knocks at the end of a hand included."""


def record(segment, **sizes):
    recording = Recording(segment, **{"texture_size": 16, "image_size": 32, **sizes})
    return np.stack(list(recording.steps())), recording


@pytest.fixture(scope="module", params=[False, True], ids=["calm", "full body"])
def recorded(request):
    return record(Segment(room=21, episode=22 + request.param, num_frames=FRAMES, full_body=request.param))


def test_states_are_finite_and_within_the_joint_limits(recorded):
    states, _ = recorded
    assert states.shape == (FRAMES, 25) and states.dtype == np.float32 and np.isfinite(states).all()
    low, high = np.array([joint_limits(name) for name in JOINTS]).T
    assert (states[:, :21] > low - 0.06).all() and (states[:, :21] < high + 0.06).all()
    assert (states[:, 21:23] >= 0).all() and (states[:, 21:23] <= 1).all()
    assert np.abs(states[:, 23]).max() < 1.5 and np.abs(states[:, 24]).max() < 3


def test_nothing_jumps(recorded):
    states, _ = recorded
    assert np.abs(np.diff(states[:, :21], axis=0)).max() < LARGEST_JOINT_STEP


def test_the_robot_is_at_work(recorded):
    """Arms move, and most of the time is spent on skills of the menu."""
    states, recording = recorded
    assert np.abs(np.diff(states[:, 6:20], axis=0)).sum() > 2.0
    starts = [start for start, _ in recording.skills] + [FRAMES]
    spent = {doing: 0 for _, doing in recording.skills}
    for (start, doing), end in zip(recording.skills, starts[1:]):
        assert end > start
        spent[doing] += end - start
    names = {c.skill.__name__.replace("_", " ") for menu in MENU.values() for c in menu} | {"go"}
    assert {doing.split(":")[0] for doing in spent} <= names | {"pause"}
    assert spent.get("pause", 0) + spent.get("idle: idle", 0) < 0.4 * FRAMES


def test_states_do_not_depend_on_the_size_of_pictures_or_textures():
    segment = Segment(room=31, episode=32, num_frames=45, full_body=True)
    small, _ = record(segment)
    large, _ = record(segment, texture_size=64, image_size=256)
    np.testing.assert_array_equal(small, large)


def test_a_shift_changes_what_it_names_and_nothing_else(scene):
    def shifted(**values):
        return build_scene(11, 12, texture_size=16, shift=Shift(**values)).model

    usual, dark, slippery, raised = scene.model, shifted(light=0.5), shifted(friction=0.1), shifted(camera=0.1)
    parts = ("light_diffuse", "light_ambient", "geom_friction", "cam_pos", "cam_mat0", "geom_pos", "qpos0", "mat_rgba")
    changed = {"dark": dark, "slippery": slippery, "raised": raised, "same": shifted()}
    found = {name: [p for p in parts if not np.array_equal(getattr(m, p), getattr(usual, p))] for name, m in changed.items()}
    assert found == {"dark": ["light_diffuse", "light_ambient"], "slippery": ["geom_friction"], "raised": ["cam_pos"], "same": []}
    np.testing.assert_allclose(dark.light_ambient, 0.5 * usual.light_ambient, atol=1e-6)
    np.testing.assert_allclose(slippery.geom_friction, 0.1 * usual.geom_friction)
    np.testing.assert_allclose(raised.cam_pos - usual.cam_pos, [[0, 0, 0.1]], atol=1e-6)


def test_room_and_episode_seeds_are_apart():
    first, second, elsewhere = (build_scene(r, e, texture_size=16) for r, e in ((1, 1), (1, 2), (2, 1)))
    assert first.room is second.room
    kinds = [[(t.kind, t.height) for t in scene.things.values()] for scene in (first, second, elsewhere)]
    assert kinds[0] != kinds[1]
    assert kinds[0][0] == kinds[2][0]
    assert first.room.table != elsewhere.room.table


def test_a_room_has_one_layout_at_every_texture_size():
    small, large = build_room(7, 16), build_room(7, 32)
    assert small.xml == large.xml
    assert small.assets.textures["t_floor"].shape[0] < large.assets.textures["t_floor"].shape[0]


def test_objects_start_on_their_boards(scene):
    import mujoco

    data = mujoco.MjData(scene.model)
    mujoco.mj_forward(scene.model, data)
    room = scene.room
    for name, thing in scene.things.items():
        x, y, z = data.body(name).xpos
        board = room.table if room.table.holds(x, y, margin=0.0) else room.sideboard
        assert board.holds(x, y, margin=0.0)
        assert z - thing.height / 2 == pytest.approx(board.height, abs=0.01)


def test_commands_lie_beside_what_is_written_without_them(tmp_path):
    from contextlib import nullcontext
    from dataclasses import replace

    from hwm.sim.jobs import Job, Studio
    from hwm.sim.plan import Settings, Shard

    work = Shard("train", 0, (Segment(room=3, episode=4, num_frames=9, full_body=True),))
    settings = Settings(minutes=1, val_minutes=1, size=64, seed=0, difficulty=1.0, segment_seconds=(1.0, 2.0), rooms=0,
                        test_clips=0, backend="disable", antialias=False)  # fmt: skip
    studio = Studio("disable", nullcontext())
    for name in ("off", "on"):
        studio.run(Job(replace(settings, commands=name == "on"), work, tmp_path / name), lambda count: None)
    files = {name: {p.relative_to(tmp_path / name): p.read_bytes() for p in (tmp_path / name).rglob("*.*") if p.is_file()}
             for name in ("off", "on")}  # fmt: skip
    new = {path for path in files["on"] if path not in files["off"]}
    changed = {path.parts[0] for path, data in files["off"].items() if files["on"][path] != data}
    assert {path.name for path in new} == {"commands_0.bin"} and changed == {"checksums"}
    states, commands = (np.frombuffer(files["on"][path], "<f4").reshape(9, 25) for path in
                        (next(p for p in files["on"] if p.name == "states_0.bin"), *new))  # fmt: skip
    assert np.abs(commands[:, :21] - states[:, :21]).max() < 0.2 and not np.array_equal(commands, states)
    assert "commands" not in settings.to_dict() and replace(settings, commands=True).to_dict()["commands"] is True
