"""Drive a world model over any horizon: what it predicted becomes its next context, and the states move along."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from hwm.clock import COSMOS, Clock
from hwm.contracts import Prediction, Sampling, Tokenizer, TokenWorldModel


@dataclass(frozen=True)
class Rollout:
    """Futures of any length.  tokens_BKTHW: int64.  video_BKFHWC: uint8, None without a tokenizer."""

    tokens_BKTHW: Tensor
    video_BKFHWC: Tensor | None = None


def state_window(states_BFA: Tensor, *, first_frame: int, num_states: int) -> Tensor:
    """The `num_states` rows from `first_frame` on, (B, num_states, A); past the end the last row is repeated.

    Look-ahead rows that do not exist are filled as for training clips at the end of a segment (reference F row 3).
    """
    rows = torch.arange(first_frame, first_frame + num_states, device=states_BFA.device)
    return states_BFA[:, rows.clamp(max=states_BFA.shape[1] - 1)]


def predict_blocks(
    model: TokenWorldModel,
    context_BTHW: Tensor,
    states_BFA: Tensor,
    *,
    num_blocks: int,
    generator: torch.Generator,
    clock: Clock = COSMOS,
    sampling: Sampling = Sampling(),  # noqa: B008
    codes_VC: Tensor | None = None,
) -> Iterator[Prediction]:
    """Predict `future_grids` grids at a time, yielding each prediction as it is made.

    context_BTHW: int64, `context_grids` grids of whole blocks.  states_BFA: raw states, row f belongs to frame f
    counted from the first context frame; they must cover every predicted frame.
    Step n sees the latest `context_grids` grids, its own predictions among them, and the states from the first
    frame of those grids on.
    Raises ValueError for a context of another length, parts of blocks, or states that end too early.
    """
    num_context, num_future = model.context_grids, model.future_grids
    if num_blocks < 1:
        raise ValueError(f"num_blocks must be at least 1, got {num_blocks}")
    if context_BTHW.shape[1] != num_context:
        raise ValueError(f"the model starts from {num_context} context grids, got {context_BTHW.shape[1]}")
    if num_context % clock.grids or num_future % clock.grids:
        raise ValueError(
            f"a rollout needs context and future of whole blocks of {clock.grids} grids, "
            f"the model has {num_context} and {num_future}"
        )
    needed = clock.num_frames(num_context + num_blocks * num_future)
    if states_BFA.shape[1] < needed:
        raise ValueError(f"{num_blocks} blocks need {needed} state rows, one per frame, got {states_BFA.shape[1]}")
    for step in range(num_blocks):
        first_frame = clock.num_frames(step * num_future)
        prediction = model.predict(
            context_BTHW,
            state_window(states_BFA, first_frame=first_frame, num_states=model.num_states),
            generator=generator,
            sampling=sampling,
            codes_VC=codes_VC,
        )
        yield prediction
        assert prediction.tokens_BKTHW is not None
        context_BTHW = torch.cat([context_BTHW, prediction.tokens_BKTHW[:, 0]], 1)[:, -num_context:]


def rollout(
    model: TokenWorldModel,
    tokenizer: Tokenizer | None,
    context_tokens_BTHW: Tensor,
    states_BFA: Tensor,
    *,
    num_blocks: int,
    generator: torch.Generator,
    num_samples: int = 1,
    sampling: Sampling = Sampling(),  # noqa: B008
    clock: Clock = COSMOS,
) -> Rollout:
    """Predict `num_blocks` times `future_grids` grids and, with a tokenizer, their frames; K independent samples.

    Arguments as in `predict_blocks`; with a tokenizer its clock is used.  Every block is decoded by itself.
    """
    clock = tokenizer.clock if tokenizer is not None else clock
    predictions = predict_blocks(
        model,
        context_tokens_BTHW.repeat_interleave(num_samples, 0),
        states_BFA.repeat_interleave(num_samples, 0),
        num_blocks=num_blocks,
        generator=generator,
        clock=clock,
        sampling=sampling,
    )
    blocks = [cast(Tensor, prediction.tokens_BKTHW)[:, 0] for prediction in predictions]
    tokens = torch.cat(blocks, 1)
    video = None if tokenizer is None else torch.cat([tokenizer.decode(block) for block in blocks], 1)
    return Rollout(
        tokens_BKTHW=tokens.unflatten(0, (-1, num_samples)),
        video_BKFHWC=None if video is None else video.unflatten(0, (-1, num_samples)),
    )
