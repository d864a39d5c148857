"""One small dataset of the simulated robot, and one scene, shared by the tests of this folder."""

import pytest

pytest.importorskip("mujoco", reason="the simulator's packages are not installed")



@pytest.fixture(scope="session")
def settings():
    """What `dataset` was made with."""
    return {
        "minutes": 6 / 60, "val_minutes": 3 / 60, "size": 64, "seed": 5, "difficulty": 0.5, "segment_seconds": (1.2, 1.8),
        "test_clips": 2
    }


@pytest.fixture(scope="session")
def dataset(tmp_path_factory, settings):
    """Folder with train (6 s), val, val_unseen (3 s each) and two test clips."""
    from hwm.sim.simulate import simulate

    out = tmp_path_factory.mktemp("simulated")
    simulate(out, **settings, workers=1)
    return out


@pytest.fixture
def tiny():
    """Settings of datasets that only the orchestration is tested on: short segments in four shards."""
    return {"minutes": 1.5 / 60, "val_minutes": 1.5 / 60, "size": 64, "seed": 3, "segment_seconds": (0.7, 0.8)}


@pytest.fixture(scope="session")
def scene():
    from hwm.sim.home.scene import build_scene

    return build_scene(11, 12, texture_size=16)


@pytest.fixture
def robot(scene):
    """A robot that stands in front of the table; the scene's model is shared, its state is not."""
    import numpy as np

    from hwm.sim.body.humanoid import FULL_BODY, Humanoid

    robot = Humanoid(scene, np.random.default_rng(0), FULL_BODY)
    robot.put(0, 0, 0)
    return robot
