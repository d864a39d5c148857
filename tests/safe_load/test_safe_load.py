import errno
import zipfile
from types import NoneType

import pytest
import torch
from refusing import refused
from safetensors.torch import save_file
from torch import nn

from hwm.safe_load.paths import one_line, reading
from hwm.safe_load.text import expect_fields
from hwm.safe_load.weights import load_state_dict, select

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.tensor([1.0, -1.0]), "steps": torch.tensor(3)}


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for key in expected:
        assert torch.equal(found[key], expected[key]) and found[key].dtype == expected[key].dtype, key


def test_safetensors_are_read(tmp_path):
    save_file(STATE, tmp_path / "w.safetensors")
    assert_equal(load_state_dict(tmp_path / "w.safetensors"), STATE)


def test_a_whole_model_is_refused(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "model.pth")
    refused(r"model\.pth: refused: .*Linear", load_state_dict, tmp_path / "model.pth")


@pytest.mark.parametrize(
    "value", [[torch.zeros(2)], torch.zeros(2), {}, {"a": 1.0}, {1: torch.zeros(2)}, {"a": {"b": torch.zeros(2)}},
              {"a": torch.eye(2).to_sparse()}, {"state_dict": {"a": "text"}}]
)  # fmt: skip
def test_anything_but_named_dense_tensors_is_refused(tmp_path, value):
    torch.save(value, tmp_path / "w.pth")
    refused(r"w\.pth: expected .*found .*state_dict\(\)", load_state_dict, tmp_path / "w.pth")


def test_broken_files_are_named_in_one_line(tmp_path):
    torch.save(STATE, tmp_path / "cut.pth")
    content = (tmp_path / "cut.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(content[: len(content) // 2])
    save_file(STATE, tmp_path / "cut.safetensors")
    content = (tmp_path / "cut.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[:-4])
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><html>not found</html>")
    (tmp_path / "empty.pt").touch()
    with zipfile.ZipFile(tmp_path / "other.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")
    for name in ("cut.pth", "cut.safetensors", "page.pth", "empty.pt", "other.pth"):
        refused(f"{name}: not a .*fetch it again", load_state_dict, tmp_path / name)


def test_missing_files_and_other_suffixes_are_named(tmp_path):
    refused(r"none\.pth: no such weight file", load_state_dict, tmp_path / "none.pth")
    (tmp_path / "w.ckpt").touch()
    refused(r"w\.ckpt: weight files are \.safetensors, \.pth or \.pt, not \.ckpt", load_state_dict, tmp_path / "w.ckpt")


def test_select_gives_exactly_what_is_wanted():
    shapes = {"a.weight": (2, 3), "a.bias": (2,)}
    state = STATE | {"a.weight": STATE["a.weight"].half()}
    assert_equal(select(state, shapes, path="w", remedy="fetch it", ignored=("steps",)), {k: STATE[k] for k in shapes})
    more = STATE | {f"x{i}": torch.zeros(1) for i in range(5)}
    message = r"w: x0, x1, x2 and 2 more unexpected: .*fetch it"
    refused(message, select, more, shapes, path="w", remedy="fetch it", ignored=("steps",))


@pytest.mark.parametrize(("error", "said"), [
    (OSError(errno.EMFILE, "Too many open files"), "too many open files: allow this process more with `ulimit -n`"),
    (OSError(errno.EIO, "Input/output error"), "Input/output error"), (RuntimeError("Symlink loop"), "Symlink loop"),
])  # fmt: skip
def test_what_the_system_says_is_told_with_the_file(tmp_path, error, said):
    def read():
        with reading(tmp_path / "a\nb", remedy="look at the disk"):
            raise error

    assert refused(None, read) == f"{tmp_path}/a\\nb: cannot be read ({said}); look at the disk"


def test_an_error_is_one_line_that_a_terminal_can_show():
    assert one_line(OSError(errno.ENOENT, "No such file or directory", "/x/y")) == "/x/y: No such file or directory"
    assert one_line(ValueError("a\n  b\x1b[2J")) == "a b\\x1b[2J"
    assert len(one_line(ValueError("x" * 10_000))) == 2000


@pytest.mark.parametrize(("value", "found"), [
    (None, "None"), (True, "True"), ("3", "'3'"), (3.0, "3.0"), ([1] * 1000, "[1, 1"), (..., "nothing")
])  # fmt: skip
def test_a_field_of_another_type_is_named_with_its_file(tmp_path, value, found):
    table = {} if value is ... else {"step": value}
    line = refused(None, expect_fields, table, tmp_path / "state.json", step=int, remedy="use another")
    assert line.startswith(f"{tmp_path}/state.json: expected int under 'step', found {found}") and line.endswith("; use another")
    assert len(line) < 300
    expect_fields({"step": 3, "best": None}, "x", step=int, best=(float, NoneType))
    refused("x: expected float or null under 'best', found 1", expect_fields, {"best": 1}, "x", best=(float, NoneType))
