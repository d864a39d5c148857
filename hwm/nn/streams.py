"""The four token streams of the Humanoid World Models, and which of them share weights.

Source: HWM paper section 2.4: base block, modality sharing, full sharing, split attention.  All four are values here:

    base       attention="joint", sharing="stream"
    modality   attention="joint", sharing="modality" after the first `unshared_blocks`
    full       attention="joint", sharing="full" after the first `unshared_blocks`
    split      attention="split", with the sharing that reproduces the published size (SYSTEMS.md 2, 3)
"""

from collections.abc import Callable, Iterable
from typing import Literal

from torch import nn

STREAMS = ("past_video", "future_video", "past_actions", "future_actions")
PAST_VIDEO, FUTURE_VIDEO, PAST_ACTIONS, FUTURE_ACTIONS = range(4)

Sharing = Literal["stream", "modality", "full"]
WEIGHT_SET: dict[str, tuple[int, int, int, int]] = {"stream": (0, 1, 2, 3), "modality": (0, 0, 1, 1), "full": (0, 0, 0, 0)}
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
