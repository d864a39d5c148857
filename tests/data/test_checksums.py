"""What was written is what is read: checksums are compared before use, and unchanged files are not read twice."""

import os
import random
import shutil

import pytest
from refusing import refused

from hwm.data import checksums
from hwm.data.describe import check
from hwm.data.onex import open_dataset
from hwm.data.testsets import open_test_set


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "hwm" / "verified"


@pytest.fixture
def hashed(monkeypatch):
    """Names of the files that were read to be compared."""
    names, sha256 = [], checksums.sha256
    monkeypatch.setattr(checksums, "sha256", lambda path: (names.append(path.name), sha256(path))[1])
    return names


def flip(path, position=0, bit=0):
    """Flip one bit where it lies, and set the times back."""
    facts = path.stat()
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 1 << bit]))
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def test_unchanged_files_are_read_once_a_week(token_root, cache, hashed, monkeypatch):
    open_dataset(token_root)
    assert len(hashed) == len(set(hashed)) == 2 * 3 + 4
    hashed.clear()
    open_dataset(token_root)
    assert hashed == []
    monkeypatch.setattr(checksums, "TRUSTED_SECONDS", 0)
    open_dataset(token_root)
    assert len(hashed) == 10


def test_reading_writes_nothing_into_the_dataset(token_root, cache):
    before = sorted(token_root.rglob("*"))
    open_dataset(token_root)
    assert sorted(token_root.rglob("*")) == before


def test_a_changed_file_is_read_again_even_if_its_times_were_set_back(token_root, cache, hashed):
    open_dataset(token_root)
    hashed.clear()
    flip(token_root / "videos/video_1.bin")
    refused(r"videos/video_1.bin: its content differs from checksums_1.json; write the shard", open_dataset, token_root)
    assert hashed == ["video_1.bin"]
    flip(token_root / "videos/video_1.bin")
    open_dataset(token_root)


def test_a_copy_and_a_damaged_note_are_read_in_full(token_root, tmp_path, cache, hashed):
    open_dataset(token_root)
    shutil.copytree(token_root, tmp_path / "copy")
    hashed.clear()
    open_dataset(tmp_path / "copy")
    assert len(hashed) == 10
    for note in cache.iterdir():
        note.write_text("[" * 10_000)
    open_dataset(token_root)
    assert len(hashed) == 20


@pytest.mark.parametrize("place", ["file", "none"])
def test_a_cache_that_cannot_be_written_is_no_fault(token_root, tmp_path, monkeypatch, hashed, place, capfd):
    (tmp_path / "file").write_text("where the folder would be")
    if place == "file":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    else:
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setattr(checksums.Path, "expanduser", no_home)
    open_dataset(token_root)
    open_dataset(token_root)
    assert len(hashed) == 10  # kept in a temporary one, which is said once
    why = f"{tmp_path / 'file'}: File exists" if place == "file" else "this user has no home"
    assert capfd.readouterr().err == f"{why}: caches are kept in {os.environ['XDG_CACHE_HOME']} until the end; " \
        "set XDG_CACHE_HOME to keep them\n"
    flip(token_root / "robot_states/states_0.bin", 100)
    refused("states_0.bin: its content differs", open_dataset, token_root)


def no_home(path):
    raise RuntimeError("Could not determine home directory.")


def test_a_sidecar_that_is_missing_or_damaged(token_root, cache):
    sidecar = token_root / "checksums/checksums_1.json"
    text = sidecar.read_text()
    for damaged in (text[:-1], text.replace("video_1", "vIdeo_1"), text.replace("videos/", "vIdeos/"), text.replace("a", "b")):
        sidecar.write_text(damaged)
        refused(r"checksums_1\.json", open_dataset, token_root)
    sidecar.unlink()
    refused(r"checksums_1\.json: no such file, though other shards have one", open_dataset, token_root)
    for other in (token_root / "checksums").iterdir():
        other.unlink()
    (token_root / "checksums.json").unlink()
    open_dataset(token_root)  # data from elsewhere have none


