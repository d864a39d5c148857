"""Bad videos, states, segments and tokens: never a wrong clip in what `hwm tokenize` writes, and an account that balances."""

import json
import shutil

import av
import numpy as np
import pytest
from damage import contents, poke
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tiny_line import tokenizer

from hwm.clock import COSMOS
from hwm.data.clips import Clips
from hwm.data.describe import check, state_statistics
from hwm.data.onex import open_dataset
from hwm.data.quarantine import Rule, read_quarantine
from hwm.data.video import read_video
from hwm.data.writers import RawShardWriter, TokenShardWriter, write_dataset_metadata
from hwm.tokenizers.encode import tokenize
from hwm.tokenizers.open import load_tokenizer
from hwm.tokenizers.shard_job import ShardEncoder, ShardJob

LENGTHS = ((20, 31), (51,), (34, 17), (17, 40))
"""Frames of the segments of every shard."""
TARGET_B1 = "never a wrong clip in the output; file, reason and frame in the report"
TARGET_B3 = "refused, or harmless by rule; statistics stay finite"
TARGET_B4 = "100 % refused"


def grey(count, side=32):
    """Flat frames, 4 levels apart, so that each tells its number."""
    return np.stack([np.full((side, side, 3), 20 + 4 * i, np.uint8) for i in range(count)])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tokenizer, raw data with checksums, and its tokens."""
    root, rng = tmp_path_factory.mktemp("bad"), np.random.default_rng(0)
    tokenizer(root / "coder", channels=4)
    for shard, lengths in enumerate(LENGTHS):
        with RawShardWriter(root / "raw", shard=shard, height=32, width=32) as writer:
            frames, done = grey(sum(lengths)), 0
            for segment, length in enumerate(lengths):
                writer.append(frames[done : done + length], rng.normal(size=(length, 25)).astype(np.float32), segment)
                done += length
    write_dataset_metadata(root / "raw", num_shards=len(LENGTHS), num_images=sum(map(sum, LENGTHS)))
    tokenize(root / "raw", root / "tokens", tokenizer=str(root / "coder"))
    return root


@pytest.fixture
def raw(place, tmp_path):
    """A copy to damage, without checksums, as official data come."""
    copy = shutil.copytree(place / "raw", tmp_path / "raw")
    shutil.rmtree(copy / "checksums")
    (copy / "checksums.json").unlink()
    return copy


@pytest.fixture
def one(place, tmp_path):
    """Tokenizes one shard of a raw dataset; gives its fault, or None and whether the tokens are those of the whole data."""
    encoder = ShardEncoder(load_tokenizer(place / "coder"), device="cpu")

    def one(raw, shard=0):
        out, told = tmp_path / "one", []
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        source = {s.index: s for s in open_dataset(raw, faults=[], verified=False).shards}[shard]
        encoder(ShardJob(raw, out, source, 0, Rule(COSMOS, 1, 0), 0, (32, 32), False), told.append)
        if told[0].fault:
            assert [p for p in out.rglob("*") if p.is_file()] == [], "nothing of a faulty shard"
            return told[0].fault, False
        made = out / f"videos/video_{shard}.bin"
        return None, made.read_bytes() == (place / f"tokens/videos/video_{shard}.bin").read_bytes()

    return one


def record(path, frames, *, codec="libx264", pix_fmt="yuv420p", rate=30, times=None, container="mp4"):
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pix_fmt
        stream.options = {"crf": "10", "bf": "0"} if codec == "libx264" else {}
        for k, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pix_fmt)
            frame.pts = k if times is None else times[k]
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


def sound_only(path):
    with av.open(str(path), "w", format="mp4") as file:
        stream = file.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        file.mux(stream.encode(frame))
        file.mux(stream.encode())


def no_frames(path):
    with av.open(str(path), "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=30)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
        file.start_encoding()


def turned(path):
    """The same video, to be shown turned by a quarter: another matrix in the track's header."""
    upright = np.array([1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30], ">i4").tobytes()
    quarter = np.array([0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30], ">i4").tobytes()
    whole, second = path.read_bytes(), path.read_bytes().rindex(upright)
    path.write_bytes(whole[:second] + quarter + whole[second + len(quarter) :])


