"""LeRobot folders: the golden sample, and every way in which such folders were found to be wrong (reference 2e)."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from refusing import refused

from hwm.data.describe import check
from hwm.data.onex import open_dataset
from hwm.data.recordings.excerpt import View
from hwm.data.recordings.lerobot import open_lerobot
from hwm.data.video import VideoWriter
from hwm.robot import ROBOTS, read_embodiment
from hwm.tokenizers.encode import tokenize

pa = pytest.importorskip("pyarrow", reason="needs the extra lerobot")
import pyarrow.parquet as pq  # noqa: E402

GOLDEN = Path(__file__).parents[4] / "shared" / "data"
CAMERA, LENGTHS, WIDTH, FPS = "observation.images.head", (12, 9, 15), 3, 15
IN_FILES = ((0, 1), (2,))
"""Episodes of every video file of v3; all rows are in one file."""


def picture(number):
    """A flat grey picture whose brightness tells which frame it is, up to 40 frames apart."""
    return np.full((32, 32, 3), 20 + 5 * (number % 40), np.uint8)


def states(episode, length):
    return (100 * episode + np.arange(length)[:, None] + np.arange(WIDTH) / 10).astype(np.float32)


def rows_of(episode, length, **changes):
    table = {
        "observation.state": list(states(episode, length)), "action": list(states(episode, length) + 0.5),
        "timestamp": np.arange(length, dtype=np.float32) / FPS, "frame_index": np.arange(length),
        "episode_index": np.full(length, episode), "index": np.arange(length), "task_index": np.zeros(length, np.int64),
    }
    return table | changes


def info_of(version, **changes):
    row = {"dtype": "float32", "shape": [WIDTH], "names": [["hip", "knee", "hand"]]}
    camera = {"dtype": "video", "shape": [32, 32, 3], "names": ["height", "width", "channel"]}
    v3 = version == "v3.0"
    place = "chunk-{chunk_index:03d}/file-{file_index:03d}" if v3 else "chunk-{episode_chunk:03d}/episode_{episode_index:06d}"
    video = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    video = video if v3 else "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
    return {
        "codebase_version": version, "robot_type": "Test_Arm", "fps": FPS, "chunks_size": 1000, "total_episodes": len(LENGTHS),
        "total_frames": sum(LENGTHS), "data_path": f"data/{place}.parquet", "video_path": video,
        "features": {"observation.state": row, "action": row, CAMERA: camera, "timestamp": {"dtype": "float32", "shape": [1]}},
    } | changes  # fmt: skip


def write_film(path, episodes):
    """Frames of the episodes one after the other, each of a brightness that tells episode and frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, height=32, width=32, fps=FPS) as writer:
        for episode in episodes:
            writer.write(np.stack([picture(13 * episode + k) for k in range(LENGTHS[episode])]))


def write_table(path, table):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(table), path)


def film_of(root, episode, version="v3.0"):
    if version == "v3.0":
        return root / f"videos/{CAMERA}/chunk-000/file-{next(i for i, own in enumerate(IN_FILES) if episode in own):03d}.mp4"
    return root / f"videos/chunk-000/{CAMERA}/episode_{episode:06d}.mp4"


def data_of(root, episode, version="v3.0"):
    return root / ("data/chunk-000/file-000.parquet" if version == "v3.0" else f"data/chunk-000/episode_{episode:06d}.parquet")


def episodes_of(**changes):
    seen = f"videos/{CAMERA}"
    files = [next(i for i, own in enumerate(IN_FILES) if e in own) for e in range(len(LENGTHS))]
    starts = [sum(LENGTHS[o] for o in IN_FILES[f] if o < e) / FPS for e, f in enumerate(files)]
    table = {
        "episode_index": range(len(LENGTHS)), "length": LENGTHS, "data/chunk_index": [0] * 3, "data/file_index": [0] * 3,
        f"{seen}/chunk_index": [0] * 3, f"{seen}/file_index": files, f"{seen}/from_timestamp": starts,
        f"{seen}/to_timestamp": [start + n / FPS for start, n in zip(starts, LENGTHS)],
    }
    return {name: list(column) for name, column in (table | changes).items()}