def test_a_name_that_leads_out_of_the_dataset_is_refused(token_root, cache):
    for name in ("../../outside", "a" * 5000, "nul\\u0000"):
        (token_root / "checksums/checksums_1.json").write_text(f'{{"{name}": "00"}}')
        refused(r"checksums_1\.json", open_dataset, token_root)
    (token_root / "checksums.json").write_text('{"../../../etc/hostname": "0"}')
    assert any("outside the dataset" in str(fault) for fault in checksums.verify(token_root))


def as_files_of_the_hub(root):
    """As huggingface_hub keeps a snapshot: every file is a link to a blob."""
    snapshot = root.with_name("hub") / "datasets--a--b" / "snapshots" / "0123"
    (blobs := snapshot.parent.parent / "blobs").mkdir(parents=True)
    for number, file in enumerate(path for path in sorted(root.rglob("*")) if path.is_file()):
        (link := snapshot / file.relative_to(root)).parent.mkdir(parents=True, exist_ok=True)
        file.rename(blobs / str(number))
        link.symlink_to(os.path.relpath(blobs / str(number), link.parent))
    return snapshot


def with_links(root, name):
    (disk := root.with_name("disk")).mkdir()
    (root / name).rename(disk / "moved")
    (root / name).symlink_to(disk / "moved")
    return root


@pytest.mark.parametrize("link", [as_files_of_the_hub, "videos/video_0", "videos", "robot_states", "checksums", "checksums.json"])
@pytest.mark.parametrize("kind", ["token_root", "raw_root"])
def test_links_are_followed_and_compared(request, link, kind, cache):
    root = request.getfixturevalue(kind)
    fingerprint, pictures = open_dataset(root).fingerprint, "video_0.bin" if kind == "token_root" else "video_0.mp4"
    link = link.replace("video_0", pictures) if isinstance(link, str) else link
    root = with_links(root, link) if isinstance(link, str) else link(root)
    assert open_dataset(root).fingerprint == fingerprint and check(root).ok
    flip(root / "videos" / pictures, 100)
    refused(rf"videos/{pictures}: its content differs from checksums_0.json", open_dataset, root)
    assert [finding.file for finding in check(root).findings if "differs" in finding.message] == [str(root / "videos" / pictures)]


def test_every_flipped_bit_of_a_dataset_is_found_on_opening(token_root, raw_root, cache):
    chance = random.Random(0)
    for root in (token_root, raw_root):
        files = [path for path in sorted(root.rglob("*")) if path.is_file()]
        for file in files:
            position, bit = chance.randrange(file.stat().st_size), chance.randrange(8)
            flip(file, position, bit)
            assert str(root) in refused(None, open_dataset, root), file
            assert not check(root).ok, file
            flip(file, position, bit)
        open_dataset(root)


def test_test_sets_are_compared_too(tmp_path, cache):
    import numpy as np
    from official_tests import write_compression_test_set

    tokens = np.arange(2 * 3 * 32 * 32).reshape(2, 3, 32, 32)
    write_compression_test_set(tmp_path / "test", tokens_NTHW=tokens, states_NFA=np.zeros((2, 64, 25), np.float32))
    open_test_set(tmp_path / "test")
    flip(tmp_path / "test" / "states_1.bin", 40, 3)
    refused(r"states_1\.bin: its content differs", open_test_set, tmp_path / "test")


def test_a_link_in_a_circle_is_named(token_root):
    path = token_root / "videos/video_0.bin"
    path.unlink()
    path.symlink_to(path.name)
    refused(r"videos/video_0.bin: no such file", open_dataset, token_root)
    (fault,) = checksums.verify(token_root)
    assert "videos/video_0.bin: recorded in checksums_0.json but missing" in str(fault) and "\n" not in str(fault)
