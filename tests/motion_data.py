"""Small recordings of a robot of two joints with its commands, in 1X's raw layout."""

import numpy as np

from hwm.config import to_toml
from hwm.data.writers import RawShardWriter, write_dataset_metadata
from hwm.robot import Embodiment

ROBOT = Embodiment("two-joints", ("a", "b"), ("rad", "rad"), (), (0.0, 0.0), (1.0, 1.0))
_random = np.random.default_rng(0)
STATES = [_random.normal(size=(20, 2)).astype(np.float32) for _ in range(3)]
COMMANDS = [_random.normal(size=(20, 2)).astype(np.float32) for _ in range(3)]


def recordings(out, *, states=STATES, commands=COMMANDS, robot=ROBOT):
    """Write a shard a recording into `out`, black pictures beside its rows; commands None: without."""
    out.mkdir(parents=True)
    (out / "robot.toml").write_text(to_toml(robot))
    for index, rows in enumerate(states):
        with RawShardWriter(out, shard=index, height=16, width=16) as writer:
            writer.append(np.zeros((len(rows), 16, 16, 3), np.uint8), rows, index)
            if commands is not None:
                writer.append_commands(commands[index])
    write_dataset_metadata(out, num_shards=len(states), num_images=sum(map(len, states)))
    return out