def write(root, version="v3.0", *, info=None, episodes=None, rows=None):
    """info, episodes: changed parts of info.json and of the table of episodes.  rows: changed columns by episode."""
    rows = [rows_of(e, n, **(rows or {}).get(e, {})) for e, n in enumerate(LENGTHS)]
    (root / "meta").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info_of(version, **(info or {}))))
    if version == "v3.0":
        for own in IN_FILES:
            write_film(film_of(root, own[0]), own)
        write_table(data_of(root, 0), {name: [x for part in rows for x in part[name]] for name in rows[0]})
        write_table(root / "meta/episodes/chunk-000/file-000.parquet", episodes_of(**(episodes or {})))
    else:
        for episode, table in enumerate(rows):
            write_film(film_of(root, episode, version), [episode])
            write_table(data_of(root, episode, version), {name: list(column) for name, column in table.items()})
        lines = [json.dumps({"episode_index": e, "tasks": ["t"], "length": n}) for e, n in enumerate(LENGTHS)]
        (root / "meta/episodes.jsonl").write_text("\n".join(lines) + "\n")
    return root


def read_right(dataset, *, of=states):
    """Whether every episode has its own frames and rows."""
    seen = []
    for shard in dataset.shards:
        at = 0
        for episode in shard.episodes:
            span = slice(at, at := at + episode.length)
            shown = shard.read(span.start, episode.length).mean((1, 2, 3))
            said = [picture(13 * episode.index + k).mean() for k in range(episode.length)]
            np.testing.assert_allclose(shown, said, atol=2.4)
            np.testing.assert_array_equal(shard.states[span], of(episode.index, episode.length))
            assert len(set(shard.segments[span])) == 1
            seen.append(episode.index)
        assert at == shard.num_frames == len(shard.segments)
    return sorted(seen) == list(range(len(LENGTHS)))


@pytest.mark.parametrize("version", ["v2.0", "v2.1", "v3.0"])
def test_every_episode_has_its_own_frames_and_rows(tmp_path, version):
    dataset = open_dataset(write(tmp_path, version))
    assert read_right(dataset) and dataset.hz == FPS and dataset.kind == "video"
    assert (dataset.robot.name, dataset.robot.names) == ("test-arm", ("hip", "knee", "hand"))
    assert check(tmp_path).ok


def test_its_tokens_keep_robot_rate_and_rows(tmp_path):
    tokenize(write(tmp_path / "set"), tmp_path / "out", tokenizer="fsq-8x8x8")
    raw, tokens = open_dataset(tmp_path / "set"), open_dataset(tmp_path / "out")
    assert tokens.hz == FPS and tokens.robot == raw.robot and len(tokens.shards) == len(raw.shards)
    for one, other in zip(raw.shards, tokens.shards):
        assert np.array_equal(one.states, other.states) and np.array_equal(one.segments, other.segments)


def test_states_actions_or_both(tmp_path):
    write(tmp_path)
    assert read_right(open_lerobot(tmp_path, state=("action",)), of=lambda e, n: states(e, n) + 0.5)
    both = open_lerobot(tmp_path, state=("observation.state", "action"))
    assert both.robot.names[3] == "action.hip" and both.shards[0].states.shape == (21, 6)
    refused("has no row of numbers 'speed', only observation.state, action; choose", open_lerobot, tmp_path, state=("speed",))


def test_a_camera_is_chosen_by_name_or_its_last_part(tmp_path):
    features = info_of("v3.0")["features"]
    write(tmp_path, info={"features": features | {"observation.images.wrist": features[CAMERA]}})
    refused("several cameras; choose one of observation.images.head, observation.images.wrist", open_lerobot, tmp_path)
    assert read_right(open_lerobot(tmp_path, camera="head"))
    refused("has no camera 'foot'", open_lerobot, tmp_path, camera="foot")
    refused("has no column .videos.observation.images.wrist", open_lerobot, tmp_path, camera="wrist")


def cut(path, count=100):
    path.write_bytes(path.read_bytes()[:-count])


def fewer(root, version="v3.0"):
    """The last frames of episode 1 are not in its file."""
    film = film_of(root, 1, version)
    with VideoWriter(film, height=32, width=32, fps=FPS) as writer:
        writer.write(np.stack([picture(k) for k in range(12 + 6 if version == "v3.0" else 6)]))


def point(path):
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1000\n")


def other_codec(path):
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz").replace(b"avcC", b"zzzC"))


def drifted(step):
    """Time stamps of files whose every frame is a little longer than it is said to be."""
    return {f"videos/{CAMERA}/from_timestamp": [0.0, (12 + step) / FPS, 0.0]}


