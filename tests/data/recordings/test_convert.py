"""Datasets written anew: what goes in comes out, in the other layout too."""

import json
from pathlib import Path

import numpy as np
import pytest
from refusing import refused

from hwm.cli import main
from hwm.config import to_toml
from hwm.data.describe import check
from hwm.data.onex import open_dataset
from hwm.data.recordings.convert import convert
from hwm.data.recordings.excerpt import View
from hwm.robot import ROBOTS, read_embodiment

pq = pytest.importorskip("pyarrow.parquet", reason="needs the extra lerobot")
GOLDEN = Path(__file__).parents[4] / "shared" / "data" / "lerobot-v3.0-official"


def recordings(root):
    """States and brightness of the frames of every recording."""
    found = []
    for shard in open_dataset(root).shards:
        segments, pictures = np.asarray(shard.segments), np.stack(list(shard.iter_pictures()))
        for number in np.unique(segments):
            found.append((shard.states[segments == number], pictures[segments == number].mean((1, 2, 3))))
    return found


@pytest.fixture
def raw(tmp_path, make_raw):
    return make_raw(tmp_path / "raw")


def test_there_and_back_again(tmp_path, raw):
    convert(raw, tmp_path / "set", to="lerobot", task="walk")
    convert(tmp_path / "set", tmp_path / "back", to="1x-raw")
    before, there, after = (recordings(tmp_path / name) for name in ("raw", "set", "back"))
    assert [[len(rows) for rows, _ in found] for found in (before, there, after)] == [[40, 45, 30]] * 3
    for (rows, light), *others in zip(before, there, after):
        for own_rows, own_light in others:
            np.testing.assert_array_equal(rows, own_rows)
            np.testing.assert_allclose(light, own_light, atol=3)
    assert check(tmp_path / "set").ok and check(tmp_path / "back").ok
    assert open_dataset(tmp_path / "back").robot == open_dataset(raw).robot
    assert len(open_dataset(tmp_path / "back").shards) == 3


def test_a_lerobot_folder_is_what_the_format_says(tmp_path, raw):
    convert(raw, tmp_path / "set", to="lerobot", task="walk")
    info = json.loads((tmp_path / "set/meta/info.json").read_text())
    assert (info["total_episodes"], info["total_frames"], info["fps"], info["splits"]) == (3, 115, 30, {"train": "0:3"})
    episodes = pq.read_table(tmp_path / "set/meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [e["videos/observation.images.head/from_timestamp"] for e in episodes] == pytest.approx([0, 40 / 30, 85 / 30])
    assert [(e["dataset_from_index"], e["dataset_to_index"], e["tasks"]) for e in episodes][1] == (40, 85, ["walk"])
    rows = open_dataset(raw).shards[0].states[40:85].astype(np.float64)
    for name, value in {"mean": rows.mean(0), "std": rows.std(0), "q99": np.quantile(rows, 0.99, axis=0)}.items():
        np.testing.assert_allclose(episodes[1][f"stats/observation.state/{name}"], value, rtol=1e-6)
    light = recordings(tmp_path / "set")[1][1][::4] / 255
    np.testing.assert_allclose(np.mean(episodes[1]["stats/observation.images.head/mean"]), light.mean(), atol=0.01)
    assert episodes[1]["stats/observation.images.head/count"] == [12]
    tasks = pq.read_table(tmp_path / "set/meta/tasks.parquet")
    assert tasks.to_pylist() == [{"task_index": 0, "__index_level_0__": "walk"}]
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["__index_level_0__"]


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="needs the recorded Unitree G1 beside the project")
def test_tables_have_the_columns_and_types_of_the_formats_own(tmp_path, raw):
    convert(raw, tmp_path / "set", to="lerobot")
    for name in ("meta/episodes/chunk-000/file-000.parquet", "data/chunk-000/file-000.parquet", "meta/tasks.parquet"):
        ours, theirs = (pq.read_schema(root / name) for root in (tmp_path / "set", GOLDEN))
        types = {field.name.replace("images.head", "images.cam_high"): str(field.type).replace("large_", "") for field in ours}
        for field in theirs:
            if "action" not in field.name:
                assert types[field.name] == str(field.type).replace("large_", ""), field.name


