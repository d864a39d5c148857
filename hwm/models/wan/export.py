"""A trained Wan world model as a folder for others: what was trained and how, nothing that can run.

    config.toml                       the whole RunConfig
    adapter/pytorch_lora_weights.safetensors    of a model with an adapter, in the layout of diffusers' pipelines
    transformer/                      of a model without one: the whole, in diffusers' layout
    state_encoder/config.json  state_encoder/model.safetensors
    world_model.safetensors           statistics of states and latents, digest of the base, learned places
    text_embedding.safetensors        the constant text, if there is one
    manifest.json                     size and SHA-256 of every file above
    README.md                         model card
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from hwm.config import RunConfig, from_toml, to_toml
from hwm.model_config import WanConfig
from hwm.models.wan.lora import load_adapter, save_adapter
from hwm.models.wan.model import WanWorldModel
from hwm.models.wan.text import write_text_embedding
from hwm.models.wan.transformer import load_transformer
from hwm.safe_load.sizes import on_paper
from hwm.safe_load.weights import load_state_dict
from hwm.work.allowance import free_memory
from hwm.work.files import new_folder, read_json, sha256

ADAPTER, TRANSFORMER, STATES = "adapter", "transformer", "state_encoder"
WEIGHTS, REST, TEXT, MANIFEST = "model.safetensors", "world_model.safetensors", "text_embedding.safetensors", "manifest.json"
CARD = "README.md"
"""For people, who may edit it; not in the manifest."""
SCHEMA = 1


def save_world_model(model: WanWorldModel, config: RunConfig, folder: str | Path, *, card: str = "") -> Path:
    """Write a model and its configuration into a new folder, all or nothing, and return the folder.

    card: text of the model card; empty: the bare facts.
    Raises ValueError if the folder exists, or if the model is not of this configuration.
    """
    own: Any = config.model
    if replace(model.config, base=own.base, text=own.text) != own:  # where base and text lie here is another thing
        raise ValueError("the model was built from another configuration than the one given with it")
    with new_folder(folder) as temporary:
        _write(model, config, temporary, card=card)
    return Path(folder)


def _write(model: WanWorldModel, config: RunConfig, folder: Path, *, card: str) -> None:
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    (folder / STATES).mkdir()
    save_file(_part(state, "states."), folder / STATES / WEIGHTS)
    (folder / STATES / "config.json").write_text(json.dumps(_encoder_settings(model), indent=1) + "\n")
    save_file(_rest(state), folder / REST)
    if model.config.lora_rank:
        save_adapter(model.transformer, folder / ADAPTER)
    else:
        model.transformer.save_pretrained(folder / TRANSFORMER)
    if model.config.text:
        write_text_embedding(folder / TEXT, model.text_1RD[0, 0].float(), source="embedding of the empty prompt, by the base")
    (folder / "config.toml").write_text(to_toml(config), encoding="utf-8")
    (folder / CARD).write_text(card or _facts(model, config))
    files = {name: _seal(path) for name, path in _files(folder) if path.name != CARD}
    (folder / MANIFEST).write_text(json.dumps({"schema": SCHEMA, "files": files}, indent=1) + "\n")


def load_world_model(folder: str | Path, *, base: str = "", device: str = "cpu") -> tuple[WanWorldModel, RunConfig]:
    """The model of a folder of `save_world_model`, ready to predict, and its configuration.

    base: where the pretrained model lies here; empty: where the configuration says.  It is recognised by its fingerprint.
    Raises ValueError, naming the file, unless every file is as it was written, every weight of the model is set by one
    of the same name, shape and type, and the base is the one that the adapter was trained on.
    """
    folder = Path(folder)
    _verify(folder)
    config = from_toml(RunConfig, folder / "config.toml")
    if not isinstance(config.model, WanConfig):
        raise ValueError(f"{folder / 'config.toml'}: is of the family {config.model.family!r}, expected 'wan'")
    sizes = replace(config.model, text=str(folder / TEXT)) if config.model.text else config.model
    if base and not sizes.lora_rank:
        raise ValueError(f"{folder}: holds a whole transformer; it needs no base")
    if sizes.base:
        # A pretrained transformer that was trained as a whole is its own base.
        sizes = replace(sizes, base=(base or sizes.base) if sizes.lora_rank else str(folder))
    paper = on_paper(lambda: WanWorldModel(sizes), where=folder / "config.toml", nbytes=free_memory())
    settings = folder / STATES / "config.json"
    if read_json(settings) != _encoder_settings(paper):
        raise ValueError(f"{settings}: describes another state encoder than config.toml; fetch the folder again")
    wanted = paper.state_dict()
    states, rest = _expect(_part(wanted, "states."), folder / STATES / WEIGHTS), _expect(_rest(wanted), folder / REST)
    model = WanWorldModel(sizes)
    model.states.load_state_dict(states)
    if sizes.lora_rank:
        load_adapter(model.transformer, folder / ADAPTER)
    elif not sizes.base:
        whole = load_transformer(str(folder / TRANSFORMER), dtype=torch.float32).state_dict()
        model.transformer.load_state_dict(_expect(_part(wanted, "transformer."), folder / TRANSFORMER, found=whole))
    model.load_state_dict(rest, strict=False)  # all of the rest; the others are set
    return model.to(device).eval(), replace(config, model=sizes)


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _rest(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if not name.startswith(("states.", "transformer."))}


def _expect(wanted: Mapping[str, Tensor], path: Path, *, found: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """What was found there, by default in that file, if its names, shapes and types are those of `wanted`."""
    found = load_state_dict(path) if found is None else found
    have, want = ({name: (tuple(t.shape), t.dtype) for name, t in state.items()} for state in (found, wanted))
    wrong = sorted(name for name in have.keys() | want.keys() if have.get(name) != want.get(name))
    if wrong:
        raise ValueError(f"{path}: {len(wrong)} weights do not fit config.toml, the first is {wrong[0]}; fetch the folder again")
    return found


def _encoder_settings(model: WanWorldModel) -> dict[str, Any]:
    """How to build the state encoder (`FrameStateEncoder`) and what to feed it."""
    config, states = model.config, model.states
    return {
        "state_dim": config.state_dim, "rows": states.rows, "plain": list(config.state_plain),
        "frequencies": config.state_frequencies, "hidden": config.state_hidden, "width_out": states.out.out_features,
        "changes_from": states.changes_from, "frames": model.frames.tolist(), "injection": config.state_injection,
    }


def _facts(model: WanWorldModel, config: RunConfig) -> str:
    """A model card of what the configuration says."""
    sizes = model.config
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    base = f"`{getattr(config.model, 'base', '')}`, whose licence applies"
    what = f"an adapter of rank {sizes.lora_rank} for {base}" if sizes.lora_rank else "a whole transformer"
    what += f", trained from {base}" if sizes.base and not sizes.lora_rank else ""
    latents = f"{sizes.channels} x {sizes.grid[0]} x {sizes.grid[1]}"
    return f"""# {config.recipe}

