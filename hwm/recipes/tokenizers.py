"""The library's own video tokenizers."""

from dataclasses import replace

from hwm.config import DataConfig, RunConfig, TrainConfig
from hwm.model_config import FSQConfig


def fsq_8x8x8() -> RunConfig:
    """Video tokenizer of the library: 8x8x8 with Cosmos' 64 000 codes, 1.9 M parameters, trained on raw video.

    20 minutes on one CPU core that has bfloat16.  The shipped weights, their data and scores:
    hwm/tokenizers/weights/fsq-8x8x8/README.md; so with the other names here.
    """
    return RunConfig(
        recipe="fsq-8x8x8",
        model=FSQConfig(levels=(8, 8, 8, 5, 5, 5), spatial_stride=8, channels=64, depth=2, steady_weight=0.03),
        data=DataConfig(clip="blocks"),
        train=TrainConfig(
            steps=4000, batch_size=8, optimizer="muon", lr=6e-3, betas=(0.9, 0.95), weight_decay=0.01, warmup_steps=100,
            schedule="linear", ema=0.998, precision="auto", validate_every=500, validate_clips=64, checkpoint_every=250,
            sample_every=1000, log_every=50,
        ),
    )


def continuous_8x8x8() -> RunConfig:
    """Continuous video tokenizer of the library: 8x8x8 with 16 channels as Cosmos CV, 1.9 M parameters."""
    quantised = fsq_8x8x8()
    assert isinstance(quantised.model, FSQConfig)
    model = replace(quantised.model, levels=(5,) * 16, continuous=True, latent_noise=0.1)
    return replace(quantised, recipe="continuous-8x8x8", model=model)


def continuous_4x8x8() -> RunConfig:
    """Continuous video tokenizer of the library by Wan's clock: 21 frames, every fourth of 77, to 6 latents of 16 channels."""
    blocks = continuous_8x8x8()
    assert isinstance(blocks.model, FSQConfig)
    model = replace(blocks.model, temporal_stride=4, block=21)
    return replace(blocks, recipe="continuous-4x8x8", model=model, data=DataConfig(clip="sampling"))


def fsq_8x4x4() -> RunConfig:
    """fsq-8x8x8 for small frames: a token covers 4x4 pixels, so that there are four times as many."""
    return _for_small_frames(fsq_8x8x8())


def continuous_8x4x4() -> RunConfig:
    """continuous-8x8x8 for small frames: a latent covers 4x4 pixels, so that there are four times as many."""
    return _for_small_frames(continuous_8x8x8())


def fsq_tiny() -> RunConfig:
    """Twin of fsq-8x8x8 for tests: 8 channels, seconds on a CPU."""
    return RunConfig(
        recipe="fsq-tiny", model=FSQConfig(levels=(8, 5, 5), channels=8, depth=1), data=DataConfig(clip="blocks"),
        train=TrainConfig(steps=20, batch_size=2, lr=3e-3, validate_every=10, validate_clips=4, checkpoint_every=10),
    )


def _for_small_frames(coarse: RunConfig) -> RunConfig:
    assert isinstance(coarse.model, FSQConfig)
    model = replace(coarse.model, spatial_stride=4)
    return replace(coarse, recipe=coarse.recipe.replace("8x8x8", "8x4x4"), model=model, train=replace(coarse.train, steps=2000))


RECIPES = (fsq_8x8x8, continuous_8x8x8, continuous_4x8x8, fsq_8x4x4, continuous_8x4x4, fsq_tiny)
