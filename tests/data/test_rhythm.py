"""What the reader of video refuses, it refuses on every road: tokenizing, checking, scoring, training, looking."""

from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
from refusing import refused

from hwm.data import video
from hwm.data.clips import Clips
from hwm.data.describe import check, contact_sheet
from hwm.data.onex import open_dataset
from hwm.tokenizers.encode import tokenize
from hwm.watch.panels import write_panels

COUNT = 85
LOST = [k + 6 * (k >= 10) for k in range(COUNT)]
"""Frames lost in the middle of a segment."""
BETWEEN = [k + 60 * (k >= 40) for k in range(COUNT)]
"""A pause between the two segments, of 40 and 45 frames."""


def record(path, *, times=range(COUNT), height=32, width=32, aspect=None):
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=30)
        stream.height, stream.width, stream.pix_fmt, stream.options = height, width, "yuv420p", {"bf": "0"}
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        for k, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((height, width, 3), 20 + 2 * k, np.uint8), format="rgb24")
            frame.pts = time
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


def recorded_again(root, **how):
    for sidecar in [*root.glob("checksums*.json"), *root.glob("checksums/*.json")]:
        sidecar.unlink()
    record(root / "videos" / "video_0.mp4", **how)
    return root


REFUSED = {
    "not evenly spaced in time around frame 1[0-9] ": {"times": LOST},
    r"its pixels are not square \(sample aspect ratio 4/3\); re-encode it with square ones": {"aspect": Fraction(4, 3)},
}


@pytest.mark.parametrize("reason", REFUSED)
def test_one_verdict_on_every_road(raw_root, tmp_path, reason):
    root = recorded_again(raw_root, **REFUSED[reason])
    path, dataset = root / "videos" / "video_0.mp4", open_dataset(root)
    shard = dataset.shards[0]
    told = {refused(f"^{path}: .*{reason}", replace(shard).read, 0, 1), refused(None, replace(shard, size=16).read, 0, 1)}
    told |= {refused(None, list, shard.iter_pictures()), refused(None, shard.pictures, 3)}
    told |= {refused(None, contact_sheet, root, tmp_path / "sheet.png")}
    told |= {refused(None, Clips(dataset.resized(16), kind="blocks").batch, np.arange(1))}
    told |= {f"{finding.file}: {finding.message}" for finding in check(root).findings if finding.severity == "error"}
    told |= {refused(None, tokenize, root, tmp_path / "out", tokenizer="fsq-8x8x8").partition(" (or leave out")[0]}
    assert len(told) == 1


def test_a_pause_between_segments_is_no_fault(raw_root, tmp_path):
    root = recorded_again(raw_root, times=BETWEEN)
    shard = open_dataset(root).shards[0]
    assert len(list(shard.iter_pictures())) == COUNT == len(shard.frames) and shard.pictures(3)
    assert check(root).ok
    refused("around frame", video.read_video, shard.video_path)  # without segments it is one
    ids = np.zeros(COUNT, "<i4")
    ids.tofile(shard.segments_path)  # frames cached under other segments do not hide it
    refused("around frame", lambda: open_dataset(root).shards[0].frames)


def test_pictures_are_not_squeezed(raw_root, tmp_path):
    root = recorded_again(raw_root, height=32, width=48)
    record(root / "videos" / "video_1.mp4", times=range(30), height=32, width=48)
    reason = "frames of 32x48 pixels would be squeezed into 16x16; crop or pad them to these proportions first"
    dataset = open_dataset(root)
    assert dataset.grid == (32, 48) and dataset.shards[0].read(0, 2).shape == (2, 32, 48, 3)
    refused(reason, lambda: dataset.resized(16).grid)
    refused(reason, dataset.resized(16).shards[0].read, 0, 1)
    refused(reason, tokenize, root, tmp_path / "out", tokenizer="fsq-8x8x8", size=16)
    assert not (tmp_path / "out").exists()
    assert open_dataset(tokenize(root, tmp_path / "out", tokenizer="fsq-8x8x8")).grid == (4, 6)
    assert dataset.shards[0].pictures(2)[0].shape == (85, 128, 3)
    contact_sheet(root, tmp_path / "sheet.png", columns=2, rows=1)
    from PIL import Image

    write_panels(tmp_path / "pair.mp4", [list(np.zeros((2, 3, 32, 48, 3), np.uint8))], num_past=1, hz=30)
    assert video.probe(tmp_path / "pair.mp4")[:2] == (5 * 32, 5 * (2 * 48 + 2))
    rows = np.asarray(Image.open(tmp_path / "sheet.png"))[:, :128].max(axis=(1, 2))
    assert 84 <= (rows > 10).sum() <= 86 and not rows[:20].any() and not rows[-20:].any()
