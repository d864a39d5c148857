"""The low-rank adapter of Wan's transformer, through PEFT: attached, written as a file of its own, told from its base.

W x becomes W x + alpha / rank * B A x on every linear layer of attention and feed-forward of all blocks, ten a block
("all DiT layers", Revontuli report section 2.1; rank 32 on the 5 B model is 80.6 M parameters), with B = 0 at first.
Runs and what is exported of them keep an adapter as any other weights.  The file is for others: it has the layout of diffusers'
pipelines, so `WanPipeline.load_lora_weights` reads it.  It is written here and not by diffusers, whose `save_pretrained` of a
transformer with a live adapter writes what cannot be loaded again (reference wan 4).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from hwm.work.files import atomic_path

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel


TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")
"""The linear layers of a block, by the ends of their names; attention has two of each."""
FILE = "pytorch_lora_weights.safetensors"
ADAPTER = "default"
PREFIX = "transformer."
"""Begins names and settings in the file: which part of a pipeline is meant."""
SETTINGS = "lora_adapter_metadata"
"""Key of the file's metadata for PEFT's configuration, as diffusers writes it."""
SAMPLES = 64
"""About how many values of each weight enter the fingerprint."""


def add_lora(transformer: WanTransformer3DModel, *, rank: int, alpha: float = 0) -> int:
    """Attach a new adapter to diffusers' Wan transformer, freeze all else and return the number of adapted layers.

    A is drawn from torch's default generator and B is zero, so the output does not change yet.  Both are float32
    whatever the base is.
    alpha: the scale times the rank; 0: the rank, so a scale of 1 (the report prints none).
    Raises ValueError when there is an adapter already, or when the layers are not those of Wan.
    """
    from peft import LoraConfig
    check_no_adapter(transformer)
    if rank < 1 or alpha < 0:
        raise ValueError(f"an adapter needs rank >= 1 and alpha >= 0, got {rank} and {alpha}")
    layers = _layers(transformer)
    transformer.add_adapter(LoraConfig(r=rank, lora_alpha=alpha or rank, target_modules=list(TARGETS)), ADAPTER)
    for name, parameter in transformer.named_parameters():
        parameter.requires_grad_(".lora_" in name)
        if ".lora_" in name:
            parameter.data = parameter.data.float()  # PEFT made it of the base's type
    assert len(list(_adapted(transformer))) == len(layers)
    return len(layers)


def check_no_adapter(transformer: WanTransformer3DModel) -> None:
    """Raise ValueError if an adapter is attached: such a transformer must not be saved as a whole, nor adapted again."""
    if any(".lora_" in name for name, _ in transformer.named_parameters()):
        raise ValueError("the transformer has a live adapter; save it with save_adapter, or fold it in (fuse_lora, unload_lora)")


def save_adapter(transformer: WanTransformer3DModel, folder: str | Path) -> Path:
    """Write the attached adapter, float32, with PEFT's configuration into `folder` and return the file."""
    settings = {f"{PREFIX}{key}": value for key, value in _settings(transformer).items()}
    state = {key: value.detach().cpu().contiguous() for key, value in _state(transformer).items()}
    path = Path(folder) / FILE
    metadata = {"format": "pt", SETTINGS: json.dumps(settings, sort_keys=True)}
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(state, metadata))  # save_file would leave it readable to its owner only
    return path


def fingerprint_of(transformer: WanTransformer3DModel) -> str:
    """SHA-256 over name, shape, type and some 64 evenly strided values of every weight, without the adapter's.

    It is the same with an adapter attached and without, and tells other weights; quick, as it reads little of them.
    """
    named = {name.replace(".base_layer.", "."): value for name, value in transformer.state_dict().items() if ".lora_" not in name}
    digest = hashlib.sha256()
    for name, value in sorted(named.items()):
        flat = value.detach().flatten()
        sample = flat[:: max(1, len(flat) // SAMPLES)]
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(sample.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _layers(transformer: WanTransformer3DModel) -> list[tuple[str, Any]]:
    """Names without PEFT's and modules of the layers to adapt; ValueError unless they are ten in every block."""
    suffixes = tuple(f".{target}" for target in TARGETS)
    found = [(name.removesuffix(".base_layer"), module) for name, module in transformer.named_modules()]
    layers = [(name, module) for name, module in found if isinstance(module, nn.Linear) and name.endswith(suffixes)]
    blocks = len(getattr(transformer, "blocks", ()))
    inside = [name for name, _ in layers if name.startswith("blocks.")]
    if not layers or len(layers) != len(inside) or len(inside) != 10 * blocks:
        raise ValueError(
            f"{len(layers)} layers end in {', '.join(TARGETS)}, {len(inside)} of them in {blocks} blocks: "
            "expected ten in every block and none outside; give diffusers' Wan transformer"
        )
    return layers


def _adapted(transformer: WanTransformer3DModel) -> Iterator[tuple[str, Any]]:
    from peft.tuners.lora import LoraLayer
    return ((name, module) for name, module in transformer.named_modules() if isinstance(module, LoraLayer))


def _state(transformer: WanTransformer3DModel) -> dict[str, Tensor]:
    """The live weights of the adapter by their names in a file."""
    parts = ("lora_A", "lora_B")
    return {
        f"{PREFIX}{name}.{part}.weight": getattr(layer, part)[ADAPTER].weight
        for name, layer in _adapted(transformer)
        for part in parts
    }


def _settings(transformer: WanTransformer3DModel) -> dict[str, Any]:
    """PEFT's configuration of the live adapter as JSON takes it."""
    adapters = getattr(transformer, "peft_config", {})
    if list(adapters) != [ADAPTER]:
        raise ValueError(f"the transformer has the adapters {list(adapters)}, expected the one that add_lora attaches")
    settings = adapters[ADAPTER].to_dict()
    return {key: sorted(value) if isinstance(value, set) else value for key, value in settings.items()}
