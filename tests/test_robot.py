"""The state vector and its normalisation; another robot from its data to its run."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from refusing import refused

from hwm.cli import main
from hwm.config import override, to_toml
from hwm.data.dataset import check_rows
from hwm.data.onex import open_dataset
from hwm.data.writers import RawShardWriter, write_dataset_metadata
from hwm.nn.skeleton import Bones
from hwm.recipes import recipe
from hwm.robot import EVE, NO_SKELETON, ROBOTS, normalisation, read_embodiment
from hwm.runs import fitted, load_run, open_clips


def test_eve_is_the_published_order():
    assert EVE.dim == 25 and EVE.names[3] == "KNEE_PITCH" and EVE.names[13] == "RIGHT_SHOULDER_PITCH"
    assert EVE.names[20:] == ("NECK_PITCH", "LEFT_HAND_CLOSURE", "RIGHT_HAND_CLOSURE", "LINEAR_VELOCITY", "ANGULAR_VELOCITY")
    assert EVE.raw == (21, 22) and EVE.units[23:] == ("m/s", "rad/s")


def test_normalisation_gives_unit_variance_and_leaves_raw_and_still_dimensions():
    rng = np.random.default_rng(0)
    states = rng.normal(np.arange(25), np.linspace(0.1, 2, 25), (20000, 25))
    states[:, 4] = 7.0
    shift, scale = normalisation(states.mean(0), states.std(0))
    out = (states - shift) * scale
    moving = [i for i in range(25) if i not in (4, 21, 22)]
    assert np.allclose(out[:, moving].mean(0), 0, atol=1e-3) and np.allclose(out[:, moving].std(0), 1, atol=1e-3)
    assert np.allclose(out[:, 4], 0, atol=1e-5) and scale[4] == 1
    assert np.array_equal(out[:, 21:23], states[:, 21:23])


def test_an_embodiment_from_a_file(tmp_path):
    path = tmp_path / "robot.toml"
    path.write_text('name="arm"\nnames=["a","b"]\nunits=["rad","m"]\nraw=[1]\nmean=[0,1]\nstd=[1,2]\n')
    assert read_embodiment(path).dim == 2 and read_embodiment(path).raw == (1,)
    path.write_text('name="arm"\nnames=["a"]\nunits=["rad"]\nmean=[0,1]\nstd=[1]\n')
    refused(r"robot\.toml.*differ in length", read_embodiment, path)
    path.write_text('name="arm"\n')
    refused("'names' is missing", read_embodiment, path)


@pytest.mark.parametrize("path", sorted(ROBOTS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_known_robot_tells_what_its_rows_are_and_which_part_they_move(path, tmp_path):
    robot = read_embodiment(path)
    assert "other" not in robot.kinds and sorted(i for rows in robot.groups.values() for i in rows) == list(range(robot.dim))
    assert set(robot.groups) <= {"legs", "left_arm", "right_arm", "hands", "head", "base"}
    assert {robot.kinds[i] for i in robot.groups["hands"]} == {"closure"}
    (tmp_path / "robot.toml").write_text(to_toml(robot))
    assert read_embodiment(tmp_path / "robot.toml") == robot
    old = (line for line in to_toml(robot).partition("[groups]")[0].splitlines() if not line.startswith(("hz", "limits")))
    (tmp_path / "robot.toml").write_text("\n".join(old))
    assert read_embodiment(tmp_path / "robot.toml") == robot, "what an older file leaves out is the known robot's"


def test_the_g1_hangs_together_as_it_is_described():
    """With all joints at 0: elbows where others computed them from Unitree's description, forearms forward, both sides alike."""
    skeleton = read_embodiment(ROBOTS / "unitree-g1-inspire.toml").skeleton
    plain = replace(
        skeleton, fovy=90.0, places=((0.0, 0.0, 0.0), *skeleton.places[1:]),
        rests=tuple(0.0 if joint < 3 else rest for joint, rest in enumerate(skeleton.rests)),
    )
    right, down, ahead = Bones(plain, size=(64, 64), patch=8).points(torch.zeros(26)).T
    left_elbow, left_wrist, right_elbow = 8, 11, 24
    for elbow, side in ((left_elbow, -1), (right_elbow, 1)):
        found = torch.stack([ahead, right, down], -1)[elbow]
        assert found.tolist() == pytest.approx([0.0158 + 0.004, side * 0.1468, -0.1052 + 0.044], abs=2e-4)
    assert ahead[left_wrist] - ahead[left_elbow] == pytest.approx(0.184, abs=1e-4)
    halves = torch.stack([ahead, right, down], -1)[3:].chunk(2)
    assert torch.allclose(halves[0], halves[1] * torch.tensor([1, -1, 1]), atol=1e-6)


ONE_JOINT = "[skeleton]\nparents=[-1]\nplaces=[[1, 2, 3]]\naxes=[[0, 1, 0]]\nrests=[0]\n"


def test_a_skeleton_goes_with_the_states_that_turn_it(tmp_path):
    path = tmp_path / "robot.toml"
    path.write_text('name="arm"\nnames=["x","a.turn","b.turn"]\nunits=["m","rad","rad"]\n' + ONE_JOINT + 'states=["a.turn"]')
    robot = read_embodiment(path)
    assert robot.skeleton.states == (1,) and robot.part("a").skeleton.states == (0,) and robot.part("b").skeleton == NO_SKELETON
    path.write_text(to_toml(robot))
    assert read_embodiment(path) == robot and "skeleton" not in robot.meaning
    model = fitted(override(recipe("direct-tiny"), [f"data.train={json.dumps(str(tmp_path))}"])).model
    assert model.skeleton == robot.skeleton and model.state_dim == 3