BACKWARDS = {"timestamp": np.array([0, 1, 2, 1, 4, 5, 6, 7, 8], np.float32) / FPS}
FINE = {
    "1 drift of from_timestamp": {"episodes": drifted(0.4)},
    "2 rows and frames in files of other numbers": {"episodes": {"data/chunk_index": [0] * 3}},
    "6 scrambled index": {"rows": {1: {"index": np.arange(9)[::-1].copy()}}, "episodes": {"dataset_from_index": [30, 2, 5]}},
    "6 rows in another order": {"rows": {1: {name: column[::-1] for name, column in rows_of(1, 9).items()}}},
    "7 no names": {"info": {"features": info_of("v3.0")["features"] | {"observation.state": {"dtype": "float32", "shape": [3]}}}},
    "8 other tasks": {"rows": {0: {"task_index": np.full(12, 8)}}},
}


@pytest.mark.parametrize("change", FINE.values(), ids=FINE)
def test_read_right_all_the_same(tmp_path, change):
    assert read_right(open_dataset(write(tmp_path, **change)))


def test_a_robots_file_names_the_states_that_the_format_leaves_unnamed(tmp_path):
    plain = {"dtype": "float32", "shape": [WIDTH], "names": None}
    write(tmp_path, info={"features": info_of("v3.0")["features"] | {"observation.state": plain, "action": plain}})
    assert open_dataset(tmp_path).robot.names == ("state_0", "state_1", "state_2")
    (tmp_path / "robot.toml").write_text('name="mine"\nnames=["a", "b", "c"]\nunits=["rad", "rad", "0..1"]\n')
    assert open_dataset(tmp_path).robot.names == ("a", "b", "c")
    both = open_dataset(tmp_path, view=View(state="both")).robot
    assert both.names[2:4] == ("observation.state.c", "action.a") and both.kinds[2] == both.kinds[5] == "closure"
    (tmp_path / "robot.toml").write_text('name="mine"\nnames=["a"]\nunits=["rad"]\n')
    refused("robot.toml: its names are not the 3 of observation.state", open_dataset, tmp_path)


def test_features_that_are_called_state_and_actions(tmp_path):
    named = {"observation.state": "state", "action": "actions"}
    features = {named.get(name, name): about for name, about in info_of("v3.0")["features"].items()}
    write(tmp_path, info={"features": features})
    table = pq.read_table(data_of(tmp_path, 0))
    pq.write_table(table.rename_columns([named.get(name, name) for name in table.column_names]), data_of(tmp_path, 0))
    assert read_right(open_dataset(tmp_path))
    both = open_dataset(tmp_path, view=View(state="both"))
    assert both.robot.names[::3] == ("observation.state.hip", "action.hip") and both.shards[0].states.shape == (21, 6)


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_files_under_video_where_the_path_says_videos(tmp_path, version):
    write(tmp_path, version)
    (tmp_path / "videos").rename(tmp_path / "video")
    assert read_right(open_dataset(tmp_path))


