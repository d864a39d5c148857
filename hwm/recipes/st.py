"""The ST-Transformer of the compression track and its twins."""

from dataclasses import replace

from hwm.config import DataConfig, RunConfig, TrainConfig
from hwm.model_config import STConfig
from hwm.recipes.twins import MEDIUM_TRAINING


def st_revontuli() -> RunConfig:
    """ST-Transformer of the 1X compression track as published: 24 layers x 512, 136.1 M parameters.

    Data: 1X v2.0 tokens (train_v2.0, val_v2.0), 306 k clips.  80 epochs at batch 160 are 153 000 steps; published
    on 8 B200 in 17 h, validation CE 4.92 (autoregressive), test top-500 CE 6.64 (Revontuli report, Table 1).
    Ours, for the report prints none: clipping of the gradient at a norm of 1, the state MLP's hidden width of 2048 (it gives
    the 136 M), and that a grid sees the mean of its frames' rows, whose order is lost, so that 29 of 64 rows lie past the last.
    One process holds batch 20 x 8 accumulated micro-batches; our arithmetic for one H200 at 40 % of peak: 79 h, 94 GB.
    """
    return RunConfig(
        recipe="st-revontuli",
        model=STConfig(),
        data=DataConfig(clip="block_pairs", overlap=False),
        train=TrainConfig(
            steps=153_000, batch_size=20, accumulate=8, lr=8e-4, betas=(0.9, 0.95), weight_decay=0.05, warmup_steps=2000,
            schedule="linear", precision="bfloat16", validate_every=2000, validate_clips=512, checkpoint_every=1000,
        ),
    )


def st_tiny() -> RunConfig:
    """Twin of st-revontuli for tests: 2 layers x 32 on 8x8 grids, seconds on a CPU."""
    return RunConfig(
        recipe="st-tiny",
        tokenizer="fsq-8x8x8",
        model=STConfig(
            vocab_size=64000, factors=(8, 8, 8, 5, 5, 5), grid=(8, 8), num_layers=2, num_heads=2, width=32, state_hidden=64,
            num_states=34,
        ),
        data=DataConfig(clip="block_pairs"),
        train=TrainConfig(
            steps=20, batch_size=4, lr=2e-3, warmup_steps=4, validate_every=10, validate_clips=4, checkpoint_every=10
        ),
    )


def st_demo() -> RunConfig:
    """Twin of st-revontuli for the demo: learns the simulated robot's camera at 64x64 in minutes on two CPU cores.

    The published model, smaller, with what pays when clips are few: the vocabulary factorised into the quantiser's
    digits, states that modulate every block, a loss on the expected codes beside the cross-entropy (all ours), loss on
    all grids and scheduled sampling, without which the greedy rollout hardly moves.
    """
    return RunConfig(
        recipe="st-demo",
        tokenizer="fsq-8x8x8",
        model=STConfig(
            vocab_size=64000, factors=(8, 8, 8, 5, 5, 5), grid=(8, 8), num_layers=3, num_heads=3, width=96, dropout=0.1,
            state_hidden=256, num_states=34, state_injection="modulate", init_std=0.05, loss_on="all", code_loss=10.0,
            scheduled_sampling=0.8,
        ),
        data=DataConfig(clip="block_pairs"),
        train=TrainConfig(
            steps=800, batch_size=16, lr=3e-3, weight_decay=0.3, warmup_steps=30, schedule="cosine", ema=0.99, validate_every=200,
            validate_clips=32, checkpoint_every=100, sample_every=400, log_every=25,
        ),
    )


def st_medium() -> RunConfig:
    """Twin of st-revontuli for one GPU: 12 layers x 384 on 16x16 grids, frames of 128x128.

    The model of st-demo, larger, with the training of the other medium twins; its settings are theirs and were not tuned.
    """
    demo = st_demo()
    assert isinstance(demo.model, STConfig)
    model = replace(demo.model, grid=(16, 16), num_layers=12, num_heads=8, width=384, state_hidden=1024)
    return replace(demo, recipe="st-medium", model=model, train=MEDIUM_TRAINING)


def st_v1_1() -> RunConfig:
    """ST-Transformer on 1X v1.1 tokens, of the size of 1xgpt's smaller baseline: 34.5 M parameters, for one GPU.

    Data: 1X v1.1 (train_v1.1, val_v1.1), a grid of 16x16 MAGVIT2 tokens a frame, two factors of 512: 16 frames at 2 Hz.
    GENIE_35M (32 layers x 256) scores a cross-entropy of 8.99 and an accuracy of 0.030 there (1xgpt README); it is a MaskGIT
    without actions, this predicts grid after grid and sees the actions up to the last seen frame (`state_alignment`
    "past": the challenge allows no others).  Batch, rate, warm-up, beta 2, schedule and windows that share no frame
    are 1xgpt's; steps, dropout, weight decay, clipping at a norm of 1 and tied embeddings are ours.
    """
    model = STConfig(
        clock="frames", vocab_size=2**18, factors=(512, 512), grid=(16, 16), context_grids=1, future_grids=15, num_states=16,
        num_layers=32, num_heads=8, width=256, state_hidden=1024, state_alignment="past",
    )  # fmt: skip
    train = TrainConfig(
        steps=60_000, batch_size=16, accumulate=4, lr=5e-4, betas=(0.9, 0.95), warmup_steps=1000, schedule="cosine",
        precision="bfloat16", validate_every=2000, validate_clips=256, checkpoint_every=1000,
    )  # fmt: skip
    return RunConfig(recipe="st-v1.1", model=model, data=DataConfig(clip="frames", overlap=False), train=train)


def st_v1_1_tiny() -> RunConfig:
    """Twin of st-v1.1 for tests: 2 layers x 32, seconds on a CPU."""
    published = st_v1_1()
    assert isinstance(published.model, STConfig)
    model = replace(published.model, num_layers=2, num_heads=2, width=32, state_hidden=64, init_std=0.05)
    train = replace(st_tiny().train, batch_size=2)
    return replace(published, recipe="st-v1.1-tiny", model=model, data=DataConfig(clip="frames"), train=train)


RECIPES = (st_revontuli, st_tiny, st_demo, st_medium, st_v1_1, st_v1_1_tiny)
