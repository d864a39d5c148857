"""What a configuration asks for is reckoned on paper, and compared with the file, before a module is built."""

import json
from dataclasses import replace

import pytest
import torch
from damage import edit_run
from hostile import MAX_GROWTH, MAX_SECONDS, cost, refused, safetensors_with
from safetensors.torch import load_file, save_file
from torch import nn

from hwm.config import RunConfig
from hwm.model_config import FSQConfig, STConfig, WanConfig
from hwm.models import build
from hwm.models.build import build_model
from hwm.safe_load.sizes import check_model_folder, on_paper
from hwm.safe_load.weights import read_header
from hwm.tokenizers.open import new_tokenizer, open_tokenizer, save_tokenizer
from hwm.training.stored import Stored

B2 = pytest.mark.fault("B2", "refused, memory grows by at most 200 MB, at most 2 s")
TINY = STConfig(vocab_size=16, grid=(2, 2), num_layers=1, num_heads=1, width=8, mlp_ratio=1, state_hidden=8, num_states=34)
HUGE = replace(TINY, width=8192, num_heads=64, num_layers=200, mlp_ratio=4)


def cheap(call, *, names):
    line, growth, seconds = min((cost(lambda: refused(call, names=names)) for _ in range(2)), key=lambda found: found[2])
    assert growth <= MAX_GROWTH and seconds <= MAX_SECONDS, (line, growth, seconds)
    return line


@B2
@pytest.mark.parametrize("model", [HUGE, replace(TINY, num_layers=1024, width=65536)], ids=["wide", "deep"])
def test_a_model_is_held_against_its_weights_before_it_is_built(model):
    stored = build_model(RunConfig(model=TINY)).state_dict()
    line = cheap(lambda: build_model(RunConfig(model=model), stored=stored, where="w.safetensors"), names="w.safetensors: ")
    assert "does not fit the model" in line or "asks for more than" in line


@B2
def test_a_model_is_held_against_the_memory_before_it_is_built(monkeypatch):
    monkeypatch.setattr(build, "free_memory", lambda: 10e9)
    line = cheap(lambda: build_model(RunConfig(model=HUGE)), names="model: ")
    assert line == "model: asks for more than 10 GB; lower what decides the size, such as the number of layers or the width"
    with torch.device("meta"):
        line = cheap(lambda: build_model(RunConfig(model=replace(TINY, num_layers=1024))), names="model: ")
    assert "asks for more than 10000 tensors" in line


def test_what_training_keeps_is_held_against_the_memory():
    config = RunConfig(model=TINY)
    needed = 4 * sum(p.nbytes for p in build_model(config).parameters())
    assert build_model(config, trained_in=needed) is not None
    line = refused(lambda: build_model(config, trained_in=needed - 1), names="model: training keeps")
    assert "of weights, gradients and moments" in line and "lower model.width or model.num_layers" in line


def test_reckoning_changes_no_number():
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    on_paper(lambda: nn.Linear(3, 3), where="x")
    assert torch.rand(1).equal(expected)
    first, second = (build_model(RunConfig(model=TINY)).state_dict() for _ in range(2))
    assert all(first[key].equal(second[key]) for key in first)


def test_what_no_module_can_be_built_of_is_one_line():
    for make in (lambda: nn.Linear(2**62, 2**62), lambda: nn.Linear(2**70, 1), lambda: nn.Linear(-1, 1)):
        refused(lambda make=make: on_paper(make, where="config.json"), names="config.json: no model can be built so")


@B2
@pytest.mark.parametrize("changes", [{"channels": 8192}, {"depth": 1024}, {"channels": 65536, "depth": 1024}], ids=str)
def test_a_tokenizer_s_configuration(tmp_path, changes):
    config = FSQConfig(channels=8, depth=1, levels=(8, 5, 5))
    folder = save_tokenizer(new_tokenizer(config, name="tiny"), tmp_path / "coder")
    edit_run(folder, **{f"model__{name}": value for name, value in changes.items()})
    assert "asks for more than" in cheap(lambda: open_tokenizer(str(folder)), names=folder / "model.safetensors")


SCRATCH = WanConfig(base="", channels=4, grid=(4, 4), num_layers=1, num_heads=1, head_width=16, mlp_width=32, time_width=32,
                    text_width=8, text_rows=3, lora_rank=0)  # fmt: skip
VAE = {"base_dim": 8, "num_res_blocks": 1, "temperal_downsample": [False, True, True], "z_dim": 2, "dim_mult": [1, 1, 2, 2],
       "latents_mean": [0.0, 0.0], "latents_std": [1.0, 1.0]}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A Wan transformer, a Wan autoencoder and a Cosmos autoencoder in diffusers' layout."""
    diffusers, place = pytest.importorskip("diffusers"), tmp_path_factory.mktemp("diffusers")
    build_model(RunConfig(model=SCRATCH)).transformer.save_pretrained(place / "transformer")
    diffusers.AutoencoderKLWan(**VAE).save_pretrained(place / "vae")
    small = {"latent_channels": 4, "encoder_block_out_channels": (8, 8, 8, 8), "decode_block_out_channels": (8, 8, 8, 8)}
    diffusers.AutoencoderKLCosmos(**small, num_layers=1, attention_resolutions=()).save_pretrained(place / "cosmos")
    return place


