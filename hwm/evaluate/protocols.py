"""Evaluation on the compression track: from the context grids and all states to scored future tokens and frames."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from hwm.contracts import Batch, Sampling, Tokenizer, TokenWorldModel
from hwm.evaluate.results import AUTOREGRESSIVE, ORIGINAL, PERMUTED, RECONSTRUCTION, ZEROED, CompressionResult
from hwm.evaluate.scoring import ClipScores
from hwm.evaluate.summary import summarise


class Clips(Protocol):
    """Clips of context and future grids with their states."""

    def __len__(self) -> int: ...

    def batch(self, indices: np.ndarray, /) -> Batch:
        """tokens_BTHW and states_BFA of these clips."""


def evaluate_compression(
    model: TokenWorldModel,
    tokenizer: Tokenizer,
    clips: Clips,
    *,
    video: Callable[[np.ndarray], Tensor] | None = None,
    segments: Sequence[int] | np.ndarray | None = None,
    num_clips: int = 64,
    batch_size: int = 8,
    seed: int = 0,
    sampling: Sampling = Sampling(),  # noqa: B008
    decode: Literal["mean", "sample"] = "mean",
    unigram_counts: Tensor | None = None,
    neutral_state_A: Tensor | None = None,
    top_k: int = 500,
    num_examples: int = 6,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> CompressionResult:
    """Score a model's tokens and decoded frames, with true, zeroed and permuted states, beside the baselines.

    clips: tokens made by `tokenizer` with their states.  num_clips: how many are used, evenly spread; 0: all.
    video: gives the recorded frames of clips, uint8 (B, F, H, W, C) of the size the tokenizer decodes to.
    segments: the segment of every clip; intervals then resample segments, and permuted states are taken from
    another segment.  seed: of sampling, permutation and intervals; everything but `seconds` repeats with it.
    decode: which row the verdict is about, the decoded expectation of the code ("mean") or the decoded tokens.
    unigram_counts: see `baselines.unigram_counts`, from training tokens.
    neutral_state_A: what zeroed states are, in raw units: the value that the model's normalisation maps to zero;
    None: the mean state of the evaluated clips.  top_k: logits kept for the truncated cross-entropy.
    num_examples: clips kept to look at: from each of that many equal parts of the clips the one whose recorded
    future moves most, whatever the model made of it.  progress: called with clips done and clips in all.
    Raises ValueError for clips or a tokenizer that do not fit the model, or fewer than two clips.
    """
    started = time.perf_counter()
    chosen = _spread(len(clips), num_clips)
    batch = _load(clips, chosen, model, batch_size)
    tokens_NTHW, states_NFA = batch.tokens_BTHW, batch.states_BFA
    assert tokens_NTHW is not None
    groups = None if segments is None else np.asarray(segments)[chosen]
    if neutral_state_A is None:
        neutral_state_A = states_NFA.mean((0, 1))
    state_variants = {
        AUTOREGRESSIVE: states_NFA,
        ZEROED: neutral_state_A.to(states_NFA).expand_as(states_NFA),
        PERMUTED: states_NFA[torch.from_numpy(_from_another_segment(len(chosen), groups, seed))],
    }
    run = ClipScores(model, tokenizer, sampling=sampling, decode=decode, top_k=min(top_k, tokenizer.vocab_size), device=device)
    generator = torch.Generator(device=device).manual_seed(seed)
    bins = np.arange(len(chosen)) * num_examples // len(chosen)
    for start in range(0, len(chosen), batch_size):
        part = slice(start, start + batch_size)
        run.score(
            tokens_NTHW[part],
            {name: states[part] for name, states in state_variants.items()},
            generator=generator,
            unigram_counts=unigram_counts,
            original_BFHWC=None if video is None else video(chosen[part]),
            clip_numbers=chosen[part],
            bins=bins[part] if num_examples else None,
        )
        if progress is not None:
            progress(min(start + batch_size, len(chosen)), len(chosen))
    settings = {
        "protocol": "compression",
        "num_clips": len(chosen),
        "num_segments": None if groups is None else len(np.unique(groups)),
        "seed": seed,
        "sampling": asdict(sampling),
        "decode": decode,
        "top_k": run.top_k,
        "vocab_size": tokenizer.vocab_size,
        "uniform_cross_entropy": math.log(tokenizer.vocab_size),
        "tokenizer": tokenizer.name,
        "tokenizer_fingerprint": tokenizer.fingerprint(),
        "context_grids": model.context_grids,
        "future_grids": model.future_grids,
        "future_frames": run.num_frames,
        "references": [RECONSTRUCTION] + ([ORIGINAL] if video is not None else []),
        "confidence": 0.95,
        "zeroed_states": [round(float(v), 6) for v in neutral_state_A],
    }
    return summarise(run, settings, groups=groups, seed=seed, seconds=time.perf_counter() - started)


def _spread(total: int, wanted: int) -> np.ndarray:
    """Indices of `wanted` clips evenly spread over `total`, all of them for 0."""
    if total < 2 or wanted == 1 or wanted < 0:
        raise ValueError(f"an evaluation needs at least 2 clips; the data has {total} and {wanted} were asked for")
    wanted = min(wanted or total, total)
    return np.arange(wanted, dtype=np.int64) * total // wanted


def _load(clips: Clips, chosen: np.ndarray, model: TokenWorldModel, batch_size: int) -> Batch:
    """All tokens and states of the chosen clips: what a permutation of states over clips needs, and small."""
    parts = [clips.batch(chosen[i : i + batch_size]) for i in range(0, len(chosen), batch_size)]
    wanted = model.context_grids + model.future_grids
    for part in parts:
        if part.tokens_BTHW is None or part.tokens_BTHW.shape[1] != wanted:
            raise ValueError(f"the model needs clips of {wanted} token grids")
        if part.states_BFA.shape[1] < model.num_states:
            raise ValueError(f"the model reads {model.num_states} state rows, the clips have {part.states_BFA.shape[1]}")
    return Batch(
        states_BFA=torch.cat([part.states_BFA[:, : model.num_states] for part in parts]),
        tokens_BTHW=torch.cat([part.tokens_BTHW for part in parts if part.tokens_BTHW is not None]),
    )


def _from_another_segment(num: int, groups: np.ndarray | None, seed: int) -> np.ndarray:
    """A permutation without fixed points that also leaves every group, as long as none holds over half of the clips.

    Clips sorted by group take from the clip that stands as many places ahead as the largest group is long.
    """
    rng = np.random.default_rng(seed)
    _, group = np.unique(np.arange(num) if groups is None else groups, return_inverse=True)
    order = np.lexsort((rng.random(num), rng.permutation(group.max() + 1)[group]))
    largest = int(np.bincount(group).max())
    source = np.empty(num, dtype=np.int64)
    source[order] = np.roll(order, -min(largest, num // 2))
    return source
