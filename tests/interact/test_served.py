"""Another package serves the environments unchanged to other processes: what arrives is what is seen here, to the byte."""

import numpy as np
import pytest

import hwm

rlmesh = pytest.importorskip("rlmesh")
pytest.importorskip("gymnasium")


@pytest.mark.filterwarnings("ignore:no workflow edition declared")
@pytest.mark.parametrize("num_envs", [0, 2])
def test_rlmesh_serves_it_unchanged(worlds, place, twin, num_envs):
    from rlmesh.numpy import RemoteEnv, RemoteVectorEnv

    def made():
        return hwm.make_env(worlds["direct"], data=place.raw, twin=twin.run, frames=3, horizon=3, num_envs=num_envs)

    server, near = rlmesh.EnvServer(made()), made()
    server.start()
    far = (RemoteVectorEnv if num_envs else RemoteEnv)(server.address)
    try:
        assert str(far.action_space) == str(near.single_action_space if num_envs else near.action_space)
        actions = np.random.default_rng(0).uniform(-1, 1, (3, *near.action_space.shape)).astype(np.float32)
        pairs = [(far.reset(seed=5)[0], near.reset(seed=5)[0])]
        steps = [(far.step(action), near.step(action)) for action in actions]
        pairs += [(there[0], here[0]) for there, here in steps]
        for there, here in pairs:
            assert all(np.array_equal(there[key], here[key]) for key in ("frame", "states"))
        for there, here in steps:
            assert all(np.array_equal(a, b) for a, b in zip(there[1:4], here[1:4]))
            assert np.array_equal(there[4]["frames"], here[4]["frames"])
        assert np.all(steps[-1][0][3]) and list(np.atleast_1d(steps[-1][0][4]["why_ended"])) in (["horizon"], ["horizon"] * 2)
    finally:
        far.close()
        server.shutdown()