COUNT = sum(LENGTHS[0])
UNEVEN = [k + (3 if k >= 10 else 0) for k in range(COUNT)]
REFUSED = {
    "empty": (lambda p: p.write_bytes(b""), "is empty", None),
    "text": (lambda p: p.write_text("no video\n" * 40), "is not a whole video", None),
    "index cut off": (lambda p: p.write_bytes(p.read_bytes()[:-400]), "is not a whole video", None),
    "no frame": (no_frames, "has no video stream", None),
    "one frame": (lambda p: record(p, grey(1)), f"has 1 frames but {COUNT} state rows", 1),
    "one frame less": (lambda p: record(p, grey(COUNT - 1)), f"has {COUNT - 1} frames", COUNT - 1),
    "one frame more": (lambda p: record(p, grey(COUNT + 1)), f"has more frames than the {COUNT}", COUNT),
    "another size": (lambda p: record(p, grey(COUNT, 48)), "frames of 48x48, not 32x32 as in most shards", None),
    "odd size": (lambda p: record(p, grey(COUNT, 33), pix_fmt="yuv444p"), "frames of 33x33", None),
    "variable rate": (lambda p: record(p, grey(COUNT), times=UNEVEN), "not evenly spaced in time around frame", None),
    "turned": (turned, "stored rotated by", 0),
    "transparent": (lambda p: record(p, grey(COUNT), codec="png", pix_fmt="rgba", container="mov"), "partly transparent", 0),
    "sound": (sound_only, "has no video stream", None), "deleted": (lambda p: p.unlink(), "no such file", None)
}


@pytest.mark.fault("B1", TARGET_B1)
def test_clips_are_counted_from_the_first_frame_of_their_phase(place, raw, tmp_path):
    """Segments of 40 and 28 frames hold 3 blocks counted from frame 0, and 2 counted from frame 8."""
    rule = Rule(COSMOS, phases=2, every=0)
    assert [rule.offset(phase) for phase in (0, 1)] == [0, 8]
    segments = np.repeat([0, 1], (40, 28)).astype(np.int32)
    assert [rule.count(segments, phase, raw) for phase in (0, 1)] == [3, 2]
    options = {"tokenizer": str(place / "coder"), "phases": 2}
    whole = open_dataset(tokenize(raw, tmp_path / "whole", **options)).shards
    (raw / "videos/video_0.mp4").write_bytes(b"")
    lines = []
    out = tokenize(raw, tmp_path / "out", max_bad=1, say=lines.append, **options)
    (row,) = read_quarantine(out)
    assert row["clips"] == sum(shard.num_clips for shard in whole if shard.index in (0, 1)), "both phases of the raw shard"
    made, given = sum(shard.num_clips for shard in open_dataset(out).shards), sum(shard.num_clips for shard in whole)
    assert lines[0] == f"clips: {given} in = {made} out + {row['clips']} in 1 faulty shards"


@pytest.mark.fault("B1", TARGET_B1)
@pytest.mark.parametrize("kind", REFUSED)
def test_bad_videos_are_left_out_and_named(place, raw, tmp_path, kind):
    damage, reason, frame = REFUSED[kind]
    damage(raw / "videos/video_0.mp4")
    with pytest.raises(ValueError, match=reason) as raised:
        tokenize(raw, tmp_path / "out", tokenizer=str(place / "coder"))
    assert str(raised.value).startswith(f"{raw}/videos/video_0.mp4: ") and "--max-bad" in str(raised.value)
    lines = []
    out = tokenize(raw, tmp_path / "out", tokenizer=str(place / "coder"), max_bad=1, say=lines.append)
    (row,) = read_quarantine(out)
    assert (row["shard"], row["file"], row["frames"]) == (0, "videos/video_0.mp4", COUNT)
    assert row["clips"] == 2 and (frame is None or row["frame"] == frame) and str(raw) not in json.dumps(row)
    assert lines[0] == "clips: 11 in = 9 out + 2 in 1 faulty shards"
    assert [s.index for s in open_dataset(out).shards] == [1, 2, 3]
    for shard in (1, 2, 3):
        assert (out / f"videos/video_{shard}.bin").read_bytes() == (place / f"tokens/videos/video_{shard}.bin").read_bytes()
    findings = check(out).findings
    assert check(out).ok and any("shard 0 was left out, 2 clips" in f.message for f in findings)


@pytest.mark.fault("B1", TARGET_B1)
def test_a_video_of_ten_bits_is_read_as_it_is(raw, one):
    record(raw / "videos/video_0.mp4", grey(COUNT), pix_fmt="yuv420p10le")
    assert one(raw)[0] is None
    seen, meant = (frames.mean(axis=(1, 2, 3)) for frames in (read_video(raw / "videos/video_0.mp4"), grey(COUNT)))
    assert len(seen) == COUNT and (np.diff(seen) > 0).all() and np.abs(seen - meant).max() < 3


