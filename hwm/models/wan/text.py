"""The one text that Wan is given here: the embedding of the empty prompt, a single vector.

An empty prompt is the one token </s>.  Wan's pipeline keeps the encoder's row of it and fills up with zero rows, so
that 16 KB hold all of it and the text encoder UMT5, 11 GB, is never needed in training.  With a single token the
attention weights are all 1, so a layer is x + O V norm(x) and the gated feed-forward: the row can be computed from
the weight files tensor by tensor, in the memory of the largest of them (reference wan 7).
"""

import hashlib
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor

from hwm.safe_load.paths import hub_folder, inside, is_dir
from hwm.safe_load.weights import opened_safetensors
from hwm.work.files import atomic_path, read_count, read_json

FOLDER = "text_encoder"
"""Subfolder of the text encoder in diffusers' layout."""
END = 1
"""Id of </s>, in every UMT5 vocabulary."""
KEY = "text_embedding"


def embed_empty_prompt(base: str) -> Tensor:
    """The embedding (text_width,) float32 of the empty prompt by the UMT5 encoder of a Wan model.

    base: a pipeline's folder in diffusers' layout, whose text_encoder/ is read, or a hub name, of which that subfolder
    is fetched.  One tensor is in memory at a time, in float32 whatever the files hold.
    Raises ValueError when it is neither, holds another text encoder, or weights are missing.
    """
    folder = _find(base)
    config = read_json(folder / "config.json")
    kind = config.get("model_type"), config.get("feed_forward_proj")
    if kind != ("umt5", "gated-gelu"):
        raise ValueError(f"{folder}/config.json: a text encoder of kind {kind}, expected ('umt5', 'gated-gelu') as Wan has")
    weights = _Weights(folder)
    eps, layers = float(config.get("layer_norm_epsilon", 1e-6)), read_count(config, "num_layers", folder / "config.json")

    def normalise(x: Tensor, name: str) -> Tensor:
        return F.rms_norm(x, x.shape, weights[f"{name}.weight"], eps)

    x_D = weights.embedding(END)
    for layer in range(layers):
        attention, mlp = (f"encoder.block.{layer}.layer.{part}" for part in (0, 1))
        value = weights[f"{attention}.SelfAttention.v.weight"] @ normalise(x_D, f"{attention}.layer_norm")
        x_D = x_D + weights[f"{attention}.SelfAttention.o.weight"] @ value
        h_D = normalise(x_D, f"{mlp}.layer_norm")
        gate = F.gelu(weights[f"{mlp}.DenseReluDense.wi_0.weight"] @ h_D, approximate="tanh")
        hidden = gate * (weights[f"{mlp}.DenseReluDense.wi_1.weight"] @ h_D)
        x_D = x_D + weights[f"{mlp}.DenseReluDense.wo.weight"] @ hidden
    embedding = normalise(x_D, "encoder.final_layer_norm")
    if not embedding.isfinite().all():
        raise ValueError(f"{folder}: the embedding is not finite; fetch the weights again")
    return embedding


def pad(embedding: Tensor, rows: int) -> Tensor:
    """The embedding (text_width,) as Wan's transformer takes it: (1, rows, text_width), all rows but the first zero."""
    return F.pad(embedding[None, None], (0, 0, 0, rows - 1))


def digest(embedding: Tensor) -> str:
    """SHA-256 of the float32 values: which text a model was trained with."""
    return hashlib.sha256(embedding.detach().cpu().numpy().astype("<f4").tobytes()).hexdigest()


def write_text_embedding(path: str | Path, embedding: Tensor, *, source: str) -> None:
    """Write an embedding (text_width,) float32 as safetensors.  source: where it comes from, for people."""
    metadata = {"source": source, "digest": digest(embedding)}
    with atomic_path(path) as temporary:
        # save_file would leave a file readable to its owner only.
        temporary.write_bytes(save({KEY: embedding.detach().cpu().contiguous()}, metadata))


def read_text_embedding(path: str | Path) -> Tensor:
    """The embedding (text_width,) float32 in a file of `write_text_embedding`.

    Raises ValueError when the file is no such file or its values are not those that were written.
    """
    path, remedy = Path(path), "write it with `hwm text-embedding BASE OUT`"
    if not path.is_file():
        raise ValueError(f"{path}: no such file; {remedy}")
    with opened_safetensors(path) as file:
        metadata, keys = file.metadata() or {}, list(file.keys())
        embedding = file.get_tensor(KEY) if keys == [KEY] else None
    if embedding is None or embedding.dtype != torch.float32 or embedding.ndim != 1:
        raise ValueError(f"{path}: expected one float32 vector {KEY!r}, found the tensors {keys[:3]}; {remedy}")
    if metadata.get("digest") != digest(embedding):
        raise ValueError(f"{path}: the values do not match their digest; {remedy} again")
    return embedding


def _find(base: str) -> Path:
    """The folder of the text encoder, fetched if need be."""
    folder = Path(base) / FOLDER
    if is_dir(folder):
        return folder
    if is_dir(Path(base)):
        raise ValueError(f"{base}: has no folder {FOLDER}; give a Wan model in diffusers' layout")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        need = "install the extra: pip install 'humanoid-world-models[wan]'"
        raise ValueError(f"{base}: no such folder, and the hub cannot be asked ({error}); {need}") from None
    patterns = [f"{FOLDER}/{name}" for name in ("config.json", "*.safetensors", "*.safetensors.index.json")]
    try:
        return Path(snapshot_download(base, allow_patterns=patterns)) / FOLDER
    except (OSError, ValueError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
        raise ValueError(f"{base}: no such folder, nor to be had from the hub ({reason}); give a folder or go online") from None


class _Weights:
    """Tensors by name, float32, out of one safetensors file or of those that an index lists, each read when asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
        if index.is_file():
            listed = read_json(index).get("weight_map")
            if not isinstance(listed, dict):
                raise ValueError(f"{index}: has no weight_map; download the index again")
            self._file_of = listed
            for name in {str(name): name for name in listed.values()}.values():
                inside(folder, name, source=index, links_within=hub_folder(folder))
        elif single.is_file():
            with opened_safetensors(single) as file:
                self._file_of = dict.fromkeys(file.keys(), single.name)
        else:
            raise ValueError(f"{folder}: holds neither {index.name} nor {single.name}; download the text encoder's weights")

    def __getitem__(self, name: str) -> Tensor:
        with self._holder(name) as file:
            return file.get_tensor(name).float()

    def embedding(self, token: int) -> Tensor:
        """One row of the vocabulary, without reading the others."""
        name = "shared.weight" if "shared.weight" in self._file_of else "encoder.embed_tokens.weight"
        with self._holder(name) as file:
            return file.get_slice(name)[token].float()

    def _holder(self, name: str) -> Any:
        path = self._folder / self._file_of.get(name, "")
        if not path.is_file():
            raise ValueError(f"{path}: no file with {name}; download the text encoder's weights again")
        return opened_safetensors(path)
