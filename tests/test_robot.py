"""The state vector and its normalisation."""

import numpy as np
import pytest

from hwm.robot import EVE, normalisation, read_embodiment


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
    with pytest.raises(ValueError, match=r"robot\.toml.*differ in length"):
        read_embodiment(path)
    path.write_text('name="arm"\n')
    with pytest.raises(ValueError, match="'names' is missing"):
        read_embodiment(path)