V2, V3 = "v2.1", "v3.0"
WRONG = [
    (V3, {"episodes": drifted(4)}, None, "episode 1 begins at frame 16 by its time, the one before ends at 12"),
    (V3, {"episodes": drifted(-5)}, None, "episode 1 begins at frame 7"),
    (V3, {"episodes": {f"videos/{CAMERA}/file_index": [0, 1, 1]}}, None, "has 21 frames, its episodes, the last is 0"),
    (V3, {"episodes": {"length": [12, 8, 15]}}, None, r"file-000.mp4: has 21 frames, its episodes, the last is 1, have 20"),
    (V3, {"episodes": {"length": [11, 10, 15]}}, None, "episode 0 has 12 rows, meta/ says 11 frames"),
    (V3, {"episodes": {"episode_index": [0, 2, 3]}}, None, "episode 1 is missing, total_episodes"),
    (V3, {"episodes": {"episode_index": [0, 1, 1]}}, None, "episode 1 stands twice"),
    (V3, {"episodes": {"length": [12, -9, 15]}}, None, "episode 1 has impossible numbers"),
    (V3, {"rows": {1: BACKWARDS}}, None, "episode 1: timestamp is 0.0666667 in row 3"),
    (V3, {"rows": {1: {"frame_index": np.arange(9) * 2}}}, None, "episode 1: frame_index is 2 in row 1"),
    (V3, {"rows": {1: {"episode_index": np.zeros(9, np.int64)}}}, None, "episode 0 has 21 rows"),
    (V3, {}, fewer, "file-000.mp4: has 18 frames, episode 1 ends at frame 21"),
    (V2, {}, lambda root: fewer(root, V2), "episode_000001.mp4: has 6 frames, episode 1 ends at frame 9"),
    (V3, {}, lambda root: point(film_of(root, 2)), "file-001.mp4: is a pointer of Git LFS"),
    (V3, {}, lambda root: point(data_of(root, 2)), "file-000.parquet: is a pointer of Git LFS"),
    (V2, {}, lambda root: film_of(root, 2, V2).unlink(), "episode_000002.mp4: no such file, episode 2 needs it"),
    (V2, {}, lambda root: data_of(root, 1, V2).unlink(), "episode_000001.parquet: no such file, episode 1 needs it"),
    (V2, {}, lambda root: cut(root / "meta/episodes.jsonl", 30), "episodes.jsonl: line 3"),
    (V3, {}, lambda root: cut(data_of(root, 0)), "file-000.parquet"),
    (V3, {}, lambda root: shutil.rmtree(root / "meta/episodes"), "holds no table of episodes"),
    (V3, {"info": {"codebase_version": "v1.6"}}, None, "codebase_version is v1.6"),
    (V3, {"info": {"fps": 29.97}}, None, "whole frames a second under 'fps', found 29.97"),
    (V3, {"info": {"data_path": "../{chunk_index}/{file_index}"}}, None, "leads out of the folder"),
    (V3, {"info": {"data_path": "{chunk_index.__class__}"}}, None, "file"),
    (V3, {"info": {"video_path": "v/{episode_index}.mp4"}}, None, "video_path names 'episode_index'"),
    (V3, {"info": {"features": {"state": {"dtype": "float32", "shape": [3]}, CAMERA: {"dtype": "video"}}}}, None,
     "file-000.parquet: has no column 'state'"),
    (V3, {"info": {"features": {"qpos": {"dtype": "float32", "shape": [3]}, CAMERA: {"dtype": "video"}}}}, None,
     "has no row of numbers 'observation.state', only qpos; choose another --state, or rename it here"),
    (V3, {}, lambda root: other_codec(film_of(root, 2)), "file-001.mp4: .*codec"),
    (V3, {"info": {"features": {"image": {"dtype": "image"}}}}, None, "keeps image as single pictures"),
    (V3, {"info": {"total_episodes": 4}}, None, "episode 3 is missing"),
]  # fmt: skip


@pytest.mark.parametrize("version, change, damage, told", WRONG, ids=[told for *_, told in WRONG])
def test_refused_with_the_file_and_the_episode(tmp_path, version, change, damage, told):
    write(tmp_path / "set", version, **change)
    if damage:
        damage(tmp_path / "set")

    def used():
        for shard in open_dataset(tmp_path / "set").shards:
            _ = shard.states, shard.frames

    refused(told, used)
    report = check(tmp_path / "set")
    assert not report.ok and all("\n" not in finding.message for finding in report.findings)


def test_a_small_file_cannot_ask_for_much_memory(tmp_path):
    write(tmp_path)
    pq.write_table(pa.table({"episode_index": pa.array(np.zeros(20_000_000, np.int8))}), data_of(tmp_path, 0))
    assert data_of(tmp_path, 0).stat().st_size < 100_000
    refused("has 20000000 rows, at most 10000000 are read", lambda: open_dataset(tmp_path).shards[0].states)


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="needs the recorded Unitree G1 beside the project")
def test_v3_of_the_formats_own_converter_gives_the_frames_and_rows_of_v2():
    new, old = open_lerobot(GOLDEN / "lerobot-v3.0-official"), open_lerobot(GOLDEN / "unitree-g1")
    found = {}
    for shard in new.shards[:1]:
        at = 0
        for episode in shard.episodes:
            found[episode.index] = (shard.states[at : at + episode.length], shard.read(at, episode.length))
            at += episode.length
    assert [shard.num_frames for shard in new.shards] == [736, 725, 855, 793] and len(found) == 2
    for index, (rows, frames) in found.items():
        assert np.array_equal(rows, old.shards[index].states) and np.array_equal(frames, old.shards[index].frames)
    assert new.robot == old.robot == read_embodiment(ROBOTS / "unitree-g1-inspire.toml")
    assert new.robot.dim == 26 and new.robot.names[3] == "kLeftElbow"


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="needs the recorded Unitree G1 beside the project")
def test_av1_as_it_was_recorded_shows_the_same_scenes():
    first, small = (open_lerobot(GOLDEN / name).shards for name in ("lerobot-v2.1-original", "unitree-g1"))
    for shard in first[:1]:
        same = next(s for s in small if s.num_frames == shard.num_frames and np.array_equal(s.states, shard.states))
        big = shard.read(100, 1)[0].astype(float).reshape(240, 2, 320, 2, 3).mean((1, 3))
        assert np.abs(big - same.read(100, 1)[0]).mean() < 4
