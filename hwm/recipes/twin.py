"""The robot's own dynamics: what stands between commands and the states that world models follow."""

from dataclasses import replace

from hwm.config import DataConfig, RunConfig
from hwm.model_config import TwinConfig
from hwm.recipes.twins import TINY_TRAINING


def twin() -> RunConfig:
    """The robot's states from its commands, with their spread: minutes on two CPU cores.

    Data: recordings with commands, as of `hwm simulate --commands`, or LeRobot's with `action`.
    """
    train = replace(TINY_TRAINING, steps=800, batch_size=32, lr=2e-3, weight_decay=0.01, warmup_steps=50, sample_every=0)
    return RunConfig(
        recipe="twin", model=TwinConfig(), data=DataConfig(clip="motion"),
        train=replace(train, ema=0.99, validate_every=200, validate_clips=128, checkpoint_every=200),
    )  # fmt: skip


RECIPES = (twin,)