World model of a humanoid robot's camera: {what}, and a state encoder; {trained / 1e6:.1f} M trained parameters.

It sees {sizes.context_grids} latents of {latents} and {sizes.state_dim} values of the robot's state at {sizes.num_states} frames,
and predicts {sizes.future_grids} latents.  Tokenizer: `{config.tokenizer or "not recorded"}`.

    from hwm.models.wan.export import load_world_model
    model, config = load_world_model("THIS FOLDER")

How it was trained is in config.toml; how well it predicts has to be said by whoever publishes it.
"""


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    return ((path.relative_to(folder).as_posix(), path) for path in sorted(folder.rglob("*")) if path.is_file())


def _verify(folder: Path) -> None:
    """Raise ValueError unless the folder holds the files of its manifest and no others of weights, byte by byte."""
    if not (folder / MANIFEST).is_file():
        raise ValueError(f"{folder}: no exported world model (no {MANIFEST}); make one with `hwm export RUN FOLDER`")
    table = read_json(folder / MANIFEST)
    files = table.get("files")
    if table.get("schema") != SCHEMA or not isinstance(files, dict) or not {"config.toml", REST} <= files.keys():
        raise ValueError(f"{folder / MANIFEST}: is not a manifest of schema {SCHEMA}; fetch the folder again")
    present = dict(_files(folder))
    for name, path in present.items():
        if path.suffix == ".safetensors" and name not in files:
            raise ValueError(f"{path}: is not in the manifest; remove it or fetch the folder again")
    for name, expected in files.items():
        if name not in present:
            raise ValueError(f"{folder / name}: missing; fetch the folder again")
        if _seal(present[name]) != expected:
            raise ValueError(f"{present[name]}: is not as it was written (its SHA-256 differs); fetch the folder again")


def _seal(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}
