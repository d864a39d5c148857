"""Opening any tokenizer by name or folder, and asking for the kind that one needs."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from hwm.clock import Clock
from hwm.config import RunConfig
from hwm.contracts import Kind, LatentTokenizer, Tokenizer
from hwm.model_config import FSQConfig
from hwm.publish.folder import CONFIG, SUMS, Published, is_published, read_published, write_published
from hwm.safe_load.paths import is_dir, is_file
from hwm.safe_load.sizes import on_paper, room_for
from hwm.safe_load.weights import load_safetensors, read_header, select
from hwm.tokenizers.autoencoder import ContinuousTokenizer, FSQTokenizer, VideoAutoencoder
from hwm.tokenizers.wan import find_wan, open_wan
from hwm.work.files import new_folder

WEIGHTS = Path(__file__).parent / "weights"
"""Its folders are the shipped tokenizers; each holds configuration, weights and a card, nothing that can run."""


class Pixels:
    """No tokenizer: frames as they are, one grid a frame.  It stands before models that learn from video."""

    kind: Kind = "video"
    name = "pixels"
    clock = Clock(stride=1, block=1)
    spatial_stride = 1

    def encode(self, video_BFHWC: Tensor) -> Tensor:
        """The video itself, uint8 (B, F, H, W, 3)."""
        return video_BFHWC

    def decode(self, video_BFHWC: Tensor) -> Tensor:
        """The video itself, uint8 (B, F, H, W, 3)."""
        return video_BFHWC

    def fingerprint(self) -> str:
        """Its name: there is nothing else to it."""
        return self.name


PIXELS = Pixels()


@dataclass(frozen=True)
class Undecoded:
    """No tokenizer at hand: tokens of this clock and vocabulary are scored as they are, and nothing can be seen of them."""

    clock: Clock
    vocab_size: int
    kind: Kind = "tokens"
    name: str = "none"
    codes_VC: None = None

    def fingerprint(self) -> str:
        """Its name."""
        return self.name


def open_tokenizer(name: str, *, kind: Kind | None = None, trust: bool = False, device: str = "cpu") -> Any:
    """A tokenizer by shipped name or folder.

    name: a shipped name; "pixels", which leaves frames as they are; a folder of `hwm export`; one with encoder.jit and
    decoder.jit of an official Cosmos tokenizer, DV or CV, which needs `trust`; one with config.json and safetensors of
    diffusers' Cosmos or Wan autoencoder, or the latter's whole pipeline; or "wan:" and a hub name, as in
    wan:Wan-AI/Wan2.2-TI2V-5B-Diffusers.
    kind: what it must give, as in `WorldModel.predicts`; None takes any.
    Raises ValueError when there is no tokenizer or it is of another kind.
    """
    coder: Tokenizer | LatentTokenizer | Pixels
    if name == PIXELS.name:
        coder = PIXELS
    elif name in shipped() or is_published(name):
        coder = load_tokenizer(name, device=device)
    elif is_file(Path(name) / "encoder.jit"):
        from hwm.tokenizers.cosmos import open_cosmos
        coder = open_cosmos(name, trust=trust, device=device)
    elif wan := find_wan(name):
        source, subfolder = wan
        coder = open_wan(source, subfolder=subfolder, device=device)
    elif is_file(Path(name) / "config.json"):
        from hwm.tokenizers.cosmos import open_cosmos_diffusers
        coder = open_cosmos_diffusers(name, device=device)
    else:
        coder = load_tokenizer(name, device=device)
    if kind is not None and coder.kind != kind:
        raise ValueError(f"{name}: gives {_GIVES[coder.kind]}, but {_NEEDED[kind]}")
    return coder


_GIVES = {"tokens": "tokens", "latents": "continuous latents", "video": "frames as they are"}
_NEEDED = {
    "tokens": "tokens are needed here; choose a quantised tokenizer",
    "latents": "continuous latents are needed here; choose a continuous tokenizer",
    "video": 'frames are needed here; choose "pixels"',
}


def shipped() -> list[str]:
    """Names of the tokenizers that come with the package."""
    return sorted(p.name for p in WEIGHTS.iterdir() if (p / "model.safetensors").is_file()) if WEIGHTS.is_dir() else []


def own_names() -> list[str]:
    """Names that mean the same wherever the package is installed."""
    return [PIXELS.name, *shipped()]


def keep_copy(folder: Path, target: Path) -> None:
    """Make `target` a copy of one of the library's own tokenizers, whole or absent."""
    fingerprint = load_tokenizer(folder).fingerprint()
    try:
        if load_tokenizer(target).fingerprint() == fingerprint:
            return
    except ValueError:
        pass  # none, or a damaged one
    shutil.rmtree(target, ignore_errors=True)
    with new_folder(target) as temporary:
        for name in (CONFIG, "model.safetensors", SUMS):
            shutil.copyfile(folder / name, temporary / name)


def new_tokenizer(config: FSQConfig, *, name: str) -> FSQTokenizer | ContinuousTokenizer:
    """A freshly initialised tokenizer of the kind that the configuration asks for."""
    return ContinuousTokenizer(config, name=name) if config.continuous else FSQTokenizer(config, name=name)


def load_tokenizer(name_or_folder: str | Path, *, device: str = "cpu") -> FSQTokenizer | ContinuousTokenizer:
    """Load one of the library's own tokenizers, quantised or continuous, by shipped name or from an exported folder.

    Raises ValueError when there is none, when it holds a world model, when a file differs from its recorded checksum, or when
    keys, shapes or types differ from what the configuration says.
    """
    folder = WEIGHTS / str(name_or_folder)
    if not is_dir(folder):
        folder = Path(name_or_folder)
    if not is_published(folder):
        known = ", ".join(shipped()) or "none"
        raise ValueError(f"{folder}: no tokenizer; give a shipped name ({known}) or a folder of `hwm export RUN FOLDER`")
    config, weights_file = read_published(folder).config.model, folder / "model.safetensors"
    if not isinstance(config, FSQConfig):
        raise ValueError(f"{folder}: holds a world model, not a tokenizer")

    def make() -> FSQTokenizer | ContinuousTokenizer:
        return new_tokenizer(config, name=folder.name)

    remedy = f"it does not fit {CONFIG}; export the tokenizer again"
    paper = on_paper(make, where=weights_file, remedy=remedy, **room_for(read_header(weights_file)))
    shapes = {key: tuple(value.shape) for key, value in paper.state_dict().items()}
    weights = select(load_safetensors(weights_file), shapes, path=weights_file, remedy=remedy)
    tokenizer = make()
    tokenizer.load_state_dict(weights)
    return tokenizer.to(device).eval()


def save_tokenizer(tokenizer: VideoAutoencoder, folder: str | Path) -> Path:
    """Write a tokenizer that belongs to no run as a published folder.

    Weights are stored as float16, rounding them: encode with what is loaded, not with what was saved.
    """
    weights = tokenizer.state_dict()
    published = Published(RunConfig(recipe=tokenizer.name or "tokenizer", model=tokenizer.config), 0, {})
    return write_published(folder, published, weights, narrow=frozenset(weights))
