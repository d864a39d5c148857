"""The state vector and its normalisation; another robot from its data to its run."""

import json
import shutil

import numpy as np
from refusing import refused

from hwm.cli import main
from hwm.config import override
from hwm.data.writers import RawShardWriter, write_dataset_metadata
from hwm.recipes import recipe
from hwm.robot import EVE, ROBOTS, normalisation, read_embodiment
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


def test_another_robot_is_one_file_beside_the_data(tmp_path, capsys):
    rng, raw, tokens, run = np.random.default_rng(0), tmp_path / "raw", tmp_path / "tokens", tmp_path / "run"
    raw.mkdir()
    shutil.copy(ROBOTS / "franka.toml", raw / "robot.toml")
    with RawShardWriter(raw, shard=0, height=32, width=32) as writer:
        frames = rng.integers(0, 255, (80, 32, 32, 3), dtype=np.uint8)
        writer.append(frames, rng.normal(size=(80, 8)).astype(np.float32), 0)
    write_dataset_metadata(raw, num_shards=1, num_images=80)
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
