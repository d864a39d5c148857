"""A robot that nobody has described yet: an arm of seven joints, filmed at 15 frames a second, logged as mp4 and csv."""

import numpy as np
from PIL import Image, ImageDraw

from hwm.data.video import VideoWriter

HZ, JOINTS = 15, tuple(f"joint_{i}" for i in range(1, 8))
LENGTHS = np.array([14, 12, 10, 7, 5, 4, 3]) / 64


def angles(times, seed=0):
    """Of the joints in radians, (F, 7): each swings at a pace of its own."""
    rng = np.random.default_rng(seed)
    pace, phase = rng.uniform(0.5, 3, 7), rng.uniform(0, 2 * np.pi, 7)
    return 0.5 * np.sin(np.asarray(times)[:, None] * pace + phase)


def filmed(rows_F7, side=64):
    """What its camera shows, uint8 (F, side, side, 3)."""
    frames = []
    for row in rows_F7:
        picture = Image.new("RGB", (side, side), (70, 90, 110))
        turns = np.cumsum(row) - np.pi / 2
        steps = np.stack([np.cos(turns), np.sin(turns)], 1) * LENGTHS[:, None] * side
        points = np.concatenate([[[side / 2, side - 1]], steps]).cumsum(0)
        ImageDraw.Draw(picture).line([tuple(p) for p in points.tolist()], fill=(240, 200, 60), width=max(2, side // 16))
        frames.append(np.asarray(picture))
    return np.stack(frames)


def table(times, rows_F7, header=("time", *JOINTS)):
    """Text of a csv."""
    lines = [",".join(f"{x:.9g}" for x in (time, *row)) for time, row in zip(times, rows_F7)]
    return "\n".join([",".join(header), *lines]) + "\n"


def write_arm(root, *, recordings=3, num_frames=45, side=64, rows_hz=50):
    """A folder of recordings a0.mp4, a0.csv, a1.mp4, ...; the rows come at a rate of their own, by a clock of their own."""
    root.mkdir(parents=True, exist_ok=True)
    for k in range(recordings):
        with VideoWriter(root / f"a{k}.mp4", height=side, width=side, fps=HZ) as writer:
            writer.write(filmed(angles(np.arange(num_frames) / HZ, seed=k), side))
        times = np.arange(round(num_frames / HZ * rows_hz) + 1) / rows_hz
        (root / f"a{k}.csv").write_text(table(1000 + times, angles(times, seed=k)))
    return root
