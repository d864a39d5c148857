"""Direct regression of frames: the baseline beside which every other system's score should stand."""

from dataclasses import replace

from hwm.config import DataConfig, RunConfig
from hwm.model_config import DirectConfig
from hwm.recipes.twins import MEDIUM_TRAINING, TINY_TRAINING


def direct_tiny() -> RunConfig:
    """Future frames by one regression from seen frames and states, at 64x64: minutes on two CPU cores, 4.8 M parameters.

    Where the robot's bones are known 5.1 M.  Data: raw video, `hwm simulate` as it is; nothing is tokenized.  bfloat16, where
    the machine multiplies in it (AMX, AVX-512 BF16), more than halves the time of a step.  What it reaches on the demo's 7.5
    minutes of robot time, 500 steps in minutes of two cores, is in docs/figures.md.
    """
    train = replace(TINY_TRAINING, steps=1200, batch_size=24, optimizer="muon", lr=3e-3, weight_decay=0.05, warmup_steps=100)
    return RunConfig(
        recipe="direct-tiny", tokenizer="pixels", model=DirectConfig(refine=48, mounting=40),
        data=DataConfig(clip="sampling", image_size=64),
        train=replace(train, ema=0.998, precision="auto", validate_every=400, checkpoint_every=100, sample_every=400),
    )


def direct_medium() -> RunConfig:
    """Future frames by one regression from seen frames and states, at 128x128, twin for one GPU.

    Data: raw video at 128x128 or more, as of `hwm simulate --size 128`.
    """
    tiny = direct_tiny()
    assert isinstance(tiny.model, DirectConfig)
    model = replace(tiny.model, grid=(128, 128), num_layers=8, num_heads=8, width=512, map_hidden=1024, refine=64, pairs=4)
    train = replace(MEDIUM_TRAINING, batch_size=64, lr=4e-4, weight_decay=0.05)
    data = replace(tiny.data, image_size=128)
    return replace(tiny, recipe="direct-medium", model=model, data=data, train=train)


RECIPES = (direct_tiny, direct_medium)
