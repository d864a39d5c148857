"""Using a trained run: score it, watch it predict."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from hwm.contracts import LatentTokenizer, Sampling, Tokenizer
from hwm.data.clips import Clips, recorded
from hwm.data.video import VideoWriter
from hwm.data.windows import state_rows
from hwm.evaluate.networks import Lpips
from hwm.evaluate_old.baselines import unigram_counts
from hwm.evaluate_old.blocks import evaluate
from hwm.evaluate_old.old_report import RESULTS, write_report
from hwm.evaluate_old.perceptual import InceptionFeatures, TokenizerFeatures, VideoFeatures
from hwm.evaluate_old.results import EvaluationResult
from hwm.predict.rollout import rollout
from hwm.runs import Run, load_run, open_clips, spread, world_model
from hwm.tokenizers.open import open_tokenizer
from hwm.work.fingerprint import sources
from hwm.work.parts import Work, listening
from hwm.work.progress import Counter
from hwm.work.share import Share
from hwm.work.signals import StopFlag

PAST_COLOUR, FUTURE_COLOUR = (156, 163, 175), (29, 78, 216)
"""RGB of the bar below a video, before and after the prediction begins."""
UNIGRAM_CLIPS = 2000
"""Training clips, evenly spread, from which the token frequencies of the unigram baseline are counted."""
TOP_LOGITS = 500


def evaluate_run(
    folder: Path,
    *,
    data: Path,
    video: Path | None = None,
    out: Path,
    clips: int = 96,
    batch_size: int = 16,
    seed: int = 0,
    which: str = "best",
    changes: tuple[str, ...] = (),
    decode: Literal["mean", "sample"] = "mean",
    inception: Path | None = None,
    lpips: tuple[Path, ...] = (),
    tokenizer: str = "",
    trust: bool = False,
    device: str = "cpu",
    command: str = "",
    share: Share = Share(),  # noqa: B008
    stop: StopFlag | None = None,
) -> EvaluationResult:
    """Score a run of any family on the one protocol; write results.json and report.html into `out`.

    What was scored is kept in `out` until the report is written, so that the same call goes on where it was stopped, even
    killed, and gives the same numbers.

    data: held-out tokens or latents.  video: the raw dataset they were made from, to score against the recorded frames
    too.  changes: overrides of how the model predicts (`runs.load_run`).  decode: which reading the verdict is about.
    inception: weights for FID.  lpips: weights of AlexNet and of the LPIPS heads, in one file or two.
    share: of the clips that this process scores; others, called alike, score the rest, and who is last writes the report.
    stop: asked between steps; None: one of its own, which SIGTERM and its kin raise.
    Raises ValueError when the data is not of the run's tokenizer or the video is not theirs, Elsewhere where another process
    writes the report, Stopped where it was told to stop.
    """
    with listening(stop) as flag:
        work = Work(out / RESULTS, sources(video=video, inception=inception, lpips=lpips), share, flag)
        run = load_run(folder, which=which, device=device, changes=changes)
        model = world_model(run)
        held_out = open_clips(run.config, data, training=False)
        coder = _tokenizer_of(run, held_out, tokenizer, trust=trust, device=device)
        features: list[VideoFeatures] = [TokenizerFeatures(device=device)]
        if inception is not None:
            features.append(InceptionFeatures(inception, device=device))
        with Counter("evaluating", unit="clips") as counter:
            result = evaluate(
                model,
                coder,
                held_out,
                video=recorded(held_out, video, size=held_out.dataset.grid[0] * coder.spatial_stride) if video else None,
                segments=held_out.segments(),
                num_clips=min(clips, len(held_out)),
                batch_size=batch_size,
                seed=seed,
                decode=decode,
                unigram_counts=_unigram(run) if model.predicts == "tokens" else None,
                neutral_state_A=model.neutral_state_A.cpu(),
                top_k=TOP_LOGITS,
                features=features,
                lpips=Lpips(lpips[0], lpips[1] if len(lpips) > 1 else None, device=device) if lpips else None,
                device=device,
                progress=counter,
                work=work,
            )
        write_report(out, result, run_folder=run.folder, command=command)
        work.remove(result.settings["fingerprint"])
    return result


def predict_video(
    folder: Path,
    *,
    data: Path,
    out: Path,
    clip: int = 0,
    frames: int = 51,
    which: str = "best",
    temperature: float | None = None,
    changes: tuple[str, ...] = (),
    seed: int = 0,
    tokenizer: str = "",
    poll: Callable[[], None] = lambda: None,
) -> Path:
    """Write the recorded future (left) beside a rollout that follows the recorded states (right) and return the file.

    Both sides begin with the context; the future starts where the bar below turns blue.  temperature: None is the
    model's own.  Past the recording's end the last state is held.  poll: called between steps; may raise.
    """
    run = load_run(folder, which=which, changes=changes)
    model, clips = world_model(run), open_clips(run.config, data, training=False)
    if not 0 <= clip < len(clips):
        raise ValueError(f"{data}: has clips 0..{len(clips) - 1}, not {clip}")
    coder = _tokenizer_of(run, clips, tokenizer)
    clock = coder.clock
    num_context = clock.num_frames(model.context_grids)
    shard, first = clips.dataset.shards[clips.index.shard[clip]], int(clips.index.start[clip])
    rows = state_rows(shard.segments, first, num_context + frames)
    states = torch.from_numpy(shard.read_states(rows))[None]
    blocks = min(-(-(num_context + frames) // clock.block), clock.num_blocks(shard.num_frames) - first // clock.block)
    grids = torch.from_numpy(shard.read(first, blocks * clock.block))[None]
    truth = coder.decode(grids)[0].numpy()[: num_context + frames]
    result = rollout(
        model,
        coder,
        grids[:, : model.context_grids],
        states,
        num_frames=frames,
        generator=torch.Generator().manual_seed(seed),
        sampling=None if temperature is None else Sampling(temperature=temperature),
        poll=poll,
    )
    assert result.video_BKFHWC is not None
    predicted = np.concatenate([truth[:num_context], result.video_BKFHWC[0, 0].numpy()])[: len(truth)]
    write_pair(out, truth, predicted, num_past=num_context)
    return out


def write_pair(out: Path, left_FHWC: np.ndarray, right_FHWC: np.ndarray, *, num_past: int, repeat: int = 1) -> None:
    """Write two videos side by side, small ones enlarged, above a bar that turns blue after `num_past` frames.

    left_FHWC, right_FHWC: uint8.  repeat: how often each frame is shown.
    """
    pair = np.concatenate([left_FHWC, np.full_like(left_FHWC[:, :, :2], 255), right_FHWC], 2)
    pair = pair.repeat(max(1, 256 // pair.shape[1]), 1).repeat(max(1, 256 // left_FHWC.shape[2]), 2)
    pair[:num_past, -6:], pair[num_past:, -6:] = PAST_COLOUR, FUTURE_COLOUR
    with VideoWriter(out, height=pair.shape[1], width=pair.shape[2]) as writer:
        writer.write(pair.repeat(repeat, 0))


def _tokenizer_of(
    run: Run, clips: Clips, name: str, *, trust: bool = False, device: str = "cpu"
) -> Tokenizer | LatentTokenizer:
    """The tokenizer of the run (or `name`), after checking that it made this data."""
    coder = tokenizer_of(run, name, trust=trust, device=device)
    made_by = clips.dataset.tokenizer
    if made_by and made_by.get("fingerprint") != coder.fingerprint():
        raise ValueError(f"{clips.dataset.root}: was encoded by another tokenizer ({made_by.get('name')}) than {coder.name}")
    return coder


def tokenizer_of(run: Run, name: str = "", *, trust: bool = False, device: str = "cpu") -> Tokenizer | LatentTokenizer:
    """The tokenizer called `name`, or the run's, of the kind its model predicts.  Raises ValueError where there is none."""
    name = name or run.config.tokenizer
    if not name:
        raise ValueError(f"{run.folder}: the run names no tokenizer for the pixels; give --tokenizer NAME or FOLDER")
    return open_tokenizer(name, kind=world_model(run).predicts, trust=trust, device=device)


def _unigram(run: Run) -> Tensor | None:
    """Token frequencies of the training set, where it is still there."""
    if not (Path(run.config.data.train) / "metadata.json").is_file():
        return None
    clips = open_clips(run.config, run.config.data.train, training=False)
    chosen = spread(UNIGRAM_CLIPS, len(clips))
    batches = (clips.batch(chosen[i : i + 64]).tokens_BTHW for i in range(0, len(chosen), 64))
    return unigram_counts((b for b in batches if b is not None), vocab_size=clips.dataset.sizes()["vocab_size"])