@pytest.mark.parametrize("crop, size, shape, middle", [
    ("centre", 16, (16, 16), 200), ("pad", 0, (40, 40), 200), ("4,8,20,10", 0, (10, 20), 60), ("", 0, (24, 40), 200),
])  # fmt: skip
def test_crops(tmp_path, crop, size, shape, middle):
    from hwm.data.writers import RawShardWriter, write_dataset_metadata

    picture = np.full((24, 40, 3), 60, np.uint8)
    picture[8:16, 14:26] = 200  # in the middle
    picture[8:18, 4:14] = 60
    with RawShardWriter(tmp_path / "raw", shard=0, height=24, width=40) as writer:
        writer.append(np.stack([picture] * 20), np.zeros((20, 25), np.float32), 0)
    write_dataset_metadata(tmp_path / "raw", num_shards=1, num_images=20)
    convert(tmp_path / "raw", tmp_path / "out", to="1x-raw", view=View(crop=crop), size=size)
    found = next(open_dataset(tmp_path / "out").shards[0].iter_pictures())
    assert found.shape[:2] == shape
    if crop != "4,8,20,10":
        assert abs(int(found[shape[0] // 2, shape[1] // 2, 0]) - middle) < 8
        assert (found[0, shape[1] // 2, 0] < 10) == (crop == "pad")
    else:
        assert abs(int(found[5, 4, 0]) - 60) < 12 and abs(int(found[3, 14, 0]) - 200) < 12


def test_every_second_frame_with_its_row(tmp_path, raw):
    convert(raw, tmp_path / "out", to="1x-raw", view=View(hz=15), episodes="1-2")
    half, whole = recordings(tmp_path / "out"), recordings(raw)[1:]
    assert open_dataset(tmp_path / "out").hz == 15
    for (rows, light), (all_rows, all_light) in zip(half, whole):
        np.testing.assert_array_equal(rows, all_rows[::2])
        np.testing.assert_allclose(light, all_light[::2], atol=3)


def test_goes_on_where_it_was_stopped_with_equal_bytes(tmp_path, raw):
    calls = iter(range(100))

    def stop():
        if next(calls) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(raw, tmp_path / "out", to="1x-raw", poll=stop)
    assert not (tmp_path / "out/metadata.json").exists() and (tmp_path / "out/metadata/metadata_0.json").exists()
    convert(raw, tmp_path / "out", to="1x-raw")
    convert(raw, tmp_path / "whole", to="1x-raw")
    out, whole = (tmp_path / name for name in ("out", "whole"))
    files = [{p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()} for root in (out, whole)]
    assert files[0] == files[1]
    refused("begun from other data or with other options", convert, raw, tmp_path / "out", to="1x-raw", view=View(hz=15))


def test_measured_and_commanded_states_stay_two_features(tmp_path, make_raw):
    from hwm.data.writers import RawShardWriter, write_dataset_metadata

    robot = read_embodiment(ROBOTS / "franka.toml")
    both = robot.repeated(("observation.state", "action"))
    assert both.part("action") == robot and robot.part("action") is None and both.groups["hands"] == (7, 15)
    rows = np.random.default_rng(0).random((20, 16), np.float32)
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/robot.toml").write_text(to_toml(both))
    with RawShardWriter(tmp_path / "raw", shard=0, height=32, width=32) as writer:
        writer.append(np.zeros((20, 32, 32, 3), np.uint8), rows, 0)
    write_dataset_metadata(tmp_path / "raw", num_shards=1, num_images=20)
    convert(tmp_path / "raw", tmp_path / "set", to="lerobot")
    features = json.loads((tmp_path / "set/meta/info.json").read_text())["features"]
    assert features["action"]["names"] == features["observation.state"]["names"] == list(robot.names)
    for state, own, wanted in (("observation.state", robot, rows[:, :8]), ("action", robot, rows[:, 8:]), ("both", both, rows)):
        dataset = open_dataset(tmp_path / "set", view=View(state=state))
        assert dataset.robot == own
        np.testing.assert_array_equal(dataset.shards[0].states, wanted)


def test_mistakes_are_told_before_anything_is_written(tmp_path, raw, make_tokens):
    def told(message, source=raw, out=tmp_path / "new", to="1x-raw", size=0, episodes="", **view):
        refused(message, convert, source, out, to=to, view=View(**view), size=size, episodes=episodes)
        assert not (tmp_path / "new").exists()

    told("has 30 frames a second, of which 20 cannot be taken evenly; choose one of 30, 15, 10", hz=20)
    told("none of its 3 recordings, 0 to 2, is chosen", episodes="7")
    told("'2-': episodes are given as 3, 0-9 or 4%10", episodes="2-")
    told("'1%0': episodes", episodes="1%0")
    told("must be centre, pad or x,y,w,h inside frames of 32x32", crop="0,0,40,40")
    told("are not square", crop="0,0,20,10", size=8)
    told("are for LeRobot datasets", camera="head")
    told("only recorded video is converted", source=make_tokens(tmp_path / "tokens"))
    told("which is read: nothing is written there", out=raw / "inside")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    told("holds other files", out=tmp_path / "full")
    told("already exists", out=tmp_path / "full", to="lerobot")


def test_the_command(tmp_path, raw, capsys):
    assert main(["data", "convert", str(raw), str(tmp_path / "set"), "--to", "lerobot", "--without", "1%2"]) == 0
    assert len(recordings(tmp_path / "set")) == 2
    assert main(["data", "convert", str(raw)]) == 2 and "give a new folder and a layout" in capsys.readouterr().err
    assert main(["data", "check", str(raw), "--size", "3"]) == 2 and "are for hwm data convert" in capsys.readouterr().err


def test_what_is_taken_when_a_folder_is_read_where_it_lies(tmp_path, raw, capsys):
    sheet = ["--sheet", str(tmp_path / "sheet.png")]
    convert(raw, tmp_path / "set", to="lerobot")
    assert main(["data", "describe", str(tmp_path / "set"), "--hz", "15", "--crop", "0,0,16,32", "--json", *sheet]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["hz"], facts["frame_size"], facts["frames"], facts["segments"]["count"]) == (15, [32, 16], 20 + 23 + 15, 3)
    taken = ["--hz", "15", "--crop", "0,0,16,16", "--camera", "head"]
    assert main(["tokenize", str(tmp_path / "set"), str(tmp_path / "tokens"), *taken, "--workers", "1"]) == 0
    tokens, whole = open_dataset(tmp_path / "tokens"), recordings(raw)
    assert tokens.hz == 15 and tokens.grid == (2, 2)
    rows = np.concatenate([shard.states for shard in tokens.shards])
    np.testing.assert_array_equal(rows, np.concatenate([own[::2] for own, _ in whole]))
    assert main(["data", "check", str(tmp_path / "set"), "--hz", "20"]) == 1
    assert "20 cannot be taken evenly" in capsys.readouterr().out
    assert main(["data", "describe", str(tmp_path / "tokens"), "--crop", "pad", *sheet]) == 2
    assert "crop and hz are for recorded video" in capsys.readouterr().err
    assert main(["data", "check", str(raw), "--robot", "x.toml"]) == 1 and "is for plain logs" in capsys.readouterr().out
