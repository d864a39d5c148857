import io
import json
import zipfile

import numpy as np
import pytest
import torch
from copying import CopyLastGrid
from damage import change_members
from refusing import refused

from hwm.contracts import Batch
from hwm.evaluate.submission import (
    README_KEYS,
    SHAPE,
    predict_samples,
    validate_compression_submission,
    write_compression_submission,
)

REFUSED = "no invalid submission is written; the file is read again and checked"
SMALL = {"num_samples": 3, "shape": (3, 2, 2, 5), "vocab_size": 9}
README = {key: f"my {key}" for key in README_KEYS}


def sample(seed=0, shape=SMALL["shape"], vocab_size=9):
    rng = np.random.default_rng(seed)
    indices = rng.permuted(np.broadcast_to(np.arange(vocab_size), (*shape[:-1], vocab_size)), axis=-1)[..., : shape[-1]]
    return indices.astype(np.int64), -np.sort(rng.exponential(size=shape).astype(np.float32), -1)


def samples(change=None):
    for i in range(3):
        indices, values = sample(i)
        if change is not None and i == 1:
            indices, values = change(indices, values)
        yield i, indices, values


def test_members_are_those_of_the_challenge(tmp_path):
    path = tmp_path / "submission.zip"
    summary = write_compression_submission(path, reversed(list(samples())), README, **SMALL)
    assert summary == validate_compression_submission(path, **SMALL)
    assert (summary.num_samples, summary.num_bytes) == (3, path.stat().st_size)
    with zipfile.ZipFile(path) as archive:
        assert sorted(archive.namelist()) == ["0.npz", "1.npz", "2.npz", "README.txt"]
        assert json.loads(archive.read("README.txt")) == README
        for i in range(3):
            arrays = np.load(io.BytesIO(archive.read(f"{i}.npz")))
            indices, values = sample(i)
            assert arrays["indices"].dtype == np.int32 and arrays["values"].dtype == np.float32
            assert (arrays["indices"] == indices).all() and (arrays["values"] == values).all()
    write_compression_submission(tmp_path / "again.zip", reversed(list(samples())), README, **SMALL)
    assert path.read_bytes() == (tmp_path / "again.zip").read_bytes()


def test_compressed_is_read_as_well(tmp_path, monkeypatch):
    monkeypatch.setattr(np, "savez", np.savez_compressed)
    write_compression_submission(tmp_path / "a.zip", samples(), README, **SMALL)


def test_a_sample_of_official_size(tmp_path):
    assert np.prod(SHAPE) == 1_536_000
    indices, values = sample(shape=SHAPE, vocab_size=600)
    summary = write_compression_submission(tmp_path / "a.zip", [(0, indices, values)], README, num_samples=1)
    assert 12_288_000 < summary.num_bytes < 12_288_000 + 4096


def put(array, place, value):
    array = array.copy()
    array[place] = value
    return array


FIRST = (0, 0, 0, 0)
FAULTS = {
    "lie in 0, 9": lambda i, v: (put(i, FIRST, 9), v),
    "indices must lie": lambda i, v: (put(i, FIRST, -1), v),
    "occurs twice": lambda i, v: (put(i, FIRST, i[0, 0, 0, 3]), v),
    "values must be finite": lambda i, v: (i, put(v, FIRST, np.nan)),
    "must be finite": lambda i, v: (i, put(v.astype(np.float64), FIRST, 1e300)),
    "descending": lambda i, v: (i, v[..., ::-1]),
    "shape": lambda i, v: (i[..., :4], v[..., :4]),
    "integer indices": lambda i, v: (i.astype(np.float32), v),
}


