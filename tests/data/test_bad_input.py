"""Every fault of the data gives one line that names the file, and nothing wrong gets into a batch."""


import numpy as np
import pytest
from damage import edit, edit_json, poke
from official_tests import write_compression_test_set, write_sampling_test_set
from refusing import refused

from hwm.data.checksums import verify
from hwm.data.clips import Clips
from hwm.data.describe import check
from hwm.data.onex import open_dataset
from hwm.data.testsets import open_test_set


def rewrite(path, change):
    change(np.fromfile(path, "<i4")).tofile(path)


def use(root):
    """Open a dataset, as if nobody had recorded checksums, and read every clip of it."""
    dataset = open_dataset(root, verified=False)
    clips = Clips(dataset, kind="blocks" if dataset.kind == "video" else "block_pairs")
    clips.batch(np.arange(len(clips)))


TOKEN_FAULTS = [
    ("videos/video_1.bin", lambda p: edit(p, lambda c: c[:-4]), "truncated: .* expected"),
    ("videos/video_1.bin", lambda p: edit(p, lambda c: c + b"0"), "too long"),
    ("videos/video_1.bin", lambda p: p.write_bytes(b""), "truncated: 0 bytes"),
    ("videos/video_0.bin", lambda p: poke(p, "<i4", 5, 1000), "id 1000, outside a vocabulary of 1000"),
    ("videos/video_0.bin", lambda p: poke(p, "<i4", 5, -1), "id -1, outside"),
    ("videos/video_0.bin", lambda p: poke(p, "<u4", 5, 1 << 31), "outside"),
    ("videos/video_0.bin", lambda p: rewrite(p, lambda t: t.astype("<i8")), "too long"),
    ("videos/video_0.bin", lambda p: rewrite(p, lambda t: t.astype("<u2")), "truncated"),
    ("videos/video_0.bin", lambda p: rewrite(p, lambda t: t | t << 16 | 1 << 20), "outside"),
    ("videos/video_0.bin", lambda p: rewrite(p, lambda t: t[48:]), "truncated"),
    ("videos/video_0.bin", lambda p: rewrite(p, lambda t: np.append(t, np.zeros(48, "<i4"))), "too long"),
    ("videos/video_0.bin", lambda p: p.unlink(), "no such file|expected"),
    ("robot_states/states_0.bin", lambda p: poke(p, "<f4", 25 * 9 + 2, np.nan), "row 9 is not finite"),
    ("robot_states/states_0.bin", lambda p: poke(p, "<f4", 0, np.inf), "row 0 is not finite"),
    ("robot_states/states_0.bin", lambda p: edit(p, lambda c: c[: len(c) // 25 * 24]), "state width 25"),
    ("robot_states/states_0.bin", lambda p: edit(p, lambda c: c * 2), "too long"),
    ("robot_states/states_0.bin", lambda p: edit(p, lambda c: c[:-100]), "truncated"),
    ("robot_states/states_1.bin", lambda p: p.unlink(), "no such file"),
    ("segment_indices/segment_idx_1.bin", lambda p: poke(p, "<i4", 50, -7), "falls from 1 to -7 at frame 50"),
    ("segment_indices/segment_idx_1.bin", lambda p: edit(p, lambda c: c[:-2]), "truncated"),
    ("metadata/metadata_1.json", lambda p: p.unlink(), "no such file"),
    ("metadata/metadata_1.json", lambda p: edit_json(p, shard_ind=4), "shard_ind is 4, expected 1"),
    ("metadata/metadata_1.json", lambda p: edit_json(p, shard_num_frames=-5), "positive whole number"),
    ("metadata/metadata_1.json", lambda p: edit_json(p, shard_num_frames="5"), "positive whole number"),
    ("metadata.json", lambda p: p.write_text("{"), "not valid JSON"),
    ("metadata.json", lambda p: p.write_bytes(b"\xff\xfe"), "not valid JSON"),
    ("metadata.json", lambda p: p.write_text("[" * 100_000), "not valid JSON"),
    ("metadata.json", lambda p: p.write_text("[]"), "expected a JSON object"),
    ("metadata.json", lambda p: p.write_text(" " * 5_000_000), "larger than"),
    ("metadata.json", lambda p: p.write_text("{}"), "under 'hz'"), ("metadata.json", lambda p: p.unlink(), "no such file"),
    ("metadata.json", lambda p: edit_json(p, num_images=999), "num_images is 999 but the shards have 214"),
    ("metadata.json", lambda p: edit_json(p, num_shards=3), "num_shards is 3 but 2 shards found"),
    ("tokenizer.json", lambda p: edit_json(p, grid=[4]), "two positive sides"),
    ("tokenizer.json", lambda p: edit_json(p, grid=[2, 8, 1]), "two positive sides"),
    ("tokenizer.json", lambda p: edit_json(p, vocab_size=0), "'vocab_size'"),
    ("tokenizer.json", lambda p: edit_json(p, clock={"stride": 8, "block": 18}), "a block must have"),
    ("tokenizer.json", lambda p: edit_json(p, clock=8), "stride and block")
]


@pytest.mark.fault("B4", "100 % refused")
@pytest.mark.parametrize("name, damage, message", TOKEN_FAULTS)
def test_token_faults(token_root, name, damage, message):
    use(token_root)
    damage(token_root / name)
    with pytest.raises(ValueError, match=message) as raised:
        use(token_root)
    text = str(raised.value)
    assert "\n" not in text and text.startswith(str(token_root))
    assert name in text and any(f.severity == "error" and name in f.file for f in check(token_root).findings)


@pytest.mark.fault("B4", "100 % refused")
@pytest.mark.parametrize("name, change", [
    *(("tokenizer.json", change) for change in ({"grid": [8, 8]}, {"grid": [4, 5]}, {"vocab_size": 7})),
    ("tokenizer.json", {"clock": {"stride": 4, "block": 17}}),
    *(("metadata/metadata_1.json", {"shard_num_frames": count}) for count in (108, 110, 1, 1090))
])  # fmt: skip
def test_a_header_that_does_not_fit_shows_in_what_it_describes(token_root, name, change):
    edit_json(token_root / name, **change)
    assert str(token_root) in refused(None, use, token_root)
    assert not check(token_root).ok


RAW_FAULTS = [
    ("videos/video_0.mp4", lambda p: p.write_bytes(b""), "is empty"),
    ("videos/video_0.mp4", lambda p: p.write_text("not a video"), "not a whole video"),
    ("videos/video_0.mp4", lambda p: edit(p, lambda c: c[: len(c) // 2]), "not a whole video|cannot decode"),
    ("videos/video_1.mp4", lambda p: p.write_bytes((p.parent / "video_0.mp4").read_bytes()), "more frames than the 30"),
    ("videos/video_0.mp4", lambda p: p.write_bytes((p.parent / "video_1.mp4").read_bytes()), "has 30 frames but 85"),
    ("robot_states/states_0.bin", lambda p: edit(p, lambda c: c[:-100]), "truncated"),
]


@pytest.mark.parametrize("name, damage, message", RAW_FAULTS)
def test_raw_faults(raw_root, name, damage, message):
    damage(raw_root / name)
    assert name in refused(message, use, raw_root)
    report = check(raw_root)
    assert any(name in f.file and f.severity == "error" for f in report.findings)
    cached = [p.name for p in raw_root.rglob("*") if p.suffix == ".npy" or "tmp" in p.suffixes]
    assert all(not n.startswith((f"video_{name[-5]}", ".")) for n in cached), "no torso of a decoded video"


def test_full_disk_is_said_before_decoding(raw_root, monkeypatch):
    from hwm.data import video

    monkeypatch.setattr(video, "SPARE_BYTES", 2**62)
    with pytest.raises(ValueError, match="bytes, .* are free; make room"):
        open_dataset(raw_root, verified=False).shards[0].read(0, 1)


def test_folders_that_are_no_dataset(tmp_path, token_root, raw_root):
    (tmp_path / "empty").mkdir()
    refused("holds raw, tokens; give one of these", open_dataset, tmp_path)
    refused("no dataset: expected video_0.bin", open_dataset, tmp_path / "empty")
    refused("no such folder", open_dataset, tmp_path / "nowhere")
    refused("no such folder", open_dataset, token_root / "metadata.json")
    (token_root / "videos/video_0.mp4").write_bytes(b"")
    refused("both .bin tokens and .mp4 video", open_dataset, token_root)
    refused("expected a test set .* found a raw dataset", open_test_set, raw_root)


def test_set_opened_as_data(tmp_path):
    states = np.zeros((2, 64, 25), np.float32)
    write_compression_test_set(tmp_path, tokens_NTHW=np.zeros((2, 3, 32, 32), int), states_NFA=states)
    refused("no future to learn from; open it with open_test_set", open_dataset, tmp_path)


@pytest.mark.parametrize("name, damage, message", [
    ("video_1.bin", lambda p: edit(p, lambda c: c[:-4]), "truncated"),
    ("video_1.bin", lambda p: poke(p, "<i4", 0, 64000), "ids 0..64000, expected 0..63999"),
    ("states_1.bin", lambda p: edit(p, lambda c: c[:-100]), "64 rows of 25 float32"),
    ("states_0.bin", lambda p: poke(p, "<f4", 30, np.nan), "row 1 is not finite"),
    ("states_0.bin", lambda p: p.unlink(), "no such file")
])
def test_test_set_faults(tmp_path, name, damage, message):
    states = np.zeros((2, 64, 25), np.float32)
    write_compression_test_set(tmp_path, tokens_NTHW=np.zeros((2, 3, 32, 32), int), states_NFA=states)
    damage(tmp_path / name)
    with pytest.raises(ValueError, match=message) as raised:
        open_test_set(tmp_path, verified=False)
    assert name in str(raised.value) or "states_0" in str(raised.value)
    assert not check(tmp_path).ok


def test_sampling_clip_of_the_wrong_length(tmp_path):
    videos, states = [np.zeros((17, 32, 32, 3), np.uint8)] * 2, np.zeros((2, 97, 25), np.float32)
    write_sampling_test_set(tmp_path / "a", videos=videos, states_NFA=states)
    write_sampling_test_set(tmp_path / "b", videos=[videos[0][:16]], states_NFA=states[:1])
    with pytest.raises(ValueError, match="has 16 frames, expected 17"):
        open_test_set(tmp_path / "b").frames(0)
    (tmp_path / "a/videos/video_1.mp4").write_bytes(b"")
    with pytest.raises(ValueError, match="is empty"):
        open_test_set(tmp_path / "a", verified=False).frames(1)
    assert not check(tmp_path / "a").ok


@pytest.mark.parametrize("name, damage, message", [
    ("video.bin", lambda p: edit(p, lambda c: c[:-1]), "truncated"),
    ("video.bin", lambda p: poke(p, "<u4", 3, 2**18), "outside a vocabulary of 262144"),
    ("segment_ids.bin", lambda p: p.unlink(), "no such file"),
    ("segment_ids.bin", lambda p: poke(p, "<i4", 30, -1), "falls from 0 to -1 at frame 30"),
    ("actions/joint_pos.bin", lambda p: edit(p, lambda c: c + b"0000"), "too long"),
    ("actions/joint_pos.bin", lambda p: p.unlink(), "no such file"),
    ("actions/driving_command.bin", lambda p: poke(p, "<f4", 0, np.nan), "not finite"),
    ("actions/neck_desired.bin", lambda p: edit(p, lambda c: c[:-4]), "truncated"),
    ("metadata.json", lambda p: edit_json(p, token_dtype="float32"), "token_dtype must be"),
    ("metadata.json", lambda p: p.write_text("{}"), "'num_images'")
])
def test_v1_1_faults(tmp_path, make_legacy, name, damage, message):
    widths = {"joint_pos": 21, "driving_command": 2, "neck_desired": 3, "l_hand_closure": 1, "r_hand_closure": 1}
    actions = {action: np.zeros((60, width)) for action, width in widths.items()}
    tokens = np.zeros((60, 16, 16), int)
    make_legacy(tmp_path, tokens_NHW=tokens, segments=np.zeros(60, int), actions=actions)
    damage(tmp_path / name)
    with pytest.raises(ValueError, match=message) as raised:
        clips = Clips(open_dataset(tmp_path), kind="frames", length=4, stride=15)
        clips.batch(np.arange(len(clips)))
    assert str(raised.value).startswith(str(tmp_path)) and "\n" not in str(raised.value)


def test_whole_data_verify(token_root, raw_root):
    assert verify(token_root) == verify(raw_root) == []
    (token_root / "robot_states/states_0.bin").unlink()
    assert "missing" in str(verify(token_root)[0])