@B2
@pytest.mark.parametrize("key, value", [
    ("transformer.num_layers", 10**12), ("transformer.ffn_dim", 10**12), ("transformer.attention_head_dim", 2**20),
    ("transformer.rope_max_seq_len", 10**9), ("transformer.num_layers", 10**30), ("transformer.text_dim", "many"),
    ("transformer.num_attention_heads", -1), ("vae.num_res_blocks", 10**12), ("vae.z_dim", 10**9), ("vae.dim_mult", [1] * 10**5),
    ("vae.base_dim", 2**40), ("cosmos.num_layers", 10**12), ("cosmos.encoder_block_out_channels", [2**30] * 4),
])  # fmt: skip
def test_a_configuration_of_diffusers(tmp_path, folders, key, value):
    from diffusers import AutoencoderKLCosmos, AutoencoderKLWan

    from hwm.models.wan.transformer import StateConditionedWan

    kind, name = key.split(".")
    (tmp_path / kind).mkdir()
    for file in (folders / kind).iterdir():
        (tmp_path / kind / file.name).symlink_to(file)
    path = tmp_path / kind / "config.json"
    config = json.loads(path.read_text())
    assert name in config
    path.unlink()
    path.write_text(json.dumps(config))
    model = {"transformer": StateConditionedWan, "vae": AutoencoderKLWan, "cosmos": AutoencoderKLCosmos}[kind]
    check_model_folder(tmp_path / kind, model=model)
    path.write_text(json.dumps(config | {name: value}))
    cheap(lambda: check_model_folder(tmp_path / kind, model=model), names=path)


@pytest.mark.parametrize("places", [
    {"model.a": {"saved_offsets": [10**12, 0]}}, {"model.a": {"saved_offsets": [1, 0]}}, {"model.a": {"saved_offsets": [0]}},
    {"model.a": {"saved_offsets": [-1, 0]}}, {"model.a": {"saved_offsets": [0, True]}}, {"model.a": 3}, {"model.a": {}},
], ids=str)  # fmt: skip
def test_the_places_of_shards(tmp_path, places):
    file = tmp_path / "shards" / "shard-00001-model-00001-of-00001.safetensors"
    file.parent.mkdir()
    save_file({"model.a": torch.zeros(2, 3)}, file, metadata={"DCP_SHARDING_INFO": json.dumps(places)})
    refused(lambda: Stored([file]).sizes("model"), names=f"{file}: ")


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@B2
@pytest.mark.parametrize("header, message", [
    ({"a": ENTRY | {"shape": [2, 0, 2**47, 2**47]}}, "has no shape and place"),
    ({"a": ENTRY | {"shape": [3]}}, "does not fill its place"), ({"a": ENTRY | {"shape": "2"}}, "no shape and place"),
    ({"a": ENTRY | {"shape": [-2]}}, "no shape and place"), ({"a": ENTRY | {"shape": [2.0]}}, "no shape and place"),
    ({"a": ENTRY | {"shape": [1] * 17}}, "no shape and place"), ({"a": ENTRY | {"data_offsets": [8]}}, "no shape and place"),
    ({"a": ENTRY, "b": ENTRY}, "overlap or leave gaps at byte 0"), ({"a": [2]}, "no shape and place"), ({"a": None}, "no shape"),
    ({"a": ENTRY, "b": ENTRY | {"data_offsets": [12, 20]}}, "overlap or leave gaps at byte 8"),
    ({"a": ENTRY | {"data_offsets": [8, 0]}}, "does not fill its place"), ({}, "its tensors are 0 bytes, 8 are there"),
    (b'{"a":' + b"[" * 300_000, "nested"),
    (b"[" + b"[]," * 4_000_000 + b"[]]", "more than 1000000 values"), (b'{"a":{"shape":[1' + b"0" * 5000 + b"]}}", "digits"),
], ids=range(16))  # fmt: skip
def test_a_header_of_safetensors(tmp_path, header, message):
    path = tmp_path / "w.safetensors"
    path.write_bytes(safetensors_with(header, bytes(8)))
    line = cheap(lambda: read_header(path), names=f"{path}: not a whole safetensors file")
    assert message in line, line


def test_a_header_tells_types_and_shapes(tmp_path):
    state = {"a": torch.zeros(2, 3), "b": torch.zeros((), dtype=torch.int64), "c": torch.zeros(0, 4).half()}
    save_file(state, tmp_path / "w.safetensors")
    assert read_header(tmp_path / "w.safetensors") == {key: (t.dtype, tuple(t.shape)) for key, t in state.items()}
    assert load_file(tmp_path / "w.safetensors").keys() == state.keys()