@pytest.mark.fault("B1", TARGET_B1)
def test_a_wrong_rate_everywhere_is_a_warning_as_frame_and_row_still_belong_together(place, raw, tmp_path):
    record(raw / "videos/video_0.mp4", grey(COUNT), rate=15)
    lines = []
    tokenize(raw, tmp_path / "out", tokenizer=str(place / "coder"), say=lines.append)
    assert "1 videos, the first of shard 0, play at 15 frames/s, metadata.json says 30 Hz" in lines[0]
    assert lines[1] == "clips: 11 in = 11 out"


@pytest.mark.fault("B1", TARGET_B1)
@pytest.mark.parametrize("points", [25, pytest.param(100, marks=pytest.mark.full)])
def test_cut_anywhere(raw, one, points, record_property):
    path, refused = raw / "videos/video_0.mp4", 0
    whole = path.read_bytes()
    for length in np.linspace(0, len(whole) - 1, points).astype(int):
        path.write_bytes(whole[:length])
        fault, same = one(raw)
        assert fault is not None or same, f"cut at {length}: a wrong clip"
        refused += fault is not None
    record_property("measured", f"{refused}/{points} refused, the rest equal, 0 wrong clips")


@pytest.mark.fault("B1", TARGET_B1)
@pytest.mark.parametrize("flips", [15, pytest.param(100, marks=pytest.mark.full)])
def test_flipped_bits_are_all_found_where_checksums_are_recorded(place, tmp_path, one, flips, record_property):
    copy, rng = shutil.copytree(place / "raw", tmp_path / "raw"), np.random.default_rng(0)
    for k in range(flips):
        path = copy / ("videos/video_0.mp4", "robot_states/states_0.bin", "segment_indices/segment_idx_0.bin")[k % 3]
        whole = path.read_bytes()
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        fault, _ = one(copy)
        assert fault is not None and str(fault).startswith(str(path))
        path.write_bytes(whole)
    record_property("measured", f"{flips}/{flips} refused")


@pytest.mark.fault("B1", TARGET_B1)
@pytest.mark.parametrize("flips", [15, pytest.param(100, marks=pytest.mark.full)])
def test_flipped_bits_without_checksums_never_escape_as_another_error(raw, one, flips, record_property):
    """A picture may change without the decoder noticing; the number of frames may not."""
    path, rng, refused, equal = raw / "videos/video_0.mp4", np.random.default_rng(1), 0, 0
    whole = path.read_bytes()
    for _ in range(flips):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        fault, same = one(raw)
        refused, equal = refused + (fault is not None), equal + same
    rest = flips - refused - equal
    record_property("measured", f"without checksums {refused} refused, {equal} equal, {rest} of {flips} changed unnoticed")


STATES = {
    "NaN": (lambda p: poke(p, "<f4", 25 * 9 + 2, np.nan), "row 9 is not finite"),
    "Inf": (lambda p: poke(p, "<f4", 25 * 50, np.inf), "row 50 is not finite"),
    "24 wide": (lambda p: np.zeros((COUNT, 24), "<f4").tofile(p), "truncated"),
    "26 wide": (lambda p: np.zeros((COUNT, 26), "<f4").tofile(p), "too long"),
    "float64": (lambda p: np.fromfile(p, "<f4").astype("<f8").tofile(p), "too long"),
    "a row less": (lambda p: np.fromfile(p, "<f4")[25:].tofile(p), "truncated"), "deleted": (lambda p: p.unlink(), "no such file")
}


@pytest.mark.fault("B3", TARGET_B3)
@pytest.mark.parametrize("kind", STATES)
def test_bad_states_are_left_out_and_named(place, raw, tmp_path, kind):
    damage, reason = STATES[kind]
    damage(raw / "robot_states/states_0.bin")
    with pytest.raises(ValueError, match=reason):
        tokenize(raw, tmp_path / "out", tokenizer=str(place / "coder"))
    out = tokenize(raw, tmp_path / "out", tokenizer=str(place / "coder"), max_bad=1)
    (row,) = read_quarantine(out)
    assert row["file"] == "robot_states/states_0.bin" and row["clips"] == 2
    mean, std = state_statistics(open_dataset(out))
    assert np.isfinite(mean).all() and np.isfinite(std).all()


@pytest.mark.fault("B3", TARGET_B3)
def test_a_state_that_never_changes_keeps_statistics_finite_and_is_told(place, raw, tmp_path):
    for shard in range(len(LENGTHS)):
        path = raw / f"robot_states/states_{shard}.bin"
        states = np.fromfile(path, "<f4").reshape(-1, 25)
        states[:, 3] = 0.25
        states.tofile(path)
    out = tokenize(raw, tmp_path / "out", tokenizer=str(place / "coder"))
    mean, std = state_statistics(open_dataset(out))
    assert np.isfinite(mean).all() and std[3] == 0 and mean[3] == 0.25
    assert any("never changes" in finding.message for finding in check(out).findings)


