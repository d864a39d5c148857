import hashlib
import multiprocessing

import numpy as np
import pytest
import torch
from refusing import refused

from hwm.data.describe import check
from hwm.data.onex import open_dataset
from hwm.data.testsets import open_test_set
from hwm.data.video import count_frames, read_video
from hwm.models.reader import overlap
from hwm.publish.loaded import MASK_READER, reader
from hwm.sim.simulate import simulate
from hwm.work.files import read_json

ROWS = {"train": 180, "val": 90, "val_unseen": 90}


def digests(root):
    """Hash of every file below a folder, hidden ones included."""
    files = [path for path in root.rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_every_file_has_its_place_and_size(dataset):
    train = dataset / "train_v2.0_raw"
    shards = read_json(train / "metadata.json")["num_shards"]
    assert shards == 4
    rows = [read_json(train / "metadata" / f"metadata_{i}.json")["shard_num_frames"] for i in range(shards)]
    assert sum(rows) == ROWS["train"] == read_json(train / "metadata.json")["num_images"]
    for i, count in enumerate(rows):
        assert (train / "robot_states" / f"states_{i}.bin").stat().st_size == count * 25 * 4
        assert (train / "segment_indices" / f"segment_idx_{i}.bin").stat().st_size == count * 4
        assert count_frames(train / "videos" / f"video_{i}.mp4") == count
    for split in ("val", "val_unseen"):
        folder, count = dataset / f"{split}_v2.0_raw", ROWS[split]
        assert (folder / "states_0.bin").stat().st_size == count * 25 * 4
        assert (folder / "segment_idx_0.bin").stat().st_size == count * 4
        assert count_frames(folder / "video_0.mp4") == count
        assert read_json(folder / "metadata.json") == {"num_shards": 1, "query": None, "hz": 30, "num_images": count}


@pytest.mark.parametrize("folder", ["train_v2.0_raw", "val_v2.0_raw", "val_unseen_v2.0_raw", "test_v2.0"])
def test_the_readers_find_it_sound(dataset, folder):
    report = check(dataset / folder)
    assert report.ok, report.findings


def test_segments_are_numbered_upwards_and_described(dataset):
    train = dataset / "train_v2.0_raw"
    about = read_json(train / "generator.json")
    assert about["settings"]["seed"] == 5 and about["settings"]["backend"] == "disable"
    for i in range(4):
        ids = np.fromfile(train / "segment_indices" / f"segment_idx_{i}.bin", "<i4")
        described = [s for s in about["segments"] if s["shard"] == i]
        assert ids[0] == 0 and set(np.diff(ids)) <= {0, 1}
        assert np.bincount(ids).tolist() == [s["frames"] for s in described]
        assert all(s["skills"][0][0] == 0 and len(s["skills"]) >= 1 for s in described)


def test_splits_share_rooms_only_where_they_should(dataset):
    rooms = {
        split: {s["room"] for s in read_json(dataset / f"{split}_v2.0_raw" / "generator.json")["segments"]} for split in ROWS
    }
    assert rooms["val"] <= rooms["train"]
    assert not rooms["val_unseen"] & rooms["train"]


def test_the_test_set_hides_the_future_that_the_truth_has(dataset):
    test, truth = open_test_set(dataset / "test_v2.0"), dataset / "test_v2.0_truth"
    assert len(test) == 2 and test.states_NFA.shape == (2, 97, 25)
    for i in test.ids:
        assert (dataset / "test_v2.0" / "robot_states" / f"states_{i}.bin").stat().st_size == 9700
        whole = read_video(truth / "videos" / f"video_{i}.mp4")
        assert len(whole) == 77
        assert np.abs(whole[:17].astype(float) - test.frames(i)).mean() < 4
        states = np.fromfile(truth / "robot_states" / f"states_{i}.bin", "<f4").reshape(97, 25)
        np.testing.assert_array_equal(states, test.states_NFA[i])


def test_frames_show_the_room_and_change(dataset):
    frames = read_video(dataset / "val_unseen_v2.0_raw" / "video_0.mp4").astype(float)
    assert 40 < frames.mean() < 220 and frames.std() > 20
    assert np.abs(frames[40] - frames[0]).mean() > 1


def test_a_finished_dataset_is_kept_and_other_settings_are_refused(dataset, settings):
    before = digests(dataset)
    summary = simulate(dataset, **settings, workers=1)
    assert summary.frames == 0 and len(summary.paths) == 5 and all(path.is_dir() for path in summary.paths)
    refused(r"holds other data \(seed 5, not 6\); choose", simulate, dataset, **{**settings, "seed": 6}, workers=1)
    refused(r"holds other data \(light 1.0, not 0.5\); choose", simulate, dataset, **settings, light=0.5, workers=1)
    assert digests(dataset) == before


def test_interrupted_work_goes_on_to_the_same_bytes_whatever_the_number_of_workers(tmp_path, tiny):
    class Stop(Exception):
        pass

    def stop(done, total):
        if done > total // 2:
            raise Stop

    with pytest.raises(Stop):
        simulate(tmp_path / "broken", **tiny, workers=1, progress=stop)
    assert not [path.name for path in (tmp_path / "broken").iterdir() if not path.name.startswith(".")]
    refused(r"data of other settings \(seed 3, not 4\)", simulate, tmp_path / "broken", **tiny | {"seed": 4}, workers=1)
    resumed = simulate(tmp_path / "broken", **tiny, workers=1)
    seen = []
    whole = simulate(tmp_path / "whole", **tiny, workers=2, progress=lambda done, total: seen.append((done, total)))
    assert resumed.frames < whole.frames == 135 and seen[-1] == (135, 135)
    assert digests(tmp_path / "broken") == digests(tmp_path / "whole")


def test_unknown_difficulty_is_named(tmp_path, tiny):
    refused("calm, mixed, lively", simulate, tmp_path, **tiny, difficulty="wild")


def test_missing_packages_are_named(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr("hwm.sim.simulate.NEEDED", ("no_such_package",))
    refused(r"needs no_such_package.*\[sim\]", simulate, tmp_path, **tiny)


@pytest.mark.slow
def test_a_killed_worker_is_reported_and_the_work_goes_on_later(tmp_path, tiny):
    def kill(done, total):
        for process in multiprocessing.active_children():
            process.kill()

    with pytest.raises(ChildProcessError, match="by signal 9"):
        simulate(tmp_path, **tiny, workers=2, progress=kill)
    assert not multiprocessing.active_children()
    simulate(tmp_path, **tiny, workers=2)
    assert check(tmp_path / "train_v2.0_raw").ok


@pytest.mark.full
@pytest.mark.slow
def test_standing_still_is_neither_a_good_nor_a_hopeless_prediction():
    """Copying the last frame over two seconds, over homes and styles in the proportion of the default difficulty."""
    from hwm.sim.record import Recording, Segment
    from hwm.sim.renderer import WarpRenderer

    scores = []
    for k in range(8):
        segment = Segment(room=500 + k, episode=600 + k, num_frames=240, full_body=k % 3 == 0)
        recording = Recording(segment, texture_size=64, image_size=64)
        renderer, frames = WarpRenderer(recording.scene.model, size=64), []
        for i, _ in enumerate(recording.steps()):
            if i % 12 == 0:
                frames.append(renderer.render(recording.robot.data).astype(float))
        error = ((np.stack(frames[5:]) - np.stack(frames[:-5])) ** 2).mean((1, 2, 3))
        scores.append(np.mean(10 * np.log10(255**2 / np.maximum(error, 1e-3))))
    assert 15 < np.mean(scores) < 21


def test_masks_stand_beside_the_same_video(tmp_path, tiny):
    """Every shard of train and both validation sets has them, sound; video, states and settings are those without."""
    for out, options in (("plain", {}), ("marked", {"masks": True})):
        simulate(tmp_path / out, **tiny, workers=1, **options)
    plain, marked = (digests(tmp_path / out) for out in ("plain", "marked"))
    masks = [name for name in marked if "robot_mask_" in name]
    assert len(masks) == sum(len(open_dataset(tmp_path / "plain" / f"{split}_v2.0_raw").shards) for split in ROWS)
    differ = {name for name in plain if plain[name] != marked[name]}
    assert {name.rpartition("/")[2].split("_")[0].split(".")[0] for name in differ} == {"generator", "checksums"}
    assert "masks" not in read_json(tmp_path / "plain" / "train_v2.0_raw" / "generator.json")["settings"]
    assert all(check(tmp_path / "marked" / f"{split}_v2.0_raw").ok for split in ROWS)
    shards = open_dataset(tmp_path / "marked" / "train_v2.0_raw").shards
    assert all(0.005 < shard.read_masks(0, 9).mean() < 0.4 for shard in shards)
    shipped = reader(MASK_READER, "mask", device="cpu").model
    found = [overlap(shipped.read(torch.tensor(s.read(0, 9))[None])[0], torch.tensor(s.read_masks(0, 9))).mean() for s in shards]
    assert np.mean(found) > 0.6  # in rooms it never saw
