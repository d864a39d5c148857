"""A run folder: composing data, model and training from a RunConfig, and opening what a run left behind.

    config.toml   metrics.jsonl   checkpoints/step-N/   samples/step-N.png   results.json   report.html
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from hwm.config import FSQConfig, RunConfig, STConfig, from_toml
from hwm.contracts import Batch, Tokenizer
from hwm.data.clips import TokenClips, VideoClips, sample_indices
from hwm.data.describe import state_statistics
from hwm.data.onex import RawDataset, TokenDataset, open_dataset
from hwm.models.st_transformer import STTransformer
from hwm.robot import normalisation
from hwm.tokenizers.encode import open_tokenizer
from hwm.tokenizers.fsq import FSQTokenizer
from hwm.training import checkpoint
from hwm.training.loop import FitResult, fit

Clips = TokenClips | VideoClips


def build_model(config: RunConfig) -> nn.Module:
    """A freshly initialised model of the configured family; the same for the same seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        if isinstance(config.model, STConfig):
            return STTransformer(config.model)
        return FSQTokenizer(config.model, name=config.recipe)


def open_clips(config: RunConfig, folder: str | Path, *, training: bool) -> Clips:
    """The clips of a dataset as this run wants them.

    Raises ValueError when the data does not fit the model: wrong kind, grid or vocabulary.
    """
    dataset = open_dataset(folder)
    overlap = config.data.overlap and training
    if isinstance(config.model, FSQConfig):
        if not isinstance(dataset, RawDataset):
            raise ValueError(f"{folder}: a tokenizer learns from video; give a raw dataset (videos as .mp4)")
        return VideoClips(dataset, kind=config.data.clip, overlap=overlap, aligned=not overlap, size=config.data.image_size)
    if not isinstance(dataset, TokenDataset):
        raise ValueError(f"{folder}: this model learns from tokens; make them with `hwm tokenize {folder} OUT`")
    if (dataset.grid, dataset.vocab_size) != (config.model.grid, config.model.vocab_size):
        raise ValueError(
            f"{folder}: tokens on grid {dataset.grid} with vocabulary {dataset.vocab_size}, but the model is for grid "
            f"{config.model.grid} with vocabulary {config.model.vocab_size}; set model.grid and model.vocab_size"
        )
    return TokenClips(dataset, kind=config.data.clip, overlap=overlap, num_states=config.model.num_states)


def train(config: RunConfig, out: str | Path) -> FitResult:
    """Train a configured run in folder `out`, or resume it there."""
    out = Path(out)
    if not config.data.train:
        raise ValueError("data.train is empty: give the training data with --data FOLDER")
    clips = open_clips(config, config.data.train, training=True)
    model = build_model(config)
    if isinstance(model, STTransformer):
        mean, std = state_statistics(clips.dataset)
        model.set_state_statistics(torch.from_numpy(normalisation(mean, std, clips.dataset.robot)))

    def train_batch(index: int) -> Batch:
        size, count = config.train.batch_size, len(clips)
        return clips.batch(sample_indices(seed=config.seed, step=index, batch_size=size, num_clips=count))

    validation_batches = preview = None
    if config.data.val and (config.train.validate_every or config.train.sample_every):
        held_out = open_clips(config, config.data.val, training=False)
        validation_batches = _held_out_batches(held_out, config)
        preview = _preview(held_out, config)
    return fit(model, config, out, train_batch=train_batch, validation_batches=validation_batches, preview=preview)


def spread(count: int, total: int) -> np.ndarray:
    """`count` clip numbers spread evenly over 0..total-1 (all of them when there are fewer)."""
    return np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(np.int64))


def _held_out_batches(clips: Clips, config: RunConfig) -> Callable[[], Iterator[Batch]]:
    chosen = spread(config.train.validate_clips, len(clips))

    def batches() -> Iterator[Batch]:
        for start in range(0, len(chosen), config.train.batch_size):
            yield clips.batch(chosen[start : start + config.train.batch_size])

    return batches


def _preview(clips: Clips, config: RunConfig) -> Callable[[nn.Module, Path], None] | None:
    """Pictures while training: truth above prediction (or reconstruction), four clips side by side."""
    if not config.train.sample_every or (isinstance(config.model, STConfig) and not config.tokenizer):
        return None
    batch = clips.batch(spread(4, len(clips)))
    tokenizer = open_tokenizer(config.tokenizer) if config.tokenizer else None

    @torch.no_grad()
    def write(model: nn.Module, path: Path) -> None:
        if isinstance(model, FSQTokenizer):
            assert batch.video_BFHWC is not None
            device = model.patch_in.weight.device
            truth, guess = batch.video_BFHWC, model.decode(model.encode(batch.video_BFHWC.to(device))).cpu()
        else:
            assert isinstance(model, STTransformer) and batch.tokens_BTHW is not None and tokenizer is not None
            device = model.place_positions.device
            context, future = batch.tokens_BTHW.tensor_split([model.context_grids], 1)
            prediction = model.predict(
                context.to(device), batch.states_BFA.to(device), generator=torch.Generator(device), codes_VC=tokenizer.codes_VC
            )
            assert prediction.codes_BTHWC is not None
            truth, guess = tokenizer.decode(future), tokenizer.decode_codes(prediction.codes_BTHWC.cpu())
        last = torch.stack([truth[:, -1], guess[:, -1]])
        picture = last.permute(0, 2, 1, 3, 4).flatten(2, 3).flatten(0, 1)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.numpy()).save(path)

    return write


@dataclass(frozen=True)
class Run:
    """A trained run, opened for use."""

    folder: Path
    config: RunConfig
    model: nn.Module
    step: int


def load_run(folder: str | Path, *, which: str = "best", device: str = "cpu") -> Run:
    """Open a run folder with its best (or "last") weights, checked against their manifest."""
    folder = Path(folder)
    if not (folder / "config.toml").is_file():
        raise ValueError(f"{folder}: not a run folder (no config.toml); train one with `hwm train RECIPE --out {folder}`")
    config = from_toml(RunConfig, folder / "config.toml")
    model = build_model(config)
    place = checkpoint.find(folder, which=which)
    checkpoint.load_weights(place, model)
    return Run(folder, config, model.to(device).eval(), checkpoint.step_of(place))


def run_tokenizer(run: Run, *, trust: bool = False) -> Tokenizer:
    """The tokenizer whose tokens a run was trained on.  Raises ValueError when the run does not name one."""
    if not run.config.tokenizer:
        raise ValueError(f"{run.folder}/config.toml: tokenizer is empty; set it to score pixels (--tokenizer NAME)")
    return open_tokenizer(run.config.tokenizer, trust=trust)
