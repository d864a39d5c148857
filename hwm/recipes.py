"""Named runs.  Each comes from a function that returns a RunConfig; its docstring says what it is, needs and gives.

`hwm recipes` lists them, `hwm train NAME` runs one, `--set section.key=value` changes a value.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from hwm.config import DataConfig, FlowConfig, FSQConfig, MaskedConfig, RunConfig, STConfig, TrainConfig, WanConfig


def st_revontuli() -> RunConfig:
    """ST-Transformer of the 1X compression track as published: 24 layers x 512, 136.1 M parameters.

    Data: 1X v2.0 tokens (train_v2.0, val_v2.0), 306 k clips.  80 epochs at batch 160 are 153 000 steps; published
    on 8 B200 in 17 h, validation CE 4.92 (autoregressive), test top-500 CE 6.64 (Revontuli report, Table 1).
    One process holds batch 20 x 8 accumulated micro-batches; our arithmetic for one H200 at 40 % of peak: 96 h.
    """
    return RunConfig(
        recipe="st-revontuli",
        tokenizer="",
        model=STConfig(),
        data=DataConfig(clip="block_pairs", overlap=False),
        train=TrainConfig(
            steps=153_000,
            batch_size=20,
            accumulate=8,
            lr=8e-4,
            betas=(0.9, 0.95),
            weight_decay=0.05,
            warmup_steps=2000,
            schedule="linear",
            precision="bfloat16",
            validate_every=2000,
            validate_clips=512,
            checkpoint_every=1000,
            sample_every=5000,
        ),
    )


def st_tiny() -> RunConfig:
    """Twin of st-revontuli for tests: 2 layers x 32 on 8x8 grids, seconds on a CPU."""
    return RunConfig(
        recipe="st-tiny",
        tokenizer="fsq-8x8x8",
        model=STConfig(
            vocab_size=64000,
            factors=(8, 8, 8, 5, 5, 5),
            grid=(8, 8),
            num_layers=2,
            num_heads=2,
            width=32,
            state_hidden=64,
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
            vocab_size=64000,
            factors=(8, 8, 8, 5, 5, 5),
            grid=(8, 8),
            num_layers=3,
            num_heads=3,
            width=96,
            dropout=0.1,
            state_hidden=256,
            num_states=34,
            state_injection="modulate",
            init_std=0.05,
            loss_on="all",
            code_loss=10.0,
            scheduled_sampling=0.8,
        ),
        data=DataConfig(clip="block_pairs"),
        train=TrainConfig(
            steps=800,
            batch_size=16,
            lr=3e-3,
            weight_decay=0.3,
            warmup_steps=30,
            schedule="cosine",
            ema=0.99,
            validate_every=200,
            validate_clips=32,
            checkpoint_every=100,
            sample_every=400,
            log_every=25,
        ),
    )


def fsq_8x8x8() -> RunConfig:
    """Video tokenizer of the library: 8x8x8 with Cosmos' 64 000 codes, 1.9 M parameters, trained on raw video.

    Data: `hwm simulate --minutes 11 --seed 1000` at 64x64; about 35 minutes on one CPU core.  The shipped weights
    and their scores: hwm/tokenizers/weights/fsq-8x8x8/README.md.
    """
    return RunConfig(
        recipe="fsq-8x8x8",
        model=FSQConfig(levels=(8, 8, 8, 5, 5, 5), spatial_stride=8, channels=64, depth=2, steady_weight=0.03),
        data=DataConfig(clip="blocks"),
        train=TrainConfig(
            steps=3600,
            batch_size=8,
            lr=3e-3,
            betas=(0.9, 0.95),
            weight_decay=0.01,
            warmup_steps=100,
            schedule="linear",
            ema=0.998,
            validate_every=500,
            validate_clips=64,
            checkpoint_every=250,
            sample_every=1000,
            log_every=50,
        ),
    )


def continuous_8x8x8() -> RunConfig:
    """Continuous video tokenizer of the library: 8x8x8 with 16 channels as Cosmos CV, 1.9 M parameters.

    Data and training as fsq-8x8x8.  The shipped weights and their scores: hwm/tokenizers/weights/continuous-8x8x8/README.md.
    """
    quantised = fsq_8x8x8()
    assert isinstance(quantised.model, FSQConfig)
    model = replace(quantised.model, levels=(5,) * 16, continuous=True, latent_noise=0.1)
    return replace(quantised, recipe="continuous-8x8x8", model=model)


def continuous_4x8x8() -> RunConfig:
    """Continuous video tokenizer of the library by Wan's clock: 21 frames, every fourth of 77, to 6 latents of 16 channels.

    Data as fsq-8x8x8.  The shipped weights and their scores: hwm/tokenizers/weights/continuous-4x8x8/README.md.
    """
    blocks = continuous_8x8x8()
    assert isinstance(blocks.model, FSQConfig)
    model = replace(blocks.model, temporal_stride=4, block=21)
    return replace(blocks, recipe="continuous-4x8x8", model=model, data=DataConfig(clip="sampling"))


def fsq_tiny() -> RunConfig:
    """Twin of fsq-8x8x8 for tests: 8 channels, seconds on a CPU."""
    return RunConfig(
        recipe="fsq-tiny",
        model=FSQConfig(levels=(8, 5, 5), channels=8, depth=1),
        data=DataConfig(clip="blocks"),
        train=TrainConfig(steps=20, batch_size=2, lr=3e-3, validate_every=10, validate_clips=4, checkpoint_every=10),
    )


VARIANTS = ("base", "modality", "full", "split")
"""Of either Humanoid World Model: HWM paper section 2.4."""
SIZES = ("", "tiny", "medium")
"""Published size, twin for two CPU cores, twin for one GPU and an hour."""


def masked_hwm(variant: str, size: str = "") -> RunConfig:
    """Masked-HWM of the paper: 24 layers x 512 on 2 + 1 token grids of 17 frames.

    Published (seed document 004, section 3.1): 1X v2.0 tokens, 60 000 steps of 16 clips on one A6000; at 256x256 PSNR
    28.7 to 29.4 dB, FID 10 to 15.  Weight decay and betas are of the release; the paper prints none.
    tiny: 64x64 frames of the built-in robot, minutes on two CPU cores.  medium: 128x128, for an hour on one GPU (our
    arithmetic, not measured: 4.2 TFLOP a step).  Clips are few there, so both twins factorise the vocabulary, learn the
    expected codes too, give every future token the context of its place, and let states and their changes modulate
    every block (all ours): without these a narrow model needs far more clips to copy what stands still.
    """
    split = variant == "split"
    model = MaskedConfig(
        attention="split" if split else "joint",
        sharing="full" if split else _SHARING[variant],
        unshared_blocks=0 if split else 4,
    )
    train = TrainConfig(
        steps=60_000,
        batch_size=16,
        lr=3e-5,
        betas=(0.9, 0.95),
        weight_decay=0.01,
        warmup_steps=100,
        schedule="linear",
        precision="bfloat16",
        validate_every=2000,
        validate_clips=512,
        checkpoint_every=1000,
        sample_every=5000,
    )
    if size:
        small: dict[str, Any] = {"factors": (8, 8, 8, 5, 5, 5), "state_modulation": True, "code_loss": 10.0}
        small |= {"state_changes": True, "place_context": True, "init_std": 0.05, "dropout": 0.1, "max_corruption": 0.1}
        sizes: dict[str, Any] = {
            "tiny": {"grid": (8, 8), "num_layers": 4, "num_heads": 3, "width": 96},
            "medium": {"grid": (16, 16), "num_layers": 12, "num_heads": 8, "width": 384},
        }
        model = replace(model, **small, **sizes[size], unshared_blocks=0 if split else {"tiny": 2, "medium": 4}[size])
        train = {"tiny": _TINY, "medium": _MEDIUM}[size]
    return RunConfig(
        recipe="-".join(filter(None, ("masked-hwm", variant, size))),
        tokenizer="fsq-8x8x8" if size else "",
        model=model,
        data=DataConfig(clip="blocks", overlap=False),
        train=train,
    )


def flow_hwm(variant: str, size: str = "") -> RunConfig:
    """Flow-HWM of the paper: 15 layers x 1152 on 2 + 1 latents of 17 frames.

    Published (seed document 004, section 3.2): Cosmos CV8x16x16 latents of 1X raw video at 256x256 (make them with
    `hwm tokenize`), 150 000 steps of 128 clips on two A6000; PSNR 20.4 to 20.5 dB, FID 111, with a training defect in
    the release (reference D.2).  One process holds 16 clips x 8 accumulated micro-batches.  EMA, betas and weight
    decay are of the release.
    tiny: 64x64 frames of the built-in robot, minutes on two CPU cores.  medium: 128x128, for an hour on one GPU (our
    arithmetic, not measured: 1.5 TFLOP a step).  Clips are few there, so both twins predict the change of the latents
    as data, mostly from noisy times and weighed as PSNR does, give every future token the context of its place, and
    let states and their changes modulate every block (all ours); no guidance.
    """
    split = variant == "split"
    model = FlowConfig(
        attention="split" if split else "joint",
        sharing="modality" if split else _SHARING[variant],
        unshared_blocks=0 if split else 4,
    )
    train = TrainConfig(
        steps=150_000,
        batch_size=16,
        accumulate=8,
        lr=1e-4,
        betas=(0.9, 0.99),
        weight_decay=0.01,
        schedule="cosine",
        ema=0.999,
        precision="bfloat16",
        validate_every=2000,
        validate_clips=512,
        checkpoint_every=1000,
        sample_every=5000,
    )
    if size:
        small: dict[str, Any] = {"state_modulation": True, "state_changes": True, "place_context": True}
        small |= {"learned_positions": True, "target": "change", "output": "data", "relative_loss": True}
        small |= {"time_mean": -2.0, "condition_dropout": 0.05, "dropout": 0.1, "guidance": 1.0}
        sizes: dict[str, Any] = {
            "tiny": {"grid": (8, 8), "num_layers": 4, "num_heads": 4, "width": 96},
            "medium": {"grid": (16, 16), "num_layers": 12, "num_heads": 8, "width": 512},
        }
        model = replace(model, **small, **sizes[size], unshared_blocks=0 if split else {"tiny": 2, "medium": 4}[size])
        train = {"tiny": _TINY, "medium": _MEDIUM}[size]
    return RunConfig(
        recipe="-".join(filter(None, ("flow-hwm", variant, size))),
        tokenizer="continuous-8x8x8" if size else "",
        model=model,
        data=DataConfig(clip="blocks", overlap=False),
        train=train,
    )


def wan_revontuli() -> RunConfig:
    """Wan2.2 TI2V-5B with video and state conditioning as published: LoRA of rank 32 and a state encoder, 86 M trained.

    Data: Wan latents of 1X raw video at 512x512 (`hwm tokenize --tokenizer wan:... --size 512`), the embedding of the
    empty prompt (`hwm text-embedding`, then model.text=FILE).  23 000 steps of 1024 clips; validation PSNR 22.63 dB
    with one sample, 24.88 with 20, 25.53 with condition dropout and 100 steps (Revontuli report, Table 2); 36 h by the
    slides, on 8 B200 (the report says 4 x 8).  Clips of 256x256, the other reading of the report: model.grid=[16,16].
    One process holds 32 clips x 32 accumulated micro-batches.  The rate of condition dropout is ours; 0 trains without.
    """
    return RunConfig(
        recipe="wan-revontuli",
        tokenizer=WAN_TOKENIZER,
        model=WanConfig(dtype="bfloat16", checkpointing=True),
        data=DataConfig(clip="sampling"),
        train=TrainConfig(
            steps=23_000,
            batch_size=32,
            accumulate=32,
            lr=4e-4,
            betas=(0.9, 0.999),
            weight_decay=0.01,
            schedule="constant",
            validate_every=500,
            validate_clips=256,
            checkpoint_every=100,
            sample_every=1000,
        ),
    )


def wan_one_gpu() -> RunConfig:
    """Twin of wan-revontuli for one GPU of 24 GB and days: frames of 256x256, batches of 64, lower learning rate.

    Memory: weights 10.0 GB in bfloat16, adapter with gradient and moments 1.3 GB, state encoder 0.1 GB; a clip of 384
    tokens keeps 30 block inputs of 2.4 MB and the activations of one block, 0.2 GB: 8 clips and a fifth for workspace
    stay below 16 GB.  Time: 12.6 TFLOP a clip with checkpointing, so 10 000 steps of 64 clips are 8.1 EFLOP; at 40 %
    of the peak of an RTX 4090 (165 TFLOP/s) 34 h, of an H100 6 h.  Our arithmetic (`hwm recipes --costs`), not measured; do not
    expect the published score, which took 37 times as many clips at four times the tokens.
    """
    paper = wan_revontuli()
    assert isinstance(paper.model, WanConfig)
    train = replace(paper.train, steps=10_000, batch_size=8, accumulate=8, lr=1e-4, warmup_steps=100)
    return replace(paper, recipe="wan-one-gpu", model=replace(paper.model, grid=(16, 16)), train=train)


def wan_tiny() -> RunConfig:
    """Twin of wan-revontuli for two CPU cores: the same classes from scratch on 64x64 frames of the built-in robot.

    No pretrained model knows this robot's world, so it predicts the change of the latents as data, weighed as PSNR does,
    gives every cell the context of its place, and states beside their change (all ours): clips are few.
    """
    return RunConfig(
        recipe="wan-tiny",
        tokenizer="continuous-4x8x8",
        model=WanConfig(
            base="",
            channels=16,
            grid=(8, 8),
            num_layers=4,
            num_heads=4,
            head_width=24,
            mlp_width=384,
            time_width=64,
            text_width=16,
            text_rows=1,
            lora_rank=0,
            state_changes=True,
            place_context=True,
            place_channels=16,
            target="change",
            output="data",
            relative_loss=True,
        ),
        data=DataConfig(clip="sampling"),
        train=replace(_TINY, weight_decay=0.1),
    )


WAN_TOKENIZER = "wan:Wan-AI/Wan2.2-TI2V-5B-Diffusers"
_SHARING: dict[str, Any] = {"base": "stream", "modality": "modality", "full": "full"}
_TINY = TrainConfig(
    steps=600,
    batch_size=32,
    lr=2e-3,
    betas=(0.9, 0.95),
    weight_decay=0.1,
    warmup_steps=50,
    schedule="cosine",
    ema=0.99,
    validate_every=300,
    validate_clips=64,
    checkpoint_every=150,
    sample_every=300,
    log_every=25,
)
_MEDIUM = replace(
    _TINY,
    steps=40_000,
    lr=5e-4,
    warmup_steps=500,
    ema=0.999,
    precision="bfloat16",
    validate_every=2000,
    validate_clips=256,
    checkpoint_every=1000,
    sample_every=4000,
    log_every=100,
)


@dataclass(frozen=True)
class Recipe:
    """A named run: `build` makes its config, `summary` is one line for the list."""

    name: str
    build: Callable[[], RunConfig]
    summary: str


def _of(function: Callable[[], RunConfig]) -> Recipe:
    return Recipe(function().recipe, function, (function.__doc__ or "").strip().splitlines()[0])


def _family(function: Callable[[str, str], RunConfig]) -> Iterator[Recipe]:
    first = (function.__doc__ or "").strip().splitlines()[0].split(":")[0]
    twin = {"": "", "tiny": ", twin for two CPU cores", "medium": ", twin for one GPU"}
    for size in SIZES:
        for variant in VARIANTS:
            build = partial(function, variant, size)
            yield Recipe(build().recipe, build, f"{first}, {_ABOUT[variant]}{twin[size]}.")


_ABOUT = {
    "base": "weights per stream",
    "modality": "weights per modality after the first blocks",
    "full": "one set of weights after the first blocks",
    "split": "split attention",
}

RECIPES: tuple[Recipe, ...] = (
    *map(_of, (st_revontuli, st_tiny, st_demo)),
    *_family(masked_hwm),
    *_family(flow_hwm),
    *map(_of, (wan_revontuli, wan_one_gpu, wan_tiny)),
    *map(_of, (fsq_8x8x8, continuous_8x8x8, continuous_4x8x8, fsq_tiny)),
)


def names() -> list[str]:
    """Names of all recipes."""
    return [entry.name for entry in RECIPES]


def recipe(name: str) -> RunConfig:
    """The configuration called `name`.  Raises ValueError naming the nearest one."""
    for entry in RECIPES:
        if entry.name == name:
            return entry.build()
    near = difflib.get_close_matches(name, names(), 1)
    raise ValueError(f"no recipe {name!r}" + (f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(names())}"))
