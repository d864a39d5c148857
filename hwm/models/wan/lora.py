"""The low-rank adapter of Wan's transformer, through PEFT: attached, stored, checked against its base, folded in.

W x becomes W x + alpha / rank * B A x on every linear layer of attention and feed-forward of all blocks, ten a block
("all DiT layers", Revontuli report section 2.1; rank 32 on the 5 B model is 80.6 M parameters), with B = 0 at first.
Files have the layout of diffusers' pipelines, so `WanPipeline.load_lora_weights` reads them and we read its own.

Storing and loading are done here and not by diffusers, whose loader rounds an adapter to the type of the base and
fills what is missing with random weights, and whose `save_pretrained` of a transformer with a live adapter writes what
cannot be loaded again (reference wan 4).
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

from hwm.safe_load.text import parse_json
from hwm.safe_load.weights import load_state_dict, opened_safetensors, select
from hwm.work.files import atomic_path

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel


TARGETS = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")
"""The linear layers of a block, by the ends of their names; attention has two of each."""
FILE = "pytorch_lora_weights.safetensors"
VARIANTS = ("use_dora", "use_rslora", "lora_bias", "rank_pattern", "alpha_pattern")
"""Settings of PEFT that would make the product another; they are off here."""
ADAPTER = "default"
PREFIX = "transformer."
"""Begins names and settings in the file: which part of a pipeline is meant."""
SETTINGS, BASE = "lora_adapter_metadata", "base_fingerprint"
"""Keys of the file's metadata: PEFT's configuration, as diffusers writes it, and the base's fingerprint (ours)."""
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


def has_adapter(transformer: WanTransformer3DModel) -> bool:
    """Whether an adapter is attached, ours or another."""
    return any(".lora_" in name for name, _ in transformer.named_parameters())


def check_no_adapter(transformer: WanTransformer3DModel) -> None:
    """Raise ValueError if an adapter is attached: such a transformer must not be saved as a whole, nor adapted again."""
    if has_adapter(transformer):
        raise ValueError("the transformer has a live adapter; save it with save_adapter, or fold it in (fuse_lora, unload_lora)")


def save_adapter(transformer: WanTransformer3DModel, folder: str | Path) -> Path:
    """Write the attached adapter, float32, into `folder` and return the file.

    Its metadata holds PEFT's configuration and the fingerprint of the base.
    """
    settings = {f"{PREFIX}{key}": value for key, value in _settings(transformer).items()}
    state = {key: value.detach().cpu().contiguous() for key, value in _state(transformer).items()}
    path = Path(folder) / FILE
    metadata = {"format": "pt", SETTINGS: json.dumps(settings, sort_keys=True), BASE: fingerprint_of(transformer)}
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(state, metadata))  # save_file would leave it readable to its owner only
    return path


def load_adapter(transformer: WanTransformer3DModel, folder: str | Path) -> int:
    """Put the adapter stored in `folder` into effect and return the number of adapted layers, all of Wan's.

    One that is attached takes the stored weights in place and must have the same rank and alpha; a transformer without
    gets one.  The weights are float32, those of the file exactly.
    Raises ValueError, with nothing changed, for missing, unexpected or misshapen weights, other rank, alpha or target
    layers, or a base other than the recorded one; files of other tools record none.
    """
    path = Path(folder) / FILE
    state, remedy = load_state_dict(path), "give the folder of an adapter for this transformer"
    stored, base = _read_metadata(path)
    rank, alpha = stored.get("r"), stored.get("lora_alpha")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float) or alpha <= 0:
        raise ValueError(f"{path}: its metadata has no rank and alpha ({rank}, {alpha}); save it with them")
    attached = has_adapter(transformer)
    live = _settings(transformer) if attached else stored
    for key in ("r", "lora_alpha"):
        if stored[key] != live[key]:
            raise ValueError(f"{path}: {key} is {stored[key]}, but the attached adapter's is {live[key]}; {remedy}")
    targets = stored.get("target_modules")
    if not isinstance(targets, list) or sorted(map(str, targets)) != sorted(TARGETS):
        raise ValueError(f"{path}: adapts the layers {targets}, expected {sorted(TARGETS)}; {remedy}")
    variants = [key for key in VARIANTS if stored.get(key)]
    if variants:
        raise ValueError(f"{path}: is no plain LoRA ({', '.join(variants)}); {remedy}")
    layers = _layers(transformer)
    shapes: dict[str, tuple[int, ...]] = {}
    for name, layer in layers:
        shapes[f"{PREFIX}{name}.lora_A.weight"] = (rank, layer.in_features)
        shapes[f"{PREFIX}{name}.lora_B.weight"] = (layer.out_features, rank)
    state = select(state, shapes, path=path, remedy=remedy)
    if base and base != fingerprint_of(transformer):
        raise ValueError(f"{path}: was trained on another base model; open it with the one of its run")
    if not attached:
        add_lora(transformer, rank=rank, alpha=alpha)
    with torch.no_grad():
        for key, parameter in _state(transformer).items():
            parameter.copy_(state[key])
    return len(layers)


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


def _read_metadata(path: Path) -> tuple[dict[str, Any], str]:
    """PEFT's configuration and the base's fingerprint, empty where the file has none."""
    with opened_safetensors(path) as file:
        metadata = file.metadata() or {}
    again = "fetch the file again"
    settings = parse_json(metadata.get(SETTINGS, "{}"), where=f"{path}: metadata cannot be read", remedy=again)
    if not isinstance(settings, dict):
        raise ValueError(f"{path}: its {SETTINGS} is no JSON object; fetch the file again")
    return {key.removeprefix(PREFIX): value for key, value in settings.items()}, metadata.get(BASE, "")
