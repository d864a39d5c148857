"""Weight files that are not those of the model: refused with what differs, the model unchanged, no type changed in silence."""

import pytest
import torch
from fuzz_files import seal_again
from hostile import cost, refused
from safetensors.torch import load_file, save_file
from tiny_line import tokenizer as trained_tokenizer
from tiny_training import build, run

from hwm.model_config import STConfig
from hwm.models.st_transformer import STTransformer
from hwm.safe_load.weights import load_state_dict, select
from hwm.tokenizers.open import open_tokenizer
from hwm.training import checkpoint
from hwm.training.stored import Stored, load_weights

B6 = pytest.mark.fault("B6", "refused with a diff of keys; dtype never cast silently")


def without(state, key):
    return {k: v for k, v in state.items() if k != key}


def vector(state):
    """A tensor of one dimension."""
    return next(k for k, v in state.items() if v.ndim == 1 and v.is_floating_point() and len(v) > 1)


def matrix(state):
    """A tensor whose first two dimensions differ."""
    return next(k for k, v in state.items() if v.ndim > 1 and v.is_floating_point() and v.shape[0] != v.shape[1])


def with_nan(value):
    value = value.clone()
    value.view(-1)[-1] = float("nan")
    return value


def header_of_100_000(path):
    entry = '"layer.%d.weight":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    text = ("{" + ",".join(entry % i for i in range(100_000)) + "}").encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)


def tokenizer(folder):
    """A tokenizer as another would make it."""
    trained_tokenizer(folder)
    return folder


def resealed(own):
    """The same with checksums that agree with what was changed, which they would tell first."""
    assert seal_again(own, own / "model.safetensors")
    return str(own)


CHANGES = {
    "missing": lambda s: (without(s, vector(s)), f"missing: {vector(s)}", f"{vector(s)} missing"),
    "extra": lambda s: (s | {"more.weight": torch.zeros(2)}, "unexpected: more.weight", "more.weight unexpected"),
    "renamed": lambda s: ({f"module.{k}": v for k, v in s.items()}, "missing", "missing"),
    "shape": lambda s: (s | {vector(s): s[vector(s)][:1].clone()}, f"{vector(s)} (1,), the model has", vector(s)),
    "transposed": lambda s: (s | {matrix(s): s[matrix(s)].transpose(0, 1).contiguous()}, "another shape", "expected floats"),
    "double": lambda s: (s | {vector(s): s[vector(s)].double()}, "torch.float64, the model has torch.float32", "float64"),
    "integers": lambda s: (s | {vector(s): s[vector(s)].int()}, "int32", "int32"),
    "NaN": lambda s: (s | {vector(s): with_nan(s[vector(s)])}, f"1 with NaN: {vector(s)}", "not finite"),
}


def load(file, model):
    load_weights(Stored([file]), model, where=file)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The weights of a run, and its folder."""
    folder = tmp_path_factory.mktemp("run")
    run(folder / "run", "train.steps=3")
    file = folder / "run" / "checkpoints" / "step-3" / "model.safetensors"
    return load_file(file), folder / "run"


@B6
@pytest.mark.parametrize("fault", CHANGES)
def test_weights_of_a_world_model(tmp_path, weights, fault):
    state, message, _ = CHANGES[fault](weights[0])
    save_file(state, tmp_path / "model.safetensors")
    model = build()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    line = refused(lambda: load(tmp_path / "model.safetensors", model), names=tmp_path / "model.safetensors")
    assert message in line, line
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


@B6
def test_half_precision_is_not_taken_for_float32(tmp_path, weights):
    save_file({k: v.half() if v.is_floating_point() else v for k, v in weights[0].items()}, tmp_path / "model.safetensors")
    refused(lambda: load(tmp_path / "model.safetensors", build()), names="of another dtype")


@B6
def test_weights_of_another_model(tmp_path, weights):
    other = STTransformer(STConfig(vocab_size=32, grid=(2, 2), num_layers=2, num_heads=2, width=32, mlp_ratio=2, state_hidden=16,
                                   num_states=34))  # fmt: skip
    trained = checkpoint.find(weights[1]) / "model.safetensors"
    assert "names match" in refused(lambda: load(trained, other), names="does not fit the model")
    own = tokenizer(tmp_path / "tokenizer")
    refused(lambda: load(own / "model.safetensors", build()), names="missing")
    (own / "model.safetensors").unlink()
    save_file(weights[0], own / "model.safetensors")
    assert "unexpected" in refused(lambda: open_tokenizer(resealed(own)), names="missing")


@B6
@pytest.mark.parametrize("fault", CHANGES)
def test_weights_of_a_tokenizer(tmp_path, fault):
    own = tokenizer(tmp_path / "tokenizer")
    file = own / "model.safetensors"
    state, _, message = CHANGES[fault](load_file(file))
    file.unlink()
    save_file(state, file)
    assert message in refused(lambda: open_tokenizer(resealed(own)), names=file)


@B6
@pytest.mark.parametrize("fault", CHANGES)
def test_weights_of_a_network_from_elsewhere(tmp_path, fault):
    expected = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.tensor([1.0, 2.0])}
    shapes = {key: tuple(value.shape) for key, value in expected.items()}
    state, _, message = CHANGES[fault](expected)
    torch.save(state, tmp_path / "w.pth")
    about = {"path": "w.pth", "remedy": "fetch it again"}
    assert message in refused(lambda: select(load_state_dict(tmp_path / "w.pth"), shapes, **about), names="fetch it again")
    halves = select({k: v.bfloat16() for k, v in expected.items()}, shapes, **about)
    assert all(torch.equal(halves[k], v) and halves[k].dtype == torch.float32 for k, v in expected.items()), "exact in float32"


@B6
def test_a_header_of_100_000_entries(tmp_path, record_property):
    own = tokenizer(tmp_path / "tokenizer")
    (own / "model.safetensors").unlink()
    header_of_100_000(own / "model.safetensors")
    for call in (lambda: open_tokenizer(resealed(own)), lambda: load_state_dict(own / "model.safetensors")):
        line, growth, seconds = cost(lambda call=call: refused(call, names="layer.0.weight, layer.1.weight"))
        assert "lists 100000 tensors" in line and growth < 200 * 2**20 and seconds < 5
    record_property("measured", f"100 000 entries: +{growth / 2**20:.0f} MB, {seconds:.2f} s")


@B6
def test_all_faults_are_told_in_one_line():
    state = {"a": torch.zeros(3), "b": torch.zeros(2, dtype=torch.int8), "x\ny": torch.zeros(1)}
    line = refused(lambda: select(state, {"a": (2,), "b": (2,), "c": (1,), "d": (1,)}, path="w", remedy="fetch it"))
    misfit = "a is float32 (3,), expected floats (2,) and 1 more"
    assert line == f"w: c, d missing; x\\ny unexpected; {misfit}: not the expected weights; fetch it"
