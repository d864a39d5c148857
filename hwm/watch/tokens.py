"""A prediction of 1X v1.1 tokens, written in the layout of that release, so that 1X's own decoder can show it.

    video.bin          the seen grids, the predicted ones, then the true ones in their place
    metadata.json      of the data, with num_prompt_frames and window_size, which `visualize.py` of 1xgpt asks for
    segment_ids.bin, actions/       as in any dataset of the release: prediction and truth are segments of their own

Source: 1xgpt, `genie/generate.py` and `visualize.py` (reference C.3); segments and actions are ours, which make it a dataset.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hwm.clock import EACH_FRAME
from hwm.contracts import Sampling
from hwm.data.legacy import WIDTHS, LegacyDataset
from hwm.predict.last_frame import generator_of
from hwm.predict.rollout import rollout
from hwm.publish.trained import kept_in
from hwm.runs import clips_for, load_run, world_model
from hwm.training.device import choose_device
from hwm.watch.film import begins, frames_ahead
from hwm.work.claim import expect_apart
from hwm.work.files import new_folder, read_json, write_array, write_json


def write_tokens(
    folder: Path,
    *, data: Path, out: Path, clip: int = 0, frames: int | None = None, which: str = "best", temperature: float | None = None,
    changes: tuple[str, ...] = (), seed: int = 0, device: str = "auto", base: str = "", poll: Callable[[], None] = lambda: None,
) -> Path:  # fmt: skip
    """Predict the grids to come after a clip's context, from predicted ones on, and write them as a v1.1 dataset.

    out: a new folder.  frames: of the recording, a multiple of the run's stride; None: as far as a clip of the run goes.
    The rest as in `hwm.watch.film.films`.
    Raises ValueError for data of another kind, and as `films`.
    """
    device = str(choose_device(device))
    expect_apart(out, data, kept_in(folder))
    run = load_run(folder, which=which, device=device, changes=changes, base=base)
    model, clips = world_model(run), clips_for(run, data)
    dataset: Any = clips.dataset
    if not isinstance(dataset, LegacyDataset):
        raise ValueError(f"{data}: --tokens is for 1X v1.1, a grid a frame, which these are not; --out writes a video of them")
    shard, first = begins(clips, clip, data)
    stride, num_seen = run.config.data.stride, model.context_grids
    start, usual = first + (num_seen - 1) * stride + 1, model.future_grids * stride
    ahead = frames_ahead(frames, clip, shard, start, clock=None, step=stride, usual=usual)
    num_ahead = ahead // stride
    rows = first + stride * np.arange(num_seen + num_ahead)
    true_THW, states_FA = shard.read(first, int(rows[-1]) + 1 - first)[::stride], shard.read_states(rows)
    found = rollout(
        model, None, torch.from_numpy(true_THW[None, :num_seen]).to(device), torch.from_numpy(states_FA[None]).to(device),
        num_frames=num_ahead, generator=[generator_of(seed, 0, torch.device(device))], clock=EACH_FRAME, poll=poll,
        sampling=None if temperature is None else Sampling(temperature=temperature),
    )  # fmt: skip
    assert found.tokens_BKTHW is not None
    pred_THW = found.tokens_BKTHW[0, 0, :num_ahead].cpu().numpy()
    tokens = np.concatenate([true_THW[:num_seen], pred_THW, true_THW[num_seen:]])
    order = np.append(np.arange(len(rows)), np.arange(num_seen, len(rows)))
    about = read_json(Path(dataset.root) / "metadata.json") | {"num_images": len(tokens), "hz": max(1, dataset.hz // stride)}
    about |= {"num_prompt_frames": num_seen, "window_size": len(rows), "t": len(rows), "example_ind": clip, "seed": seed}
    with new_folder(out) as made:
        write_array(made / "video.bin", tokens, shard.dtype)
        write_array(made / "segment_ids.bin", np.arange(len(tokens)) >= len(rows), "<i4")
        (made / "actions").mkdir()
        ends = np.cumsum(list(WIDTHS.values()))[:-1]
        for name, values in zip(WIDTHS, np.split(states_FA[order], ends, axis=1)):
            write_array(made / "actions" / f"{name}.bin", values, "<f4")
        write_json(made / "metadata.json", about)
    return out
