"""The training of twins: what every system's small models share, so that they are compared alike."""

from dataclasses import replace

from hwm.config import TrainConfig

TINY_TRAINING = TrainConfig(
    steps=600, batch_size=32, lr=2e-3, betas=(0.9, 0.95), weight_decay=0.1, warmup_steps=50, schedule="cosine", ema=0.99,
    validate_every=300, validate_clips=64, checkpoint_every=150, sample_every=300, log_every=25,
)
"""Minutes on two CPU cores."""
MEDIUM_TRAINING = replace(
    TINY_TRAINING, steps=40_000, lr=5e-4, warmup_steps=500, ema=0.999, precision="bfloat16", validate_every=2000,
    validate_clips=256, checkpoint_every=1000, sample_every=4000, log_every=100,
)
"""About an hour on one GPU."""
