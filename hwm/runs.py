"""A run folder: composing data, model and training from a RunConfig, and opening what a run left behind.

    config.toml   metrics.jsonl   checkpoints/step-N/   samples/step-N.png   results.json   report.html
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from hwm.clock import SAMPLING_HOP, subsample
from hwm.config import RunConfig, changed, from_toml, override, to_toml
from hwm.contracts import Batch
from hwm.data.clips import FIELDS, Clips, sample_indices
from hwm.data.describe import state_statistics
from hwm.data.motion import Motion
from hwm.data.onex import open_dataset, read_robot
from hwm.data.together import open_together
from hwm.evaluate.token_scores import unigram_counts
from hwm.models.build import build_model
from hwm.predict.rollout import Dream, FrameDecoder
from hwm.publish.folder import ROBOT, is_published
from hwm.publish.trained import SHIPPED, begin, open_trained, start_of
from hwm.robot import normalisation
from hwm.safe_load.paths import is_file, shown
from hwm.safe_load.text import read_bytes
from hwm.tokenizers.at_hand import TOKENIZER
from hwm.tokenizers.open import keep_copy, open_tokenizer, own_names
from hwm.training import checkpoint
from hwm.training.device import choose_device, free_on
from hwm.training.identity import Identity, expect_data, identity_of
from hwm.training.loop import FitResult, already_done, fit
from hwm.training.processes import ALONE, Processes
from hwm.training.run_folder import dealt_out, in_precision, taken_up
from hwm.training.stored import load_weights
from hwm.work.allowance import idle_cores, usable_cores
from hwm.work.claim import expect_apart
from hwm.work.files import atomic_path, sealed, unsealed, write_text

TEXT, COUNTS = "text.safetensors", "unigram.json"
"""What a run folder holds, beside `TOKENIZER`, of what lay elsewhere when it was trained."""
MAX_TEXT_BYTES = 100_000_000
COUNTED_CLIPS = 2000
"""Training clips, evenly spread, from which the token frequencies of the unigram baseline are counted."""
REMEDY = {
    "tokens": "make them with `hwm tokenize RAW OUT`",
    "latents": "make them with `hwm tokenize` and a continuous tokenizer",
    "video": "give a raw dataset (videos as .mp4)",
}
"""What to do for want of data of each kind."""


Folders = str | Path | Sequence[str | Path]
"""Where data lie: one dataset, or several that are read as one."""


def open_clips(config: RunConfig, folder: Folders, *, training: bool, identity: Identity = {}) -> Clips:  # noqa: B006
    """The clips of a dataset, or of several one after the other, as this run wants them.

    identity: of what the run learns from.
    Raises ValueError when the data does not fit the model or what it learns from: wrong kind, grid, vocabulary, channels,
    robot or tokenizer.
    """
    folders = [folder] if isinstance(folder, str | Path) else list(folder)
    model: Any = config.model
    dataset: Any = open_together(folders)
    if model.kind == "motion":
        if config.data.clip != "motion":
            raise ValueError(f'data.clip must be "motion" for a twin, got "{config.data.clip}"; leave it as the recipe has it')
        dataset = Motion(dataset)
    folder = " and ".join(map(str, folders))
    window, overlap, is_tokenizer = config.data.clip, config.data.overlap and training, model.role == "tokenizer"
    if dataset.kind != model.kind:
        who = "this model" if model.role == "world model" else f"a {model.role}"
        raise ValueError(f"{folder}: {who} learns from {model.kind}; {REMEDY[model.kind]}")
    dataset.expect_window(window)
    cut: dict[str, Any] = {"kind": window, "overlap": overlap}
    if model.kind == "video":
        dataset = dataset.resized(config.data.image_size)
        cut |= {"aligned": not overlap}
        if window == "sampling" and model.role == "world model":
            cut |= {"length": model.context_grids + model.horizon}  # or the clip's own, if that is more
    if window == "frames":
        cut |= {"length": model.context_grids + model.future_grids, "stride": config.data.stride}
    if window == "motion":
        cut |= {"length": model.num_states}
    if is_tokenizer:
        if window == "sampling":
            cut |= {"every": SAMPLING_HOP if overlap else 1, "kept": subsample(length=model.block)}
        return Clips(dataset, **cut)
    if model.reads_masks:
        cut["masks"] = True
        if bare := [shard for shard in dataset.shards if shard.masks_path is None]:
            bare[0].read_masks(0, 0)  # says what is missing
    for name, found in dataset.sizes().items():
        if getattr(model, name) != found:
            remedy = f"set model.{name}" + " or data.image_size" * (model.kind == "video")
            raise ValueError(f"{folder}: its {name} is {found}, the model is for {name} {getattr(model, name)}; {remedy}")
    if model.reads_states:
        expect_robot(dataset, model, identity)
    # A model of video learns from every frame of a clip, however many, with its state.
    return Clips(dataset, **cut, num_states=0 if model.kind == "video" else model.num_states)


def expect_robot(dataset: Any, model: Any, identity: Identity) -> None:
    """Raise ValueError for data of a robot whose states the configured model does not read, or of another than it learns from."""
    expect_data(dataset, identity)
    if dataset.robot.dim != model.state_dim:
        found = f"its robot {dataset.robot.name} has {dataset.robot.dim} state dimensions, the model reads {model.state_dim}"
        remedy = f"give data of the model's robot, or train with model.state_dim={dataset.robot.dim}"
        raise ValueError(f"{dataset.root}: {found}; {remedy}")


def fitted(config: RunConfig) -> RunConfig:
    """The configuration for the robot of its training data: recipes are for EVE (`Family.for_robot`)."""
    if not config.data.train:
        return config
    folder, of_motion = config.data.train[0], config.model.kind == "motion"
    robot = Motion(open_dataset(folder, verified=False)).robot if of_motion else read_robot(folder)
    return replace(config, model=config.model.for_robot(robot))


def train(config: RunConfig, out: str | Path, *, processes: Processes = ALONE, prolong: bool = False) -> FitResult:
    """Train a configured run in folder `out`, or resume it there; all processes that train together call it alike.

    prolong: as `taken_up`.
    Raises ValueError as `open_clips`, `expect_tokenizer`, `publish.trained.begin` and `training.loop.fit`.
    """
    config, clips, val, identity = _ready(config, Path(out), processes, world=processes.world, prolong=prolong)
    if processes.world == 1:
        config = _among_others(config, Path(out))
    model = prepared_model(config, clips)
    if config.init and checkpoint.newest_state(Path(out) / "checkpoints") is None:
        begin(model, config, identity, say=print if processes.first else lambda line: None)

    def train_batch(index: int) -> Batch:
        size, count = config.train.batch_size, len(clips)
        return clips.batch(sample_indices(seed=config.seed, step=index, batch_size=size, num_clips=count))

    held_out = preview = None
    if val is not None:
        held_out = HeldOut(val, spread(config.train.validate_clips, len(val)), config.train.batch_size)
        preview = _preview(val, config)
    return fit(
        model, config, out, train_batch=train_batch, validation_batches=held_out, preview=preview, processes=processes,
        identity=identity, settled=lambda: _complete(Path(out), config, clips, identity),
    )  # fmt: skip


def _complete(out: Path, config: RunConfig, clips: Clips, identity: Identity) -> None:
    """Lay into a run folder what using it takes beside the weights, so that it need not be looked for elsewhere.

    A tokenizer of the library's own that is not shipped with it, the text of a Wan model, what the states mean, and the
    frequencies of the tokens.
    """
    name, is_tokenizer = config.tokenizer, config.model.role == "tokenizer"
    if name and not is_tokenizer and name not in own_names() and is_published(name):
        keep_copy(Path(name), out / TOKENIZER)
    else:
        shutil.rmtree(out / TOKENIZER, ignore_errors=True)  # of an earlier start in this folder
    if not is_tokenizer:
        write_text(out / ROBOT, to_toml(clips.dataset.robot))
    if (text := getattr(config.model, "text", "")) not in ("", "zeros"):
        with atomic_path(out / TEXT) as target:
            target.write_bytes(read_bytes(text, max_bytes=MAX_TEXT_BYTES, kind="text embedding"))
    if config.model.kind == "tokens" and not is_tokenizer:
        try:
            counted = unsealed(out / COUNTS)["train"] == identity["train"]
        except (ValueError, KeyError):
            counted = False
        if not counted:
            counts = token_counts(open_clips(config, config.data.train, training=False))
            write_text(out / COUNTS, sealed({"train": identity["train"], "counts": counts.tolist()}))


def token_counts(clips: Clips) -> Tensor:
    """How often each token occurs in clips spread over the data, int64 (V,)."""
    chosen = spread(COUNTED_CLIPS, len(clips))
    batches = (clips.batch(chosen[i : i + 64]).tokens_BTHW for i in range(0, len(chosen), 64))
    return unigram_counts((b for b in batches if b is not None), vocab_size=clips.dataset.sizes()["vocab_size"])


def check(config: RunConfig, out: Path, *, world: int, prolong: bool = False) -> FitResult | None:
    """Before `world` processes are started to train this: the result of a run that is complete, else None.

    Raises the ValueError that they would end with, as far as it shows without training.
    """
    config, _, _, identity = _ready(config, out, ALONE, world=world, prolong=prolong)
    return already_done(out, config, identity)


def _among_others(config: RunConfig, out: Path) -> RunConfig:
    """The configuration with no more threads than cores are idle; a run that goes on keeps its number, on which sums depend."""
    threads, path = config.train.threads, out / "config.toml"
    most = min(torch.get_num_threads(), usable_cores())
    if threads or most == 1 or choose_device(config.train.device).type != "cpu":
        return config
    if path.is_file():
        threads = from_toml(RunConfig, path).train.threads
    elif (idle := idle_cores()) < most:
        threads = idle
        told = f"others keep {most - idle} of {most} cores busy: this trains with {idle} thread{'' if idle == 1 else 's'}"
        print(f"{told}, and goes on so; --set train.threads={most} takes all", flush=True)
    return replace(config, train=replace(config.train, threads=threads))


def _ready(
    config: RunConfig, out: Path, processes: Processes, *, world: int, prolong: bool
) -> tuple[RunConfig, Clips, Clips | None, dict[str, Any]]:
    """The configuration for these data and processes, the clips for training and validation, and what the run learns from."""
    if not config.data.train:
        raise ValueError("data.train is empty: give the training data with --data FOLDER")
    expect_apart(out, *config.data.train, config.data.val, config.tokenizer, config.init)
    given = config.init
    config = in_precision(fitted(config), out, processes=processes)
    config = dealt_out(taken_up(config, out, prolong=prolong), out, world=world)

    def opened(folder: Folders, *, training: bool, identity: Identity) -> Clips:
        # The first process compares the files with their checksums and notes it: the others need not.
        if processes.world > 1:
            processes.on_first(lambda: len(open_clips(config, folder, training=training, identity=identity)))
        return open_clips(config, folder, training=training, identity=identity)

    clips, val = opened(config.data.train, training=True, identity={}), None
    if config.train.validate_every and not config.data.val:
        raise ValueError("there are no validation clips: give --val FOLDER (data.val), or --set train.validate_every=0")
    identity = processes.on_first(lambda: identity_of(clips.dataset))
    if config.data.val and (config.train.validate_every or config.train.sample_every):
        val = opened(config.data.val, training=False, identity=identity)
        identity["val"] = processes.on_first(lambda: val.dataset.fingerprint)
    processes.on_first(lambda: expect_tokenizer(config, identity))
    if config.init:
        before = checkpoint.newest_state(out / "checkpoints")
        identity["init"] = before["identity"]["init"] if before and not given else processes.on_first(lambda: start_of(given))
    return config, clips, val, identity


def expect_tokenizer(config: RunConfig, identity: Identity) -> None:
    """Raise ValueError where the tokenizer that a run names did not make its data: it could not show what is predicted."""
    if not config.tokenizer or config.model.role == "tokenizer" or config.model.kind == "video":
        return
    name, where = config.tokenizer, " and ".join(config.data.train)
    if is_file(Path(name) / "encoder.jit"):
        remedy = f"leave it away: `hwm evaluate RUN --tokenizer {name} --trust` opens it"
        raise ValueError(f"{name}: a TorchScript tokenizer is a program, and training runs none; {remedy}")
    coder = open_tokenizer(name, kind=config.model.kind)
    if identity["tokenizer"] is None and name in own_names():
        fault = f"no tokenizer.json says who made it, as {name} does, which the run names"
        raise ValueError(f"{where}: {fault}; --set tokenizer= trains without pictures")
    if identity["tokenizer"] not in (None, coder.fingerprint()):
        fault = f"{where}: was encoded by another tokenizer than {config.tokenizer}, which the run names"
        raise ValueError(f"{fault}; give the one that made the data with --tokenizer")


def prepared_model(config: RunConfig, clips: Clips) -> Any:
    """A freshly initialised model that knows the statistics of its training data."""
    shared = config.train.parallel == "fsdp"
    model = build_model(config, trained_in=0 if shared else free_on(choose_device(config.train.device)))
    if not config.model.reads_states:
        return model
    (mean, std), robot = state_statistics(clips.dataset), clips.dataset.robot
    robot = robot if config.model.raw_states else replace(robot, raw=())
    model.set_state_statistics(torch.from_numpy(normalisation(mean, std, robot)))
    if config.model.kind == "latents":
        dataset: Any = clips.dataset
        found = dataset.statistics
        model.set_latent_statistics(torch.from_numpy(found.mean_C), torch.from_numpy(found.std_C))
    return model


@dataclass(frozen=True)
class HeldOut(Sequence[Batch]):
    """Batches of chosen clips, each read when it is asked for."""

    clips: Clips
    chosen: np.ndarray
    batch_size: int

    def __len__(self) -> int:
        return -(-len(self.chosen) // self.batch_size)

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(f"batch {index} of {len(self)}")
        return self.clips.batch(self.chosen[index * self.batch_size : (index + 1) * self.batch_size])


def spread(count: int, total: int) -> np.ndarray:
    """`count` clip numbers spread evenly over 0..total-1 (all of them when there are fewer)."""
    return np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(np.int64))


def _preview(clips: Clips, config: RunConfig) -> Callable[[nn.Module], Image.Image] | None:
    """Pictures while training: truth above prediction (or reconstruction), the last frame of four clips side by side."""
    if not config.train.sample_every or not (config.tokenizer or config.model.role == "tokenizer"):
        return None
    batch, device = clips.batch(spread(4, len(clips))), choose_device(config.train.device)
    pictures = getattr(batch, FIELDS[clips.dataset.kind])
    coder = None if config.model.role == "tokenizer" else open_tokenizer(config.tokenizer, device=str(device))

    @torch.no_grad()
    def draw(model: Any) -> Image.Image:
        if coder is None:
            truth, guess = pictures, model.decode(model.encode(pictures.to(device)))
        else:
            truth, guess = _foreseen(model, coder, pictures.to(device), batch.states_BFA.to(device))
        last = torch.stack([truth[:, -1].cpu(), guess[:, -1].cpu()])
        picture = last.permute(0, 2, 1, 3, 4).flatten(2, 3).flatten(0, 1)
        return Image.fromarray(picture.numpy())

    return draw


def _foreseen(model: Any, tokenizer: Any, pictures: Tensor, states_BFA: Tensor) -> tuple[Tensor, Tensor]:
    """Future frames of clips, true (through the tokenizer) and predicted (of tokens expected), both uint8 (B, F, H, W, 3)."""
    context, future = pictures.tensor_split([model.context_grids], 1)
    future = future[:, : model.reach or None]
    generator = torch.Generator(pictures.device).manual_seed(0)
    dream = Dream(model, tokenizer, generator=generator, step_frames=min(model.reach, future.shape[1]))
    dream.reset(context, states_BFA[:, : dream.context_frames])
    codes = {"codes_VC": tokenizer.codes_VC} if model.predicts == "tokens" else {}
    step = dream.step(states_BFA[:, dream.context_frames :], **codes)
    grids = {"context_grids": model.context_grids, "future_grids": model.future_grids}
    decoder, expected = FrameDecoder(tokenizer, device=pictures.device, **grids), step.prediction.codes_BTHWC
    guess = step.video_BFHWC if expected is None else decoder.expected_future(context, expected)
    assert guess is not None
    return decoder.future(context, future), guess


@dataclass(frozen=True)
class Run:
    """A trained run, opened for use.  identity: what it learned from, empty where its version did not keep that."""

    folder: Path
    config: RunConfig
    model: Any
    step: int
    identity: Identity

    @property
    def name(self) -> str:
        """What people know it by: under which it is shipped, or the recipe by which it was trained."""
        return self.folder.name if self.folder.parent == SHIPPED else self.config.recipe or self.folder.name


def load_run(
    folder: str | Path, *, which: str = "best", device: str = "cpu", changes: tuple[str, ...] = (), base: str = ""
) -> Run:
    """Open a run folder with its best (or "last") weights, a published folder or a shipped name, checked against checksums.

    Nothing outside of the folder is opened but `base`, the pretrained model of a run that adapts one: a folder or hub name.
    changes: overrides of how the model predicts, such as "model.steps=4".  Raises ValueError for others than those.
    """
    trained = open_trained(folder, which=which)
    config, folder = trained.config, trained.folder
    settings = [f"model.{name}" for name in config.model.prediction_settings]
    for change in changes:
        if change.partition("=")[0].strip() not in settings:
            raise ValueError(f"{change}: only {', '.join(settings) or 'nothing'} may change after training")
    config = override(config, changes)
    model = build_model(_inside(config, folder, base), stored=trained.stored.sizes("model"), where=trained.where)
    load_weights(trained.stored, model, where=trained.where)
    return Run(folder, config, model.to(device).eval(), trained.step, trained.identity)


def _inside(config: RunConfig, folder: Path, base: str) -> RunConfig:
    """The configuration with nothing in it that leads out of the run folder unasked."""
    named, text = getattr(config.model, "base", ""), getattr(config.model, "text", "")
    if base and not named:
        raise ValueError(f"{folder}: holds a whole model; it needs no base")
    if named and not base:
        raise ValueError(f"{folder}: adapts the pretrained model {shown(named)}, which lies elsewhere; give it with --base, "
                         "as that name or as a folder")  # fmt: skip
    values = {"model.base": base} if named else {}
    if text not in ("", "zeros"):
        if not is_file(folder / TEXT):
            raise ValueError(f"{folder / TEXT}: no such file; copy the text embedding {shown(text)} there")
        values["model.text"] = str(folder / TEXT)
    return changed(config, values)


def clips_for(run: Run, folder: Folders) -> Clips:
    """Clips to use a run on.  Raises ValueError as `open_clips`."""
    return open_clips(run.config, folder, training=False, identity=run.identity)


def world_model(run: Run) -> Any:
    """The model of a run that holds a world model.  Raises ValueError for a tokenizer's."""
    if (role := run.config.model.role) != "world model":
        raise ValueError(f"{run.folder}: holds a {role}, not a world model")
    return run.model
