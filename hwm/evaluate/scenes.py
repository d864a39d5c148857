"""Which clips are scored, and a scene: some of them as a protocol looks at them.

A scene holds what a model may see of its clips and what its frames are held against.  Clips of tokens or latents are seen
through the tokenizer, beside the recorded video where that is at hand; clips of video as they were recorded.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hwm.contracts import Batch
from hwm.data.windows import evenly
from hwm.evaluate.controls import TRUE, Control
from hwm.evaluate.protocols import Protocol
from hwm.evaluate.scores import ORIGINAL, RECONSTRUCTION
from hwm.predict.last_frame import shrink
from hwm.predict.rollout import FrameDecoder
from hwm.tokenizers.open import Undecoded


def spread(total: int, wanted: int) -> np.ndarray:
    """Indices of `wanted` clips evenly spread over `total`, all of them for 0."""
    if total < 2 or wanted == 1 or wanted < 0:
        raise ValueError(f"an evaluation needs at least 2 clips; the data has {total} and {wanted} were asked for")
    return evenly(wanted or total, total)


def from_another_segment(num: int, groups: np.ndarray | None, seed: int) -> np.ndarray:
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


def siblings(starts: np.ndarray) -> np.ndarray:
    """Of every clip the others that begin as it does, int64 (N, K - 1), of K clips that most have in common.

    starts: a number for how each begins.  A clip with fewer others stands in its own row for those that are missing.
    """
    found = [np.flatnonzero((starts == start) & (np.arange(len(starts)) != i)) for i, start in enumerate(starts)]
    most = max(map(len, found))
    return np.array([np.pad(own, (0, most - len(own)), constant_values=i) for i, own in enumerate(found)])


def copy_last_grid(context: Tensor, *, num_grids: int) -> Tensor:
    """The last context grid, tokens (B, T, H, W) or latents (B, T, C, H, W), `num_grids` times."""
    return context[:, -1:].repeat_interleave(num_grids, 1)


class View(NamedTuple):
    """Frames of some clips as one reference has them: the seen and the scored ones, uint8 (B, F, H, W, 3).

    masks: which pixels of the scored frames, as recorded, show the robot's arms, bool (B, F, h, w); None where the data do not
    tell.  states: its raw states in those frames, (B, F, A); None where there are fewer rows.  others: the scored frames of K - 1
    clips that begin alike and go on with other states, uint8 (B, K - 1, F, H, W, 3); None where clips share no beginning.
    """

    past: Tensor
    truth: Tensor
    masks: Tensor | None = None
    states: Tensor | None = None
    others: Tensor | None = None


@dataclass(frozen=True)
class Scene:
    """Some clips.  numbers: in the dataset, (B,).  first: place of the first one among all that are scored.

    context: what the model starts from, grids or recorded frames.  future: the true grids after it; None for video.
    states: raw rows (B, F, A) from the first seen frame on, the true ones and by name of the controls' others.
    views: by reference, the verdict's first; none where there is no tokenizer to decode with.
    copied: frames of a future of grids that repeats the last grid of the context.
    """

    numbers: np.ndarray
    first: int
    context: Tensor
    future: Tensor | None
    states: dict[str, Tensor]
    views: dict[str, View]
    copied: Tensor | None = None

    @property
    def view(self) -> View:
        """That of the verdict."""
        return next(iter(self.views.values()))

    def last(self) -> tuple[Tensor, Tensor]:
        """The last seen and the last scored frame of the verdict's view, (B, H, W, 3)."""
        return self.view.past[:, -1], self.view.truth[:, -1]


