"""Metrics that read: what small networks find in predicted frames, held against what is known of the clips (ours)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hwm.data.raw import shrunk
from hwm.evaluate.metrics import MASK_IOU, READ, STATE_ERROR, Metric
from hwm.evaluate.scenes import View
from hwm.models.reader import MaskReader, StateReader, overlap

_SHOWN = {metric.name: metric for metric in READ}


def mask_iou(reader: MaskReader) -> Metric:
    """Overlap of the robot's arms as `reader` finds it with where they truly are, at the reader's size.

    Frames that do not truly show it have none, whatever is found there.
    """
    device = next(reader.parameters()).device

    def measure(frames: Tensor, view: View) -> Tensor | None:
        if view.masks is None:
            return None
        size, truth = reader.config.grid, view.masks
        if tuple(truth.shape[2:]) != size:
            truth = torch.from_numpy(shrunk(truth.flatten(0, 1).numpy(), size)).unflatten(0, truth.shape[:2])
        found = overlap(reader.read(frames.to(device)).cpu(), truth)
        return found.masked_fill(~truth.flatten(-2).any(-1), torch.nan)

    return replace(_SHOWN[MASK_IOU], of_view=measure)


def state_errors(reader: StateReader, groups: Mapping[str, Sequence[int]]) -> Iterator[Metric]:
    """Mean absolute error of normalised states as `reader` reads them off frames, of all that can be read and of each group.

    groups: dimensions of the robot's state by the group's name; those of velocities alone have no score.
    """
    last: list[Any] = [None, None]
    device, readable = next(reader.parameters()).device, reader.config.readable

    def errors(frames: Tensor, view: View) -> Tensor | None:
        """Of every dimension, (B, F, A); the same frames are read once."""
        if view.states is None:
            return None
        if last[0] is not frames:
            found = reader.read(frames.to(device)).float()
            last[:] = frames, (found - reader.normalised(view.states.to(device))).abs().double().cpu()
        return last[1]

    def of(rows: Sequence[int]) -> Any:
        def measure(frames: Tensor, view: View) -> Tensor | None:
            found = errors(frames, view)
            return None if found is None else found[..., np.array(rows)].mean(-1)

        return measure

    yield replace(_SHOWN[STATE_ERROR], of_view=of(readable))
    for name, rows in groups.items():
        if own := [row for row in rows if row in readable]:
            words = name.replace("_", " ")
            yield replace(_SHOWN[STATE_ERROR], name=f"{STATE_ERROR}, {words}", title=words, of_view=of(own), part=STATE_ERROR)
