"""Small networks that read off a frame what is true of it, to measure predictions by (`hwm evaluate`)."""

from dataclasses import replace

from hwm.config import DataConfig, RunConfig, TrainConfig
from hwm.model_config import ReaderConfig


def robot_mask() -> RunConfig:
    """Reads off a frame of 64x64 which pixels show the robot's arms and hands, 0.70 M parameters.

    Data: raw video with masks, `hwm simulate --masks`, of many rooms.  What it finds in predicted frames is `hwm evaluate`'s
    robot-mask IoU.
    """
    return RunConfig(
        recipe="robot-mask", model=ReaderConfig(frames=1, widths=(48, 80, 112), blur=2.0),
        data=DataConfig(clip="blocks", image_size=64),
        train=TrainConfig(
            steps=2500, batch_size=32, optimizer="muon", lr=6e-3, betas=(0.9, 0.95), weight_decay=0.01, warmup_steps=50,
            schedule="linear", ema=0.99, precision="auto", validate_every=250, validate_clips=64, checkpoint_every=250,
            log_every=50,
        ),
    )


def state_readout() -> RunConfig:
    """Reads off a frame of 64x64 in which state the robot is: any robot, minutes on two CPU cores.

    Data: raw video of any robot, other than what is scored.  `hwm evaluate RUN --readout THIS_RUN` holds what it reads off
    predicted frames against what it reads off true ones.
    """
    mask = robot_mask()
    return replace(mask, recipe="state-readout", model=ReaderConfig(reads="states", frames=1, blur=2.0))


RECIPES = (robot_mask, state_readout)
