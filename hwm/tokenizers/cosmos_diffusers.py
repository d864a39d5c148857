"""Cosmos' continuous video tokenizers in diffusers' form (AutoencoderKLCosmos): data only, so no trust is needed.

A folder holds config.json and diffusion_pytorch_model.safetensors, as diffusers' `save_pretrained` writes it and as
the `vae` folder of a Cosmos pipeline is published.  The class can be 8x8x8 and 8x16x16 (its
spatial_compression_ratio 8 or 16, which needs four stages) or 4x8x8; what a folder holds is found by a trial.

Latents are those of the encoder, raw: the class carries latents_mean and latents_std for its own pipelines but does not
apply them, and neither do we; the statistics of a latent dataset normalise it.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from hwm.data.files import read_json
from hwm.safe_load.weights import check_model_folder
from hwm.tokenizers.cosmos import CosmosLatentTokenizer, CosmosPair

CLASS = "AutoencoderKLCosmos"


def open_cosmos_diffusers(
    folder: str | Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> CosmosLatentTokenizer:
    """The autoencoder in a local folder, through diffusers (extra `wan`).

    Raises ValueError when the folder holds another class, diffusers is missing, or weights do not fit the
    configuration.
    """
    config, weights = Path(folder) / "config.json", Path(folder) / "diffusion_pytorch_model.safetensors"
    name = read_json(config).get("_class_name")
    if name != CLASS:
        raise ValueError(f"{config}: holds {name!r}, expected {CLASS!r}: give the folder of a Cosmos autoencoder")
    if not weights.is_file():
        raise ValueError(f"{weights}: no such file; download the safetensors file of the autoencoder into {folder}")
    try:
        from diffusers import AutoencoderKLCosmos
    except ImportError as error:
        need = "install the extra: pip install 'humanoid-world-models[wan]'"
        raise ValueError(f"{folder}: needs diffusers, which cannot be imported ({error}); {need}") from None
    check_model_folder(folder)
    try:
        network, report = AutoencoderKLCosmos.from_pretrained(
            str(folder), torch_dtype=dtype, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    except (RuntimeError, OSError, TypeError, ValueError) as error:
        raise ValueError(f"{folder}: cannot be opened by diffusers: {' '.join(str(error).split())}") from None
    faults = {kind: keys for kind, keys in report.items() if keys}  # such weights would be random
    if faults:
        raise ValueError(f"{weights}: does not fit {config.name}: {faults}")
    network = network.to(device).eval()

    def encode(pixels: Tensor) -> Tensor:
        return network.encode(pixels, return_dict=False)[0].mode()

    def decode(latents: Tensor) -> tuple[Tensor, ...]:
        return network.decode(latents, return_dict=False)

    files = [config, weights]
    return CosmosLatentTokenizer(
        CosmosPair(encode, decode, files=files, device=device, dtype=dtype, family="cosmos-diffusers")
    )
