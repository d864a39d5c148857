"""Wan2.2 TI2V of the sampling track and its twins."""

from dataclasses import replace
from typing import Any

from hwm.config import DataConfig, RunConfig, TrainConfig
from hwm.model_config import WanConfig
from hwm.recipes.twins import MEDIUM_TRAINING, TINY_TRAINING

WAN_TOKENIZER = "wan:Wan-AI/Wan2.2-TI2V-5B-Diffusers"
"""The base's own autoencoder."""


def wan_revontuli() -> RunConfig:
    """Wan2.2 TI2V-5B with video and state conditioning as published: LoRA of rank 32 and a state encoder, 86 M trained.

    Data: Wan latents of 1X raw video at 512x512 (`hwm tokenize --tokenizer wan:... --size 512`), the embedding of the
    empty prompt (`hwm text-embedding`, then model.text=FILE).  23 000 steps of 1024 clips; validation PSNR 22.63 dB
    with one sample, 24.88 with 20, 25.53 with condition dropout and 100 steps (Revontuli report, Table 2); 36 h by the
    slides, on 8 B200 (the report says 4 x 8).  Clips of 256x256, the other reading of the report: model.grid=[16,16].
    One process holds 32 clips x 32 accumulated micro-batches, 52 GB by our arithmetic (`hwm recipes NAME`).
    The report's first submission trained on training and validation data: --data TRAIN VAL, without condition dropout
    (model.condition_dropout=0), validated on nothing that it had not seen (train.validate_every=0).
    The rate of condition dropout, betas, weight decay and clipping at a norm of 1 are ours; a rate of 0 trains without.
    """
    return RunConfig(
        recipe="wan-revontuli",
        tokenizer=WAN_TOKENIZER,
        model=WanConfig(dtype="bfloat16", checkpointing=True),
        data=DataConfig(clip="sampling"),
        train=TrainConfig(
            steps=23_000, batch_size=32, accumulate=32, lr=4e-4, betas=(0.9, 0.999), weight_decay=0.01, schedule="constant",
            validate_every=500, validate_clips=256, checkpoint_every=100, sample_every=1000,
        ),
    )


def wan_one_gpu() -> RunConfig:
    """Twin of wan-revontuli for one GPU of 24 GB and days: frames of 256x256, batches of 64, lower learning rate.

    Memory: frozen weights 10.0 GB in bfloat16; adapter and state encoder with gradients and moments 1.4 GB; a clip of 384
    tokens keeps 0.27 GB, 30 block inputs and the activations of one block; with a fifth for workspace a micro-batch of 8
    takes 16 GB.  Time: 12.0 TFLOP a clip with recomputed activations, 10 000 steps of 64 clips are 7.7 EFLOP: at 40 % of
    peak 32 h on an RTX 4090, 17 h on an A100, 5.4 h on an H100.  All this is arithmetic (`hwm recipes wan-one-gpu`), not
    measured.  Do not expect the published score, which took 37 times as many clips at four times the tokens.
    """
    paper = wan_revontuli()
    assert isinstance(paper.model, WanConfig)
    train = replace(paper.train, steps=10_000, batch_size=8, accumulate=8, lr=1e-4, warmup_steps=100)
    return replace(paper, recipe="wan-one-gpu", model=replace(paper.model, grid=(16, 16)), train=train)


def wan_tiny() -> RunConfig:
    """Twin of wan-revontuli for two CPU cores: the same classes from scratch on 64x64 frames of the built-in robot.

    No pretrained model knows this robot's world, so it predicts the latents themselves rather than their velocity, gives every
    cell the context of its place, and states beside their change (all ours, each ablated: docs/experiments.md): clips are few.
    """
    return RunConfig(
        recipe="wan-tiny",
        tokenizer="continuous-4x8x8",
        model=WanConfig(
            base="", channels=16, grid=(8, 8), num_layers=4, num_heads=4, head_width=24, mlp_width=384, time_width=64,
            text_width=16, text_rows=1, lora_rank=0, state_changes=True, place_context=True, output="data",
        ),
        data=DataConfig(clip="sampling"),
        train=replace(TINY_TRAINING, lr=5e-3, steps=800, validate_every=200, checkpoint_every=200, sample_every=400),
    )


def wan_medium() -> RunConfig:
    """Twin of wan-revontuli for one GPU, from scratch: 12 layers x 384 on frames of 128x128 of the built-in robot.

    wan-tiny, larger, with the training of the other medium twins; its settings are theirs and were not tuned.
    """
    tiny = wan_tiny()
    assert isinstance(tiny.model, WanConfig)
    sizes: dict[str, Any] = {"grid": (16, 16), "num_layers": 12, "num_heads": 8, "head_width": 48, "mlp_width": 1536}
    model = replace(tiny.model, **sizes, time_width=256, text_width=64)
    train = replace(MEDIUM_TRAINING, precision="float32")  # whole weights are trained, which bfloat16 would round
    return replace(tiny, recipe="wan-medium", model=model, train=train)


RECIPES = (wan_revontuli, wan_one_gpu, wan_medium, wan_tiny)
