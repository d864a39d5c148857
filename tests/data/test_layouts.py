"""Names, dtypes and byte sizes of every layout, and the way back through the readers (reference A.2-A.6, F.3)."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from official_tests import write_compression_test_set, write_sampling_test_set

from hwm.clock import COSMOS
from hwm.data import checksums, testsets, writers
from hwm.data.onex import open_dataset
from hwm.data.testsets import open_test_set
from hwm.robot import ROBOTS

SPLIT = ["metadata/metadata_0.json", "robot_states/states_0.bin", "segment_indices/segment_idx_0.bin"]
FLAT = ["metadata_0.json", "states_0.bin", "segment_idx_0.bin"]


def names(root):
    files = (p.relative_to(root).as_posix() for p in Path(root).rglob("*") if p.is_file())
    return sorted(f for f in files if not f.startswith((".cache", "checksums")))


def test_official_validation_set_to_the_byte(tmp_path):
    frames = 50300
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 64000, (2959, 3, 32, 32), dtype=np.int32)
    states = rng.normal(size=(frames, 25)).astype(np.float32)
    segments = np.arange(frames) // 183
    writers.TokenShardWriter(tmp_path, 0, flat=True).write(tokens, states, segments)
    writers.write_dataset_metadata(tmp_path, num_shards=1, num_images=frames)
    assert names(tmp_path) == sorted(["metadata.json", "video_0.bin", *FLAT])
    sizes = {"video_0.bin": 36_360_192, "states_0.bin": 5_030_000, "segment_idx_0.bin": 201_200, "metadata.json": 63}
    assert {name: (tmp_path / name).stat().st_size for name in sizes} == sizes
    assert json.loads((tmp_path / "metadata_0.json").read_text()) == {"shard_num_frames": frames, "shard_ind": 0}
    dataset = open_dataset(tmp_path)
    assert dataset.kind == "tokens" and dataset.num_frames == frames
    assert (dataset.grid, dataset.vocab_size, dataset.hz) == ((32, 32), 64000, 30)
    assert dataset.tokenizer is None and dataset.clock == COSMOS
    np.testing.assert_array_equal(dataset.shards[0].tokens, tokens)
    np.testing.assert_array_equal(dataset.shards[0].states, states)
    np.testing.assert_array_equal(dataset.shards[0].segments, segments)
    for array, dtype in [("tokens", "<i4"), ("states", "<f4"), ("segments", "<i4")]:
        mapped = getattr(dataset.shards[0], array)
        assert isinstance(mapped, np.memmap) and mapped.dtype == np.dtype(dtype) and not mapped.flags.writeable


@pytest.mark.parametrize("flat", [False, True])
def test_tokens_with_sidecar(tmp_path, make_tokens, flat):
    root = make_tokens(tmp_path, ((60, 45),), flat=flat)
    assert names(root) == sorted(["metadata.json", "tokenizer.json", *(FLAT if flat else SPLIT),
                                  "video_0.bin" if flat else "videos/video_0.bin"])
    dataset = open_dataset(root)
    assert (dataset.grid, dataset.vocab_size, dataset.tokenizer["fingerprint"]) == ((4, 4), 1000, "f")
    assert dataset.shards[0].tokens.shape == (7, 3, 4, 4)


@pytest.mark.parametrize("flat", [False, True])
def test_raw(tmp_path, make_raw, flat):
    root = make_raw(tmp_path, ((40, 45),), flat=flat)
    assert names(root) == sorted(["metadata.json", *(FLAT if flat else SPLIT), "video_0.mp4" if flat else "videos/video_0.mp4"])
    dataset = open_dataset(root)
    assert dataset.kind == "video" and dataset.grid == (32, 32) and dataset.resized(16).grid == (16, 16)
    frames = dataset.shards[0].frames
    assert frames.shape == (85, 32, 32, 3) and frames.dtype == np.uint8 and isinstance(frames, np.memmap)
    np.testing.assert_allclose(frames.mean(axis=(1, 2, 3)), 20 + 5 * (np.arange(85) % 40), atol=1.5)
    assert dataset.resized(16).shards[0].frames.shape == (85, 16, 16, 3)
    np.testing.assert_array_equal(dataset.shards[0].states[:, 0], np.arange(85))


def test_folder_names_of_other_copies(token_root):
    before = [(np.array(s.states), np.array(s.segments)) for s in open_dataset(token_root).shards]
    (token_root / "robot_states").rename(token_root / "states")
    (token_root / "segment_indices").rename(token_root / "segment_idx")
    for (states, segments), shard in zip(before, open_dataset(token_root).shards, strict=True):
        np.testing.assert_array_equal(shard.states, states)
        np.testing.assert_array_equal(shard.segments, segments)


def test_each_kind_of_file_is_probed_on_its_own(token_root):
    for path in (token_root / "metadata").iterdir():
        path.rename(token_root / path.name)
    assert [shard.num_frames for shard in open_dataset(token_root).shards] == [105, 109]


def test_shards_are_in_numerical_order(tmp_path, make_tokens):
    root = make_tokens(tmp_path, [(17 + i,) for i in range(12)])
    assert [shard.num_frames for shard in open_dataset(root).shards] == list(range(17, 29))


def test_other_embodiments(tmp_path):
    writers.TokenShardWriter(tmp_path, 0).write(np.zeros((1, 3, 32, 32), int), np.ones((17, 2)), np.zeros(17, int))
    writers.write_dataset_metadata(tmp_path, num_shards=1, num_images=17)
    with pytest.raises(ValueError, match="state width 25"):
        open_dataset(tmp_path)
    text = 'name="arm"\nnames=["a","b"]\nunits=["rad","rad"]\nmean=[0,0]\nstd=[1,1]\n'
    (tmp_path / "robot.toml").write_text(text)
    dataset = open_dataset(tmp_path)
    assert dataset.robot.name == "arm" and dataset.shards[0].states.shape == (17, 2)


def test_cache_follows_the_video(tmp_path, make_raw):
    root = make_raw(tmp_path / "a", ((40,),))
    first = open_dataset(root).resized(16).shards[0].frames
    stamp = Path(first.filename).stat().st_mtime_ns
    assert Path(open_dataset(root).resized(16).shards[0].frames.filename).stat().st_mtime_ns == stamp, "decoded once"
    other = make_raw(tmp_path / "b", ((40,),), side=64)
    (other / "videos/video_0.mp4").replace(root / "videos/video_0.mp4")
    second = open_dataset(root, verified=False).resized(16).shards[0].frames
    assert second.filename != first.filename
    assert len(list((root / ".cache").iterdir())) == 1, "the stale copy is gone"


def test_a_damaged_cache_is_decoded_anew(raw_root):
    frames = np.array(open_dataset(raw_root).shards[0].frames)
    for cached in (raw_root / ".cache").iterdir():
        cached.write_bytes(cached.read_bytes()[:-100])
    np.testing.assert_array_equal(open_dataset(raw_root).shards[0].frames, frames)


def test_read_only_data_use_the_users_cache(raw_root, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home cache"))
    (raw_root / ".cache").write_text("a file where the folder would be")
    frames = open_dataset(raw_root).shards[0].frames
    assert Path(frames.filename).is_relative_to(tmp_path / "home cache")


def test_v1_1(tmp_path, make_legacy):
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 2**18, (50, 16, 16))
    widths = {"joint_pos": 21, "driving_command": 2, "neck_desired": 3, "l_hand_closure": 1, "r_hand_closure": 1}
    actions = {name: rng.normal(size=(50, width)).astype(np.float32) for name, width in widths.items()}
    dataset = open_dataset(make_legacy(tmp_path, tokens_NHW=tokens, segments=np.arange(50) // 25, actions=actions))
    shard = dataset.shards[0]
    assert dataset.kind == "tokens" and shard.tokens.dtype == np.uint32 and dataset.vocab_size == 262144
    np.testing.assert_array_equal(shard.read(0, 50), tokens)
    for name, rows in actions.items():
        np.testing.assert_array_equal(shard.actions[name], rows)
    states = shard.read_states(np.array([7]))[0]
    order = ("joint_pos", "l_hand_closure", "r_hand_closure", "driving_command")
    np.testing.assert_array_equal(states, np.concatenate([actions[name][7] for name in order]))


@pytest.mark.parametrize("flat", [True, False])
def test_compression_test_set(tmp_path, flat):
    rng = np.random.default_rng(0)
    tokens, states = rng.integers(0, 64000, (12, 3, 32, 32)), rng.normal(size=(12, 64, 25)).astype(np.float32)
    write_compression_test_set(tmp_path, tokens_NTHW=tokens, states_NFA=states, flat=flat)
    file = tmp_path / ("video_11.bin" if flat else "videos/video_11.bin")
    assert file.stat().st_size == 12288
    assert (tmp_path / ("states_3.bin" if flat else "robot_states/states_3.bin")).stat().st_size == 6400
    samples = open_test_set(tmp_path)
    assert isinstance(samples, testsets.CompressionTestSet)
    assert samples.ids == tuple(range(12)) and len(samples) == 12
    np.testing.assert_array_equal(samples.tokens_NTHW, tokens)
    np.testing.assert_array_equal(samples.states_NFA, states)


@pytest.mark.parametrize("flat", [True, False])
def test_sampling_test_set(tmp_path, flat):
    videos = [np.full((17, 32, 32, 3), 40 * i + 20, np.uint8) for i in range(3)]
    states = np.random.default_rng(0).normal(size=(3, 97, 25)).astype(np.float32)
    write_sampling_test_set(tmp_path, videos=videos, states_NFA=states, flat=flat)
    assert (tmp_path / ("states_0.bin" if flat else "robot_states/states_0.bin")).stat().st_size == 9700
    samples = open_test_set(tmp_path)
    assert isinstance(samples, testsets.SamplingTestSet) and len(samples) == 3
    np.testing.assert_array_equal(samples.states_NFA, states)
    for i, frames in enumerate(videos):
        np.testing.assert_allclose(samples.frames(i), frames, atol=2)
    assert samples.frames(0, 8).shape == (17, 8, 8, 3)


def test_a_shard_is_finished_when_its_metadata_is_there(tmp_path, make_tokens):
    assert not writers.shard_finished(tmp_path, 0)
    make_tokens(tmp_path, ((20,),))
    assert writers.shard_finished(tmp_path, 0) and not writers.shard_finished(tmp_path, 1)


@pytest.mark.parametrize("change, fault", [
    ({"tokens": np.full((2, 3, 4, 4), 64000)}, "must lie in"), ({"tokens": np.full((2, 3, 4, 4), -1)}, "must lie in"),
    ({"tokens": np.zeros((2, 3, 4, 4))}, "whole numbers"), ({"tokens": np.zeros((1, 3, 4, 4), int)}, r"20 frames need \(2, 3\)"),
    ({"states": np.full((20, 25), np.nan)}, "finite, row 0"), ({"states": np.zeros((20, 25, 1))}, "expected states"),
    ({"segments": np.zeros(19, int)}, "expected states"), ({"segments": np.arange(20)[::-1]}, "must not decrease")
])
def test_token_writer_refuses_what_no_reader_accepts(tmp_path, change, fault):
    good = {"tokens": np.zeros((2, 3, 4, 4), int), "states": np.zeros((20, 25)), "segments": np.zeros(20, int)}
    parts = good | change
    with pytest.raises(ValueError, match=fault):
        writers.TokenShardWriter(tmp_path, 0).write(parts["tokens"], parts["states"], parts["segments"])
    assert names(tmp_path) == []


def test_an_interrupted_raw_shard_leaves_nothing(tmp_path):
    frames, states = np.zeros((4, 32, 32, 3), np.uint8), np.zeros((4, 25))
    with (
        pytest.raises(ValueError, match="must not decrease"),
        writers.RawShardWriter(tmp_path, shard=0, height=32, width=32) as writer,
    ):
        writer.append(frames, states, 2)
        writer.append(frames, states, 1)
    assert names(tmp_path) == []


def test_a_fingerprint_is_of_the_content_and_not_of_the_place(tmp_path, token_root, make_tokens, make_raw, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    print_of = lambda root: open_dataset(root).fingerprint  # noqa: E731
    first = print_of(token_root)
    flat = make_tokens(tmp_path / "flat", flat=True)
    monkeypatch.chdir(tmp_path)
    for same in (token_root, "tokens", "./tokens/", shutil.copytree(token_root, "copy"), flat):
        assert print_of(same) == first
    for sidecar in (*Path("copy").glob("checksums*/*"), Path("copy/checksums.json")):
        sidecar.unlink()
    assert print_of("copy") == first == print_of(Path("copy").rename("moved"))
    monkeypatch.setenv("XDG_CACHE_HOME", os.devnull)
    assert print_of("moved") == first
    assert [s.fingerprint for s in open_dataset("moved").shards] == [s.fingerprint for s in open_dataset(flat).shards]
    others = {first, print_of(make_tokens(tmp_path / "seed", seed=1))}
    changes = [(f"robot_states/states_{i}.bin", b"\0", b"\1") for i in (0, 1)] + [("videos/video_1.bin", b"\0", b"\1")]
    changes += [("segment_indices/segment_idx_1.bin", b"\2", b"\3"), ("tokenizer.json", b'"f"', b'"g"')]
    for name, old, new in [*changes, ("metadata.json", b'"hz": 30', b'"hz": 15')]:
        file = Path(shutil.copytree("moved", f"other-{len(others)}")) / name
        file.write_bytes(file.read_bytes().replace(old, new, 1))
        others.add(print_of(f"other-{len(others)}"))
    robot = (ROBOTS / "eve.toml").read_text().replace("rad", "deg")
    (Path(shutil.copytree("moved", "robot")) / "robot.toml").write_text(robot)
    others |= {print_of("robot"), print_of(raw := make_raw(tmp_path / "raw"))}
    assert len(others) == 10
    assert open_dataset(raw).resized(8).fingerprint == print_of(raw)


def test_a_fingerprint_reads_each_file_once(tmp_path, token_root, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    names, sha256 = [], checksums.sha256
    monkeypatch.setattr(checksums, "sha256", lambda path: (names.append(path.name), sha256(path))[1])
    first = open_dataset(token_root).fingerprint
    assert len(names) == 10  # for the recorded checksums
    assert open_dataset(token_root).fingerprint == first and len(names) == 10
