"""The four token streams of the Humanoid World Models, which of them share weights and which see each other.

Source: HWM paper section 2.4: base block, modality sharing, full sharing, split attention.  All four are values here:

    base       attention="joint", sharing="stream"
    modality   attention="joint", sharing="modality" after the first `unshared_blocks`
    full       attention="joint", sharing="full" after the first `unshared_blocks`
    split      attention="split", with the sharing that reproduces the published size (SYSTEMS.md 2, 3)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

STREAMS = ("past_video", "future_video", "past_actions", "future_actions")
PAST_VIDEO, FUTURE_VIDEO, PAST_ACTIONS, FUTURE_ACTIONS = range(4)

Sharing = Literal["stream", "modality", "full"]
WEIGHT_SET: dict[str, tuple[int, int, int, int]] = {
    "stream": (0, 1, 2, 3),
    "modality": (0, 0, 1, 1),
    "full": (0, 0, 0, 0),
}
"""Number of the weight set that each stream uses."""


def sharing_by_layer(sharing: Sharing, *, num_layers: int, unshared_blocks: int) -> list[Sharing]:
    """Sharing of every block: the first `unshared_blocks` keep weights per stream (HWM paper section 2.4)."""
    return ["stream" if layer < unshared_blocks else sharing for layer in range(num_layers)]


class PerStream(nn.Module):
    """One layer for every set of streams that share weights.

    build: makes a fresh layer.  streams: those that pass through; weights that none of them uses are not made.
    """

    def __init__(self, build: Callable[[], nn.Module], sharing: Sharing, *, streams: Iterable[int] = range(4)) -> None:
        super().__init__()
        self._set_of = {stream: str(WEIGHT_SET[sharing][stream]) for stream in streams}
        self.sets = nn.ModuleDict({name: build() for name in dict.fromkeys(self._set_of.values())})

    def of(self, stream: int) -> nn.Module:
        """The layer of one stream."""
        return self.sets[self._set_of[stream]]

    def forward(self, tokens: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Each stream's tokens (..., D) through its layer, in the order of STREAMS; None stays None."""
        return [None if x is None else self.of(stream)(x) for stream, x in enumerate(tokens)]


def causal_visibility(query_times: Tensor, key_times: Tensor) -> Tensor:
    """Whether a query sees a key, bool (Q, K): keys of its own time step and earlier ones."""
    return key_times[None, :] <= query_times[:, None]


def slot_visibility(num_grids: int, rule: Literal["causal", "full", "released"]) -> Tensor:
    """Which of the 2 G temporal slots [video 0..G-1 | actions 0..G-1] see which, bool (2 G, 2 G), True sees.

    causal: a slot of time t sees video and actions of times up to t: every video slot sees the actions that cause it
    and no later one.  full: everything sees everything.  released: causal in the order of the slots, as in the
    authors' release, where no video slot sees any action (reference D.1, defect i); for comparison only.
    """
    times = torch.arange(num_grids).repeat(2)
    if rule == "causal":
        return causal_visibility(times, times)
    if rule == "full":
        return torch.ones(2 * num_grids, 2 * num_grids, dtype=torch.bool)
    return causal_visibility(torch.arange(2 * num_grids), torch.arange(2 * num_grids))
