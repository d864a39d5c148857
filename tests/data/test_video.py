from pathlib import Path

import av
import numpy as np
import pytest

from hwm.data import video
from hwm.data.video import VideoWriter
from hwm.safe_load.video import opened_video

TASKS = Path("/proc/self/task")


def numbered(count, side=32):
    """Flat grey frames, 5 levels apart, so that each tells its number (up to 45)."""
    return np.stack([np.full((side, side, 3), 20 + 5 * i, np.uint8) for i in range(count)])


def numbers(frames):
    return np.rint((frames.mean(axis=(1, 2, 3)) - 20) / 5).astype(int).tolist()


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip.mp4"
    with VideoWriter(path, height=32, width=32) as writer:
        writer.write(numbered(45))
    return path


def test_every_frame_comes_back_in_its_place(clip):
    assert numbers(video.read_video(clip)) == list(range(45))
    batches = list(video.iter_frames(clip, batch=10))
    assert [len(b) for b in batches] == [10, 10, 10, 10, 5]
    assert numbers(np.concatenate(batches)) == list(range(45))
    assert video.count_frames(clip) == 45
    assert video.probe(clip) == (32, 32, 30.0)


def test_quality_of_natural_pictures(tmp_path):
    y, x = np.mgrid[0:64, 0:64] / 64
    shades = [np.sin(5 * x + 0.2 * t) * np.cos(4 * y) for t in range(20)]
    frames = np.stack([np.stack([s, s * 0.5, -s], -1) * 100 + 128 for s in shades]).astype(np.uint8)
    with VideoWriter(tmp_path / "a.mp4", height=64, width=64) as writer:
        writer.write(frames)
    error = video.read_video(tmp_path / "a.mp4").astype(float) - frames
    assert 10 * np.log10(255**2 / (error**2).mean()) > 34


def test_bytes_repeat(tmp_path, clip):
    with VideoWriter(tmp_path / "again.mp4", height=32, width=32) as writer:
        for part in np.split(numbered(45), 9):
            writer.write(part)
    assert (tmp_path / "again.mp4").read_bytes() == clip.read_bytes()


def test_resizing_averages_areas(tmp_path):
    frame = np.zeros((1, 32, 32, 3), np.uint8)
    frame[:, :16] = 200
    with VideoWriter(tmp_path / "a.mp4", height=32, width=32) as writer:
        writer.write(frame)
    small = video.read_video(tmp_path / "a.mp4", size=2)
    assert small.shape == (1, 2, 2, 3)
    np.testing.assert_allclose(small[0, :, 0, 0], [200, 0], atol=4)


@pytest.mark.skipif(not TASKS.is_dir(), reason="threads are counted by Linux")
def test_a_picture_is_made_without_threads_of_its_own(clip):
    with opened_video(clip) as (container, stream):
        frame = next(container.decode(stream))
        before = len(list(TASKS.iterdir()))
        small = video.in_rgb(frame, 16, 16)
        assert small.width == 16 and len(list(TASKS.iterdir())) == before


def test_key_frames_for_a_contact_sheet(clip):
    pictures = video.thumbnails(clip, count=10, size=16)
    found = numbers(pictures)
    assert pictures.shape[1:] == (16, 16, 3)
    assert found[0] == 0 and found[-1] >= 30 and found == sorted(set(found)) and len(found) <= 10


def test_unfinished_files_never_appear(tmp_path):
    with pytest.raises(RuntimeError, match="power"), VideoWriter(tmp_path / "a.mp4", height=32, width=32) as writer:
        writer.write(numbered(3))
        raise RuntimeError("power cut")
    with pytest.raises(ValueError, match="no frame"), VideoWriter(tmp_path / "a.mp4", height=32, width=32):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("frames", [numbered(2)[:, :16], numbered(2).astype(np.float32), numbered(2)[..., :1]])
def test_wrong_frames_are_refused(tmp_path, frames):
    with (
        pytest.raises(ValueError, match=r"a.mp4: expected uint8 \(F, 32, 32, 3\)"),
        VideoWriter(tmp_path / "a.mp4", height=32, width=32) as writer,
    ):
        writer.write(frames)


def test_odd_sides_are_refused(tmp_path):
    with pytest.raises(ValueError, match="even"):
        VideoWriter(tmp_path / "a.mp4", height=33, width=32)


def test_truncation_anywhere_is_an_error_or_harmless(tmp_path, clip):
    whole, path, refused = clip.read_bytes(), tmp_path / "cut.mp4", 0
    for length in np.linspace(0, len(whole) - 1, 60).astype(int):
        path.write_bytes(whole[:length])
        try:
            assert numbers(video.read_video(path)) == list(range(45)), "a cut file may lack its footer, never a frame"
        except ValueError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
            refused += 1
    assert refused >= 55


def test_huge_frames_are_refused_unread(tmp_path):
    path = tmp_path / "bomb.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 4112, 4096, "yuv420p"
        stream.options = {"preset": "ultrafast"}
        container.mux(stream.encode(av.VideoFrame(4112, 4096, "yuv420p")))
        container.mux(stream.encode())
    with pytest.raises(ValueError, match="4112x4096 pixels; at most"):
        next(video.iter_frames(path))


def test_long_videos_are_not_read_into_memory(clip):
    with pytest.raises(ValueError, match="stream it"):
        video.read_video(clip, max_bytes=10 * 32 * 32 * 3)


def test_equal_frames_give_equal_bytes(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), dtype=np.uint8).repeat(4, 1).repeat(4, 2)
    written = set()
    for _ in range(12):
        with VideoWriter(tmp_path / "clip.mp4", height=32, width=32) as writer:
            writer.write(frames)
        written.add((tmp_path / "clip.mp4").read_bytes())
    assert len(written) == 1
