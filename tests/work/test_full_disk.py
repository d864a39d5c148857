"""A full disk is named with its own free space, whichever writer felt it; a file is what its name says."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from damage import largest_file
from PIL import Image
from refusing import refused
from safetensors.torch import save_file
from tiny_line import tokenizer

from hwm import cli
from hwm.data.video import VideoWriter
from hwm.data.writers import TokenShardWriter, write_dataset_metadata
from hwm.evaluate.submission import write_sampling_submission
from hwm.models.wan.text import write_text_embedding
from hwm.work import files
from hwm.work.parts import PartsFolder

NOISE = np.random.default_rng(0).integers(0, 256, (34, 64, 64, 3), np.uint8)


def video(path):
    with VideoWriter(path, height=64, width=64) as writer:
        writer.write(NOISE)


def folder(path):
    with files.new_folder(path) as building:
        save_file({"a": torch.zeros(9999)}, building / "a.safetensors")


def sheet(path):
    with files.atomic_path(path) as temporary:
        Image.fromarray(NOISE[0]).save(temporary)


def tokens(path):
    TokenShardWriter(path.parent.parent, 0, vocab_size=9).write(np.zeros((2, 3, 8, 8), int), np.zeros((34, 9)), np.zeros(34, int))
    write_dataset_metadata(path.parent.parent, num_shards=1, num_images=34)


WRITERS = {
    "a.mp4": video, "a.png": sheet, "a": folder, "coder": tokenizer, "videos/video_0.bin": tokens,
    "a.json": lambda path: files.write_json(path, list(range(1000))),
    "b.json": lambda path: files.write_text(path, "b" * 5000),
    "b.png": lambda path: files.write_picture(path, Image.fromarray(NOISE[0])),
    "a.safetensors": lambda path: write_text_embedding(path, torch.zeros(2, 500), source="a"),
    "a.zip": lambda path: write_sampling_submission(path, [(0, NOISE[0])], None, ids=[0], size=(64, 64)),
    "a.bin": lambda path: PartsFolder(path.parent, "key").write("a", {"a": NOISE}),
}  # fmt: skip


@pytest.mark.fault("F4", "file and free space named, exit code not 0, what was there whole, nothing half-written left")
@pytest.mark.parametrize("name", WRITERS)
def test_the_disk_that_is_full_is_named_with_its_own_space(tmp_path, monkeypatch, name):
    asked = []

    def disk_usage(place):
        asked.append(Path(place))
        return SimpleNamespace(free=123_456_789)

    monkeypatch.setattr(files.shutil, "disk_usage", disk_usage)
    path = tmp_path / "not yet" / "there" / name
    told = rf"^{path}\S*: cannot write: File too large \(0.12 GB free\); free some space or choose another disk"
    with largest_file(1000):
        refused(told, WRITERS[name], path)
    assert asked and all(place.is_relative_to(tmp_path) for place in asked)
    assert [left for left in tmp_path.rglob("*") if left.is_file()] == []
    WRITERS[name](path)


def test_of_a_folder_that_is_not_there_the_nearest_one_tells(tmp_path):
    (tmp_path / "link").symlink_to("/dev/shm")
    assert files.existing(tmp_path / "a" / "b") == tmp_path
    assert files.existing(tmp_path / "link" / "c" / "d") == tmp_path / "link"
    (tmp_path / "file").write_text("")
    assert files.existing(tmp_path / "file" / "a") == tmp_path


def test_what_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    refused("file/new/a.json: cannot write: Not a directory", files.write_json, tmp_path / "file" / "new" / "a.json", {})
    refused("^/proc/foo/a.mp4: cannot write: No such file or directory", video, Path("/proc/foo/a.mp4"))


@pytest.mark.parametrize(
    ("command", "suffix"),
    [
        ("predict R --data D --out x.png", ".mp4 or .gif"),
        ("predict R --data D --out x", ".mp4 or .gif"),
        ("predict R --data D --out x.mp4.avi", ".mp4 or .gif"),
        ("submit R --data D --out x.tar --team a --authors b --email c", ".zip"),
        ("submit R --data D --out x.mp4 --team a --authors b --email c --track sampling", ".zip"),
        ("data describe D --sheet x.jpg", ".png"),
        ("text-embedding R x.pt", ".safetensors"),
    ],
)
def test_a_file_is_what_its_name_says(tmp_path, monkeypatch, capsys, command, suffix):
    monkeypatch.chdir(tmp_path)
    assert cli.main(command.split()) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert told.endswith(f": what is written here is a {suffix} file; give it a name that ends in {suffix}\n")
    assert list(tmp_path.iterdir()) == []
    refused("is a .mp4 file", VideoWriter, tmp_path / "a.gif", height=64, width=64)
