"""Opening any tokenizer by name or folder, and asking for the kind that one needs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, overload

from hwm.contracts import LatentTokenizer, Tokenizer
from hwm.safe_load.paths import is_file
from hwm.tokenizers.store import load_tokenizer
from hwm.tokenizers.wan import find_wan, open_wan


@overload
def open_tokenizer(name: str, *, kind: Literal["tokens"], trust: bool = False, device: str = "cpu") -> Tokenizer: ...
@overload
def open_tokenizer(name: str, *, kind: Literal["latents"], trust: bool = False, device: str = "cpu") -> LatentTokenizer: ...
@overload
def open_tokenizer(
    name: str, *, kind: Literal["tokens", "latents"] | None = None, trust: bool = False, device: str = "cpu"
) -> Tokenizer | LatentTokenizer: ...
def open_tokenizer(
    name: str, *, kind: Literal["tokens", "latents"] | None = None, trust: bool = False, device: str = "cpu"
) -> Tokenizer | LatentTokenizer:
    """A tokenizer by shipped name or folder.

    name: a shipped name; a folder of `hwm export`; a folder with encoder.jit and decoder.jit of an official Cosmos
    tokenizer, DV or CV, which needs `trust`; one with config.json and safetensors of diffusers' Cosmos or Wan
    autoencoder, or the latter's whole pipeline; or "wan:" and a hub name, as in wan:Wan-AI/Wan2.2-TI2V-5B-Diffusers.
    kind: what it must give, as in `WorldModel.predicts`; None takes either.
    Raises ValueError when there is no tokenizer or it is of the other kind.
    """
    coder: Tokenizer | LatentTokenizer
    if is_file(Path(name) / "encoder.jit"):
        from hwm.tokenizers.cosmos import open_cosmos

        coder = open_cosmos(name, trust=trust, device=device)
    elif wan := find_wan(name):
        source, subfolder = wan
        coder = open_wan(source, subfolder=subfolder, device=device)
    elif is_file(Path(name) / "config.json"):
        from hwm.tokenizers.cosmos_diffusers import open_cosmos_diffusers

        coder = open_cosmos_diffusers(name, device=device)
    else:
        coder = load_tokenizer(name, device=device)
    if kind == "tokens" and not isinstance(coder, Tokenizer):
        raise ValueError(f"{name}: gives continuous latents, but tokens are needed here; choose a quantised tokenizer")
    if kind == "latents" and not isinstance(coder, LatentTokenizer):
        raise ValueError(f"{name}: gives tokens, but continuous latents are needed here; choose a continuous tokenizer")
    return coder
