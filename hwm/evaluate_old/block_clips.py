"""Clips of context and future grids as the protocol of blocks looks at them."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from hwm.contracts import Batch, LatentWorldModel, TokenWorldModel


class Clips(Protocol):
    """Clips of context and future with their states."""

    def __len__(self) -> int: ...

    def batch(self, indices: np.ndarray, /) -> Batch:
        """tokens_BTHW or latents_BTCHW, and states_BFA, of these clips."""


def load(
    clips: Clips, chosen: np.ndarray, model: TokenWorldModel | LatentWorldModel, batch_size: int
) -> tuple[Tensor, Tensor]:
    """Grids and states of all chosen clips: what a permutation of states over clips needs, and small."""
    wanted, grids, states = model.context_grids + model.future_grids, [], []
    for start in range(0, len(chosen), batch_size):
        part = clips.batch(chosen[start : start + batch_size])
        found = part.tokens_BTHW if model.predicts == "tokens" else part.latents_BTCHW
        if found is None or found.shape[1] != wanted:
            kind = "token" if model.predicts == "tokens" else "latent"
            raise ValueError(f"the model needs clips of {wanted} {kind} grids")
        if part.states_BFA.shape[1] < model.num_states:
            raise ValueError(f"the model reads {model.num_states} state rows, the clips have {part.states_BFA.shape[1]}")
        grids.append(found)
        states.append(part.states_BFA[:, : model.num_states])
    return torch.cat(grids), torch.cat(states)


def seed_of_batch(seed: int, start: int) -> int:
    """Seed of a batch's samples; the model's rows share it, so that they differ by their states and not by luck."""
    return int(np.random.SeedSequence([seed, start]).generate_state(1)[0])