class Scenes:
    """Makes scenes of clips.  video: gives the recorded frames of clips of grids, of the size the tokenizer decodes to.

    masks: gives of these frames which pixels show the robot's arms; None where the video does not tell.
    score_size: side of the square pictures that recorded video is scored at; 0: as recorded.  controls: of the states.
    alike: of every clip of video those that begin like it, (N, K - 1); None: none do.
    """

    def __init__(
        self, model: Any, tokenizer: Any, clips: Any, protocol: Protocol, *, video: Callable[[np.ndarray], Tensor] | None = None,
        masks: Callable[[np.ndarray], Tensor] | None = None, score_size: int = 0, controls: Sequence[Control] = (),
        alike: np.ndarray | None = None, device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        self.model, self.tokenizer, self.clips, self.protocol, self.device = model, tokenizer, clips, protocol, device
        self._video, self._masks, self._score_size, self._controls, self._alike = video, masks, score_size, controls, alike

    @cached_property
    def decoder(self) -> FrameDecoder:
        """Frames of grids."""
        grids = {"context_grids": self.model.context_grids, "future_grids": self.model.future_grids}
        return FrameDecoder(self.tokenizer, device=self.device, **grids)

    def look(self, numbers: np.ndarray, *, first: int = 0, others: np.ndarray | None = None, clips: Any = None) -> Scene:
        """The scene of the clips with these numbers.  others: those whose states are taken for permuted ones; None: no controls.

        clips: to look at instead.  Raises ValueError for clips that do not fit the model or the protocol.
        """
        clips = clips or self.clips
        batch = clips.batch(numbers)
        recorded = self._video if clips is self.clips else None
        num_states, seen = self._of_video(batch) if batch.video_BFHWC is not None else self._of_grids(batch, numbers, recorded)
        states_BFA = batch.states_BFA[:, :num_states]
        if seen["views"]:
            shown = batch.masks_BFHW if recorded is None or self._masks is None else self._masks(numbers)
            known = {"masks": self._scored(shown), "states": self._scored(batch.states_BFA, of_all=True)}
            seen["views"] = {reference: view._replace(**known) for reference, view in seen["views"].items()}
        if self._alike is not None and clips is self.clips and batch.video_BFHWC is not None:
            also = self._of_video(clips.batch(self._alike[numbers].ravel()))[1]["views"][ORIGINAL].truth
            seen["views"][ORIGINAL] = seen["views"][ORIGINAL]._replace(others=also.unflatten(0, (len(numbers), -1)))
        found = {TRUE: states_BFA}
        if others is not None:
            how = {"neutral_A": self.model.neutral_state_A.cpu(), "others_BFA": clips.batch(others).states_BFA[:, :num_states]}
            found |= {control.name: control(states_BFA, **how) for control in self._controls}
        return Scene(numbers=numbers, first=first, states=found, **seen)

    def _scored(self, rows: Tensor | None, *, of_all: bool = False) -> Tensor | None:
        """Of what is known of a clip's frames that of the scored ones.  of_all: its rows are those of all frames.

        Else they may be those of the seen and the scored ones alone.
        """
        end, seen = self.protocol.scored[-1] + 1, self.protocol.num_seen
        if rows is None or (rows.shape[1] < end and (of_all or rows.shape[1] != seen + len(self.protocol.scored))):
            return None
        return rows[:, list(self.protocol.scored)] if rows.shape[1] >= end else rows[:, seen:]

    def _of_grids(
        self, batch: Batch, numbers: np.ndarray, recorded: Callable[[np.ndarray], Tensor] | None
    ) -> tuple[int, dict[str, Any]]:
        model, kind = self.model, self.model.predicts
        found, wanted = batch.tokens_BTHW if kind == "tokens" else batch.latents_BTCHW, model.context_grids + model.future_grids
        if found is None or found.shape[1] != wanted:
            raise ValueError(f"the model needs clips of {wanted} {kind.removesuffix('s')} grids")
        if batch.states_BFA.shape[1] < model.num_states:
            raise ValueError(f"the model reads {model.num_states} state rows, the clips have {batch.states_BFA.shape[1]}")
        context, future = found.tensor_split([model.context_grids], 1)
        if isinstance(self.tokenizer, Undecoded):
            return model.num_states, {"context": context, "future": future, "views": {}}
        past, copied = self.decoder.past_and_repeated(context, copy_last_grid(context, num_grids=model.future_grids))
        views = {RECONSTRUCTION: View(past, self.decoder.future(context, future))}
        if recorded is not None:
            views[ORIGINAL] = _recorded(recorded(numbers).cpu(), views[RECONSTRUCTION])
        return model.num_states, {"context": context, "future": future, "views": views, "copied": copied}

    def _of_video(self, batch: Batch) -> tuple[int, dict[str, Any]]:
        video, rows, protocol = batch.video_BFHWC, batch.states_BFA.shape[1], self.protocol
        assert video is not None
        seen, end = protocol.num_seen, protocol.scored[-1] + 1
        if (video.shape[1] < end and video.shape[1] != seen + len(protocol.scored)) or rows < end:
            raise ValueError(
                f"the {protocol.name} protocol needs video clips of {end} frames and states, or the seen and the scored frames; "
                f"got {video.shape[1]} frames and {rows} states"
            )
        size = (video.shape[2], video.shape[3])
        if self._score_size > min(size):
            recorded = f"{size[0]}x{size[1]}"
            raise ValueError(f"frames of {recorded} cannot be scored at {self._score_size}: there is no truth of that size")
        height, width = (self._score_size, self._score_size) if self._score_size else size
        context = video[:, :seen]
        truth = video[:, list(protocol.scored)] if video.shape[1] >= end else video[:, seen:]
        view = View(shrink(context, height=height, width=width), shrink(truth, height=height, width=width))
        return end, {"context": context, "future": None, "views": {ORIGINAL: view}}


def _recorded(video: Tensor, decoded: View) -> View:
    """Recorded frames, after checking that they are of the size that is decoded."""
    past, truth = decoded.past, decoded.truth
    wanted = (len(past), past.shape[1] + truth.shape[1], *past.shape[2:])
    if video.dtype != torch.uint8 or tuple(video.shape) != wanted:
        raise ValueError(
            f"the recorded video must be uint8 {wanted} as the tokenizer decodes it, got {video.dtype} {tuple(video.shape)}; "
            "resize it by area first"
        )
    return View(video[:, : past.shape[1]], video[:, past.shape[1] :])