def test_groups_by_name_and_mistakes_in_them(tmp_path):
    path = tmp_path / "robot.toml"
    arm = 'name="arm"\nnames=["a","b"]\nunits=["deg","?"]\n'
    path.write_text(arm + 'limits=[[-1, 1], [-inf, inf]]\nraw=["b"]\nhz=15\n[groups]\n"left arm"=["b", 0]\n')
    robot = read_embodiment(path)
    assert (robot.groups, robot.raw, robot.hz, robot.kinds) == ({"left arm": (1, 0)}, (1,), 15, ("angle", "other"))
    path.write_text(to_toml(robot))
    assert read_embodiment(path) == robot
    for more, told in {
        '[groups]\narm=["c"]': "key 'c' is none of its names", "[groups]\narm=[2]": "groups.arm indices outside 0..1",
        "limits=[[0, 1]]": "limits of 1 dimensions, it has 2", "limits=[[1, 0], [0, 1]]": "the limits of a are no low and high",
        "hz=1.5": "hz must be a whole number", "group=1": "unknown key 'group'",
        "[skeleton]\nbone=1": "unknown key 'skeleton.bone'", "[skeleton]\nparents=[-1]": "differ in length",
        ONE_JOINT + 'states=["c"]': "key 'c' is none of its names", ONE_JOINT + "states=[2]": "skeleton.states outside -1..1",
        ONE_JOINT.replace("[-1]", "[0]") + "states=[0]": "must be an earlier one",
        ONE_JOINT + "states=[0]\nfovy=0": "fovy must lie",
        ONE_JOINT.replace("[[0, 1, 0]]", "[[0, 2, 0]]") + "states=[0]": "axes must have length 1",
        ONE_JOINT.replace("[[1, 2, 3]]", "[[inf, 0, 0]]") + "states=[0]": "three finite numbers",
        ONE_JOINT + "states=[0]\nbones=[[0, 1]]": "pairs of joints and camera one, 0 to 0",
        ONE_JOINT + "states=[0]\nbones=[[0]]": "pairs of joints", ONE_JOINT + "states=[0.5]": "must be whole numbers",
        ONE_JOINT + "states=[0]\ncamera=true": "must be whole numbers",
    }.items():  # fmt: skip
        path.write_text(arm + more)
        refused(told, read_embodiment, path)


def test_rows_outside_the_limits_are_told(tmp_path):
    rows = np.zeros((20, 8), np.float32)
    rows[:, 3], rows[7, 3] = -1, -90
    found = [f.message for f in check_rows(tmp_path / "states", rows, read_embodiment(ROBOTS / "franka.toml"))]
    assert any("JOINT_4 goes from -90 to -1 rad, the robot's limits are -3.0718 to -0.0698" in text for text in found)
    rows[7, 3] = -2
    assert len(list(check_rows(tmp_path / "states", rows, read_embodiment(ROBOTS / "franka.toml")))) == 1


def test_another_robot_is_one_file_beside_the_data(tmp_path, capsys):
    rng, raw, tokens, run = np.random.default_rng(0), tmp_path / "raw", tmp_path / "tokens", tmp_path / "run"
    raw.mkdir()
    shutil.copy(ROBOTS / "franka.toml", raw / "robot.toml")
    with RawShardWriter(raw, shard=0, height=32, width=32) as writer:
        frames = rng.integers(0, 255, (80, 32, 32, 3), dtype=np.uint8)
        writer.append(frames, rng.normal(size=(80, 8)).astype(np.float32), 0)
    write_dataset_metadata(raw, num_shards=1, num_images=80)
    (raw / "robot.toml").rename(raw / "mine.toml")
    refused("state width 25; it holds 8 a frame: another robot than 1x-eve is described in robot.toml", open_dataset, raw)
    (raw / "mine.toml").rename(raw / "robot.toml")
    assert main(["data", "describe", str(raw), "--sheet", str(tmp_path / "sheet.png")]) == 0
    described = capsys.readouterr().out
    assert "robot: franka-panda" in described and "GRIPPER" in described
    assert main(["tokenize", str(raw), str(tokens), "--workers", "1"]) == 0
    train = ["train", "st-tiny", "--data", str(tokens), "--set", "model.grid=[4,4]", "train.steps=2", "train.validate_every=0"]
    assert main([*train, "--out", str(run)]) == 0
    assert load_run(run).config.model.state_dim == 8
    assert main([*train, "--out", str(run)]) == 0, "the same command finds the run complete"

    capsys.readouterr()
    assert main([*train, "model.state_dim=7", "--out", str(tmp_path / "other")]) == 2
    assert "franka-panda has 8 state dimensions, the model reads 7" in capsys.readouterr().err
    (tokens / "robot.toml").unlink()
    refused("state width 25", open_clips, load_run(run).config, tokens, training=False)


def test_recipes_are_fitted_to_the_robot_of_the_data(tmp_path):
    shutil.copy(ROBOTS / "franka.toml", tmp_path / "robot.toml")
    wan = override(recipe("wan-tiny"), [f"data.train={json.dumps(str(tmp_path))}"])
    assert (fitted(wan).model.state_dim, fitted(wan).model.state_plain) == (8, (7,))
    direct = fitted(override(recipe("direct-tiny"), [f"data.train={json.dumps(str(tmp_path))}"])).model
    assert (direct.state_dim, direct.velocity_rows) == (8, ()), "of a robot that does not drive"
    direct = fitted(override(recipe("direct-tiny"), [f"data.train={json.dumps(str(tmp_path))}"])).model
    assert (direct.state_dim, direct.velocity_rows) == (8, ())
    other = override(wan, ["model.state_dim=9", "model.state_plain=[1]"])
    assert fitted(other) == other, "what was set stays"
    (tmp_path / "robot.toml").unlink()
    assert fitted(wan) == wan
