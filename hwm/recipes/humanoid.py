"""The Humanoid World Models, Masked-HWM and Flow-HWM, in four variants and three sizes."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from hwm.config import DataConfig, RunConfig, TrainConfig
from hwm.model_config import FlowConfig, MaskedConfig
from hwm.recipes.twins import MEDIUM_TRAINING, TINY_TRAINING

VARIANTS = {
    "base": "weights per stream",
    "modality": "weights per modality after the first blocks",
    "full": "one set of weights after the first blocks",
    "split": "split attention",
}
"""Of either Humanoid World Model: HWM paper section 2.4."""
SIZES = {"": "", "tiny": ", twin for two CPU cores", "medium": ", twin for one GPU"}
"""Published size, twin for two CPU cores, twin for one GPU and an hour."""


def _structure(variant: str, *, split: Literal["modality", "full"]) -> dict[str, Any]:
    """What a variant shares, of FlowConfig and MaskedConfig.  split: what the published split attention shares."""
    if variant == "split":
        return {"attention": "split", "sharing": split, "unshared_blocks": 0}
    return {"sharing": {"base": "stream"}.get(variant, variant)}


def _twin(published: RunConfig, size: str, *, tokenizer: str, lr: float, **changes: Any) -> RunConfig:
    """A small model that trains as all twins of its size do.  lr: of tiny ones."""
    model: Any = published.model
    unshared = 0 if model.attention == "split" else {"tiny": 2, "medium": 4}[size]
    model = replace(model, **changes, unshared_blocks=unshared)
    train = {"tiny": replace(TINY_TRAINING, lr=lr), "medium": MEDIUM_TRAINING}[size]
    return replace(published, recipe=f"{published.recipe}-{size}", tokenizer=tokenizer, model=model, train=train)


def masked_hwm(variant: str, size: str = "") -> RunConfig:
    """Masked-HWM of the paper: 24 layers x 512 on 2 + 1 token grids of 17 frames.

    Published (seed document 004, section 3.1): 1X v2.0 tokens, 60 000 steps of 16 clips on one A6000; at 256x256 PSNR
    28.7 to 29.4 dB, FID 10 to 15.  Weight decay (0), betas and dropout are of the release, the paper prints none; clipping
    at a norm of 1 is the release's too.
    tiny: 64x64 frames of the built-in robot, minutes on two CPU cores.  medium: 128x128, for an hour on one GPU (our
    arithmetic, not measured: 4.2 TFLOP a step).  Clips are few there, so both twins factorise the vocabulary, let states
    and their changes modulate every block, and compute the past once (visibility "causal"; all ours):
    docs/experiments.md says what each of these is worth.
    """
    train = TrainConfig(
        steps=60_000, batch_size=16, lr=3e-5, betas=(0.9, 0.95), weight_decay=0.0, warmup_steps=100, schedule="linear",
        precision="bfloat16", validate_every=2000, validate_clips=512, checkpoint_every=1000,
    )
    model, data = MaskedConfig(**_structure(variant, split="full")), DataConfig(clip="blocks", overlap=False)
    published = RunConfig(recipe=f"masked-hwm-{variant}", model=model, data=data, train=train)
    if not size:
        return published
    small: dict[str, Any] = {"factors": (8, 8, 8, 5, 5, 5), "state_modulation": True}
    small |= {"state_changes": True, "init_std": 0.05, "dropout": 0.1, "max_corruption": 0.1}
    small |= {"visibility": "causal"}
    sizes: dict[str, Any] = {
        "tiny": {"grid": (8, 8), "num_layers": 4, "num_heads": 3, "width": 96},
        "medium": {"grid": (16, 16), "num_layers": 12, "num_heads": 8, "width": 384},
    }
    return _twin(published, size, tokenizer="fsq-8x8x8", lr=4e-3, **small, **sizes[size])


def flow_hwm(variant: str, size: str = "") -> RunConfig:
    """Flow-HWM of the paper: 15 layers x 1152 on 2 + 1 latents of 17 frames.

    Published (seed document 004, section 3.2): Cosmos CV8x16x16 latents of 1X raw video at 256x256 (make them with `hwm
    tokenize`), 150 000 steps of 128 clips on two A6000; PSNR 20.4 to 20.5 dB, FID 111, with a training defect in the release
    (reference D.2).  One process holds 16 clips x 8 accumulated micro-batches.  Betas, weight decay and clipping at a norm of 1
    are of the release, which also keeps a moving average and predicts without it, and normalises hand closures as any state.
    tiny: 64x64 frames of the built-in robot, minutes on two CPU cores.  medium: 128x128, for an hour on one GPU (our
    arithmetic, not measured: 1.5 TFLOP a step).  Clips are few there, so both twins predict the data, mostly from noisy
    times, give every future token the context of its place, and let states and their changes modulate every block (all
    ours, each ablated: docs/experiments.md); no guidance.
    """
    train = TrainConfig(
        steps=150_000, batch_size=16, accumulate=8, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.01, schedule="cosine",
        precision="bfloat16", validate_every=2000, validate_clips=512, checkpoint_every=1000,
    )
    model, data = FlowConfig(**_structure(variant, split="modality")), DataConfig(clip="blocks", overlap=False)
    published = RunConfig(recipe=f"flow-hwm-{variant}", model=model, data=data, train=train)
    if not size:
        return published
    small: dict[str, Any] = {"state_modulation": True, "state_changes": True, "place_context": True, "output": "data"}
    small |= {"time_mean": -2.0, "condition_dropout": 0.05, "guidance": 1.0}
    sizes: dict[str, Any] = {
        "tiny": {"grid": (8, 8), "num_layers": 4, "num_heads": 4, "width": 96},
        "medium": {"grid": (16, 16), "num_layers": 12, "num_heads": 8, "width": 512},
    }
    return _twin(published, size, tokenizer="continuous-8x8x8", lr=6e-3, **small, **sizes[size])


def _named(system: Callable[[str, str], RunConfig], variant: str, size: str) -> Callable[[], RunConfig]:
    """One variant of a system at one size, with a summary of its own."""
    build = partial(system, variant, size)
    build.__doc__ = f"{(system.__doc__ or '').split(':')[0].strip()}, {VARIANTS[variant]}{SIZES[size]}."
    return build


RECIPES = [_named(system, variant, size) for system in (masked_hwm, flow_hwm) for size in SIZES for variant in VARIANTS]