@pytest.mark.fault("B12", REFUSED)
@pytest.mark.parametrize("message", FAULTS)
def test_bad_arrays_are_refused_in_one_line_and_leave_nothing(tmp_path, message):
    text = refused("sample 1", write_compression_submission, tmp_path / "a.zip", samples(FAULTS[message]), README, **SMALL)
    assert message in text.replace("[", "").replace(")", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fault("B12", REFUSED)
@pytest.mark.parametrize(("given", "message"), [
    (lambda: list(samples())[:2], "2 of 3 samples, the first missing is 2"),
    (lambda: [*samples(), (1, *sample(1))], "sample 1 is given twice"), (lambda: [(3, *sample(1))], "outside 0..2")
])
def test_wrong_counts_leave_an_earlier_file_as_it_was(tmp_path, given, message):
    path = tmp_path / "a.zip"
    path.write_bytes(b"earlier")
    refused(message, write_compression_submission, path, given(), README, **SMALL)
    assert path.read_bytes() == b"earlier" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("readme", [
    {}, {**README, "extra": "x"}, {**README, "team": " "}, {**README, "team": 3}, {k: README[k] for k in README_KEYS[1:]}
])
def test_a_readme_must_be_complete(tmp_path, readme):
    refused("README", write_compression_submission, tmp_path / "a.zip", samples(), readme, **SMALL)
    assert list(tmp_path.iterdir()) == []


def npz(**arrays):
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return content.getvalue()


INDICES, VALUES = sample(0)
FOREIGN = {
    "README.txt: not valid JSON": {"README.txt": b"{'method': 1"}, "2.npz is missing": {"2.npz": None},
    "x.npz does not belong": {"x.npz": b""}, "0.npz: indices: expected int32": {"0.npz": npz(indices=INDICES, values=VALUES)},
    "indices: expected int32": {"0.npz": npz(indices=np.array([print], dtype=object), values=VALUES)},
    "0.npz: values: expected float32": {"0.npz": npz(indices=INDICES.astype(np.int32), values=VALUES[:1])},
    "0.npz: expected the arrays": {"0.npz": npz(indices=INDICES)}, "not a whole zip": {"0.npz": b"nothing"},
    "0.npz unpacks to": {"0.npz": bytes(1_000_000)},
    "indices.npy unpacks to": {"0.npz": npz(indices=np.zeros(10_000), values=VALUES)}
}


@pytest.mark.parametrize("message", FOREIGN)
def test_foreign_files_are_refused_in_one_line(tmp_path, message):
    path = tmp_path / "a.zip"
    write_compression_submission(path, samples(), README, **SMALL)
    change_members(path, FOREIGN[message])
    assert message in refused(None, validate_compression_submission, path, **SMALL)


@pytest.mark.fault("B12", REFUSED)
@pytest.mark.parametrize("where", [0.3, 0.6, 0.9])
def test_a_flipped_bit_or_a_cut_is_found(tmp_path, where):
    path = tmp_path / "a.zip"
    write_compression_submission(path, samples(), README, **SMALL)
    content = bytearray(path.read_bytes())
    start = content.index(b"NUMPY", int(where * 1000)) + 200  # inside the numbers of some array
    content[start] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError):
        validate_compression_submission(path, **SMALL)
    path.write_bytes(content[: int(len(content) * where)])
    with pytest.raises(ValueError):
        validate_compression_submission(path, **SMALL)


def test_a_missing_file_is_named(tmp_path):
    refused(r"none\.zip: no such file", validate_compression_submission, tmp_path / "none.zip")


def test_a_model_fills_a_submission(tmp_path):
    tokens = torch.randint(0, 9, (3, 3, 2, 2))
    model = CopyLastGrid(vocab_size=9)
    given = predict_samples(model, range(3), tokens.numpy(), np.zeros((3, 64, 25), np.float32), top_k=5, batch_size=2)
    path = tmp_path / "a.zip"
    write_compression_submission(path, given, README, **SMALL)
    with zipfile.ZipFile(path) as archive:
        first = np.load(io.BytesIO(archive.read("2.npz")))
    batch = Batch(states_BFA=torch.zeros(1, 34, 25), tokens_BTHW=torch.cat([tokens[2:], tokens[2:]], 1))
    alone = model.predict(batch.tokens_BTHW[:, :3], batch.states_BFA, generator=torch.Generator(), top_k_logits=5)
    assert (first["indices"] == alone.top_indices_BTHWK[0].numpy()).all()
    assert np.allclose(first["values"], alone.top_values_BTHWK[0].detach().numpy())


def test_too_few_states_are_refused():
    with pytest.raises(ValueError, match="reads 34 state rows"):
        next(predict_samples(CopyLastGrid(vocab_size=9), [0], np.zeros((1, 3, 2, 2)), np.zeros((1, 20, 25))))
