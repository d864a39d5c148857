"""The one protocol by which every world model is scored: from context and all states to future tokens and frames.

It is the same for all families (SYSTEMS.md sections 1 to 3): every future frame, the reference being the true future
passed through the same tokenizer, the same clips, the same baselines.  The clip tells the two cases apart:

    compression   3 + 3 grids, context and future each a whole block; the last frame is scored
    hwm           2 + 1 grids of one block; the mean over all 8 future frames is scored (HWM paper section 3)

The authors of the HWM paper scored their two families by different procedures (reference B.6).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from hwm.contracts import LatentTokenizer, LatentWorldModel, Sampling, Tokenizer, TokenWorldModel
from hwm.evaluate_old.block_clips import Clips, load, seed_of_batch
from hwm.evaluate_old.clip_choice import from_another_segment, spread
from hwm.evaluate_old.cost import measure_cost
from hwm.evaluate_old.perceptual import Lpips, PerceptualScorer, VideoFeatures
from hwm.evaluate_old.results import (
    ALL_FRAMES,
    ORIGINAL,
    PERMUTED,
    RECONSTRUCTION,
    SCORED_FRAME,
    ZEROED,
    Cost,
    EvaluationResult,
)
from hwm.evaluate_old.rows import TRUE_STATES, LatentRows, TokenRows
from hwm.evaluate_old.scoring import ClipScores
from hwm.evaluate_old.summary import summarise
from hwm.evaluate_old.token_scores import TokenScorer
from hwm.predict.decoding import FrameDecoder
from hwm.work.fingerprint import fingerprint
from hwm.work.parts import Arrays, Work, names_of, progress_of, sizes_of


def evaluate(
    model: TokenWorldModel | LatentWorldModel,
    tokenizer: Tokenizer | LatentTokenizer,
    clips: Clips,
    *,
    video: Callable[[np.ndarray], Tensor] | None = None,
    segments: Sequence[int] | np.ndarray | None = None,
    num_clips: int = 64,
    batch_size: int = 8,
    seed: int = 0,
    sampling: Sampling | None = None,
    decode: Literal["mean", "sample"] = "mean",
    unigram_counts: Tensor | None = None,
    neutral_state_A: Tensor | None = None,
    top_k: int = 500,
    features: Sequence[VideoFeatures] = (),
    lpips: Lpips | None = None,
    cost_repeats: int = 3,
    num_examples: int = 6,
    protocol: str = "",
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
    work: Work | None = None,
) -> EvaluationResult:
    """Score a model's predictions with true, zeroed and permuted states, beside the baselines.

    clips: tokens or latents made by `tokenizer`, as the model predicts them, with their states.
    num_clips: how many are used, evenly spread; 0: all.
    video: gives the recorded frames of clips, uint8 (B, F, H, W, C) of the size the tokenizer decodes to.
    segments: the segment of every clip; intervals then resample segments, and permuted states are taken from
    another segment.  seed: of sampling, permutation and intervals; everything but `seconds` and `cost` repeats with it.
    sampling: None is the model's own.
    decode: which row the verdict is about: "mean", the decoded expectation of the code, or of latents the prediction
    at temperature 0; "sample", the decoded tokens or sampled latents.
    unigram_counts: see `baselines.unigram_counts`, from training tokens.
    neutral_state_A: what zeroed states are, in raw units: the value that the model's normalisation maps to zero;
    None: the mean state of the evaluated clips.  top_k: logits kept for the truncated cross-entropy.
    features: networks between whose features a Frechet distance is taken.  lpips: gives the LPIPS of frames (B, F).
    cost_repeats: timed predictions of one batch for the cost; 0: the cost is not measured.
    num_examples: clips kept to look at: from each of that many equal parts of the clips the one whose recorded
    future moves most, whatever the model made of it.  protocol: its name; empty: by the clip, as above.
    progress: called with clips done and clips in all, of this process.
    work: how it goes on where it was stopped, and is shared with other processes; None: in memory, alone.
    Raises ValueError for clips or a tokenizer that do not fit the model, or fewer than two clips; Elsewhere where another
    process has the result; Stopped where `work` was told to stop.
    """
    started = time.perf_counter()
    _check_tokenizer(model, tokenizer)
    decoder = FrameDecoder(
        tokenizer, context_grids=model.context_grids, future_grids=model.future_grids, device=device
    )
    chosen = spread(len(clips), num_clips)
    grids, states_NFA = load(clips, chosen, model, batch_size)
    groups = None if segments is None else np.asarray(segments)[chosen]
    if neutral_state_A is None:
        neutral_state_A = states_NFA.mean((0, 1))
    states = {
        TRUE_STATES: states_NFA,
        ZEROED: neutral_state_A.to(states_NFA).expand_as(states_NFA),
        PERMUTED: states_NFA[torch.from_numpy(from_another_segment(len(chosen), groups, seed))],
    }
    rows, tokens = _rows(
        model, tokenizer, decoder, sampling=sampling, decode=decode, top_k=top_k, counts=unigram_counts, device=device
    )
    work = work or Work()
    perceptual = PerceptualScorer(features, lpips, segments=groups, num_clips=len(chosen))
    run = ClipScores(rows, decoder, tokens=tokens, perceptual=perceptual, poll=work.stop.check)
    bins = np.arange(len(chosen)) * num_examples // len(chosen)
    context, future = grids.tensor_split([model.context_grids], 1)
    whole_blocks = decoder.num_shared == 0
    settings: dict[str, Any] = {
        "protocol": protocol or ("compression" if whole_blocks else "hwm"),
        "predicts": model.predicts,
        "headline_span": SCORED_FRAME if whole_blocks else ALL_FRAMES,
        "num_clips": len(chosen),
        "num_segments": None if groups is None else len(np.unique(groups)),
        "seed": seed,
        "sampling": asdict(sampling or Sampling(temperature=rows.temperature)),
        "own_sampling": sampling is None,
        "decode": decode,
        "tokenizer": tokenizer.name,
        "tokenizer_fingerprint": tokenizer.fingerprint(),
        "context_grids": model.context_grids,
        "future_grids": model.future_grids,
        "context_frames": decoder.num_past,
        "future_frames": decoder.num_future,
        "references": [RECONSTRUCTION] + ([ORIGINAL] if video is not None else []),
        "perceptual": [feature.name for feature in features] + (["LPIPS"] if lpips is not None else []),
        "confidence": 0.95,
        "zeroed_states": [round(float(v), 6) for v in neutral_state_A],
    }
    if isinstance(rows, TokenRows):
        vocab_size = rows.tokenizer.vocab_size
        settings |= {"top_k": rows.top_k, "vocab_size": vocab_size, "uniform_cross_entropy": math.log(vocab_size)}
    settings["fingerprint"] = key = fingerprint(
        model,
        settings=settings,
        clips=[chosen, grids, states_NFA, groups, neutral_state_A],
        counts=unigram_counts,
        batch=[batch_size, num_examples],
        device=torch.device(device).type,
        sources=list(work.sources),
    )

    def measure(part: int) -> Arrays:
        start = part * batch_size
        these = slice(start, start + batch_size)
        return run.measure(
            context[these],
            future[these],
            {name: rows_NFA[these] for name, rows_NFA in states.items()},
            seed=seed_of_batch(seed, start),
            original_BFHWC=None if video is None else video(chosen[these]),
            clip_numbers=chosen[these],
            first_clip=start,
            bins=bins[these] if num_examples else None,
        )

    before = time.perf_counter() - started
    sizes = sizes_of(len(chosen), batch_size)
    parts, names = work.open(key), names_of("part", len(sizes))
    work.fill(parts, names, measure, done=progress_of(progress, work.share.of(sizes)))
    started = time.perf_counter()
    for arrays in work.read(parts, names):
        run.add(arrays)
    cost = _cost(rows, context[:batch_size], states_NFA[:batch_size], repeats=cost_repeats, device=device)
    result = summarise(run, settings, groups=groups, seed=seed, cost=cost)
    result.seconds["total"] += before + time.perf_counter() - started
    return result


def _check_tokenizer(model: TokenWorldModel | LatentWorldModel, tokenizer: Tokenizer | LatentTokenizer) -> None:
    wanted = Tokenizer if model.predicts == "tokens" else LatentTokenizer
    if not isinstance(tokenizer, wanted):
        raise ValueError(f"the model predicts {model.predicts}, which the tokenizer {tokenizer.name} does not decode")


def _rows(
    model: TokenWorldModel | LatentWorldModel,
    tokenizer: Tokenizer | LatentTokenizer,
    decoder: FrameDecoder,
    *,
    sampling: Sampling | None,
    decode: str,
    top_k: int,
    counts: Tensor | None,
    device: torch.device | str,
) -> tuple[TokenRows | LatentRows, TokenScorer | None]:
    if model.predicts == "latents":
        latents = LatentRows(cast(LatentWorldModel, model), decoder, sampling=sampling, decode=decode, device=device)
        return latents, None
    coder = cast(Tokenizer, tokenizer)
    rows = TokenRows(
        cast(TokenWorldModel, model),
        decoder,
        coder,
        sampling=sampling,
        decode=decode,
        top_k=min(top_k, coder.vocab_size),
        device=device,
    )
    return rows, TokenScorer(vocab_size=coder.vocab_size, unigram_counts=counts)


def _cost(
    rows: TokenRows | LatentRows, context: Tensor, states_BFA: Tensor, *, repeats: int, device: torch.device | str
) -> Cost | None:
    if not repeats:
        return None
    spent = rows.seconds, rows.decoder.seconds
    with torch.no_grad():
        cost = measure_cost(
            cast(torch.nn.Module, rows.model),
            predict=lambda: rows.predict_only(context, states_BFA, seed=0, decode=False),
            predict_and_decode=lambda: rows.predict_only(context, states_BFA, seed=0, decode=True),
            batch_size=len(context),
            device=device,
            repeats=repeats,
        )
    rows.seconds, rows.decoder.seconds = spent
    return cost