@pytest.mark.fault("B3", TARGET_B3)
def test_segments_that_fall_back_are_left_out_with_an_unknown_loss(place, raw, tmp_path):
    poke(raw / "segment_indices/segment_idx_0.bin", "<i4", 30, -1)
    lines = []
    out = tokenize(raw, tmp_path / "out", tokenizer=str(place / "coder"), max_bad=1, say=lines.append)
    (row,) = read_quarantine(out)
    assert row["clips"] is None and "falls from 1 to -1 at frame 30" in row["reason"]
    assert lines[0] == "clips: 9 in = 9 out + 0 in 1 faulty shards (not counting 1 whose clips cannot be counted)"


@pytest.mark.fault("B4", TARGET_B4)
@pytest.mark.parametrize("value", [-1, 200, 1 << 40])
def test_the_writer_takes_no_tokens_that_no_reader_would(tmp_path, value):
    tokens = np.zeros((1, 3, 4, 4), np.int64)
    tokens[0, 1, 2, 3] = value
    with pytest.raises(ValueError, match=r"token ids must lie in \[0, 200\)"):
        TokenShardWriter(tmp_path, 0, vocab_size=200).write(tokens, np.zeros((17, 25), np.float32), np.zeros(17, np.int32))


FILES = ("videos/video_{}.mp4", "robot_states/states_{}.bin", "segment_indices/segment_idx_{}.bin", "metadata/metadata_{}.json")
DAMAGE = st.tuples(st.sampled_from(FILES), st.sampled_from(["cut", "flip", "longer", "deleted"]), st.floats(0, 0.999))


def damage(path, how, where):
    whole = path.read_bytes()
    at = int(where * len(whole))
    if how == "deleted":
        path.unlink()
    elif how == "flip":
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 64]) + whole[at + 1 :])
    else:
        path.write_bytes(whole[:at] if how == "cut" else whole + whole[: at + 1])


def blocks(root):
    return len(Clips(open_dataset(root), kind="blocks"))


def balance(place, folder, faults):
    """Damage shards, tokenize with room for them, compare clips; repair them, tokenize on, compare bytes."""
    raw, out, coder = shutil.copytree(place / "raw", folder / "raw"), folder / "out", str(place / "coder")
    for shard, (file, how, where) in faults.items():
        damage(raw / file.format(shard), how, where)
    if len(faults) == len(LENGTHS):
        with pytest.raises(ValueError, match="not one shard is whole|no dataset|no such|is empty"):
            tokenize(raw, out, tokenizer=coder, max_bad=4)
    else:
        lines = []
        tokenize(raw, out, tokenizer=coder, max_bad=4, say=lines.append)
        rows = read_quarantine(out)
        whole = open_dataset(place / "raw")
        of_each = [len([1 for k in range(0, s.num_frames - 16, 17) if s.segments[k] == s.segments[k + 16]]) for s in whole.shards]
        assert [row["shard"] for row in rows] == sorted(faults), "each faulty shard, and no other"
        assert all(row["clips"] in (None, of_each[row["shard"]]) for row in rows)
        assert blocks(out) + sum(of_each[shard] for shard in faults) == sum(of_each) == 11
        assert lines[0].startswith(f"clips: {blocks(out) + sum(row['clips'] or 0 for row in rows)} in = {blocks(out)} out")
        for shard in set(range(len(LENGTHS))) - set(faults):
            name = f"videos/video_{shard}.bin"
            assert (out / name).read_bytes() == (place / "tokens" / name).read_bytes()
    shutil.rmtree(raw)
    shutil.copytree(place / "raw", raw)
    tokenize(raw, out, tokenizer=coder)
    assert contents(out) == contents(place / "tokens"), "repaired: as if nothing had been"


@pytest.mark.fault("B1", "every clip in = clip out or counted in quarantine.jsonl, over random damage")
@pytest.mark.parametrize("examples", [8, pytest.param(150, marks=pytest.mark.full)])
def test_the_account_balances(place, tmp_path_factory, examples, record_property):
    @given(st.dictionaries(st.integers(0, 3), DAMAGE, min_size=1))
    @example({0: (FILES[0], "cut", 0.0)})
    @example(dict.fromkeys(range(4), (FILES[0], "cut", 0.0)))
    @settings(derandomize=True, deadline=None, max_examples=examples, suppress_health_check=list(HealthCheck))
    def run(faults):
        balance(place, tmp_path_factory.mktemp("balance"), faults)

    run()
    record_property("measured", f"{examples} random damages balance")
