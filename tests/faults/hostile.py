"""Files made to harm whoever opens them, and the measure of what opening them cost."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import time
import zipfile
import zlib
from pathlib import Path

import av
import numpy as np
import pytest

MAX_GROWTH = 200 * 2**20
MAX_SECONDS = 2.0


class Touch:
    """A pickle of this makes a file when an unrestricted unpickler opens it."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (str(self.canary),)


def refused(call, *, names="", length=1000):
    """The line in which a call refuses; fails unless it is a ValueError of one line, of sane length, with `names` in it."""
    with pytest.raises(ValueError) as caught:
        call()
    line = str(caught.value)
    assert type(caught.value) is ValueError, f"{type(caught.value).__name__}: {line[:200]}"
    assert "\n" not in line and 0 < len(line) < length and str(names) in line, line[:2000]
    return line


def cost(call):
    """What a call gives, with growth of the peak of memory in bytes and seconds of computing."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, start = _status("VmRSS"), time.process_time()
    result = call()
    return result, max(0, _status("VmHWM") - before), time.process_time() - start


def _status(key):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def evil_pickle(canary, *, protocol=2):
    return pickle.dumps({"a": Touch(canary)}, protocol=protocol)


def evil_npy(path, canary):
    np.save(path, np.array([Touch(canary)], object), allow_pickle=True)
    return path


def safetensors_with(header, data=b""):
    text = json.dumps(header).encode() if isinstance(header, dict) else header
    return len(text).to_bytes(8, "little") + text + data


def bomb_video(path, *, side=1024, frames=960):
    """The same black key frame again and again: some kilobytes of file to gigabytes of pixels."""
    frame = av.VideoFrame(side, side, "yuv420p")
    for plane in frame.planes:
        plane.update(bytes(plane.buffer_size))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width = stream.height = side
        stream.pix_fmt, stream.options = "yuv420p", {"preset": "veryfast", "bf": "0", "tune": "zerolatency"}
        frame.pts = 0
        packets = stream.encode(frame)
        assert len(packets) == 1
        content = bytes(packets[0])
        for i in range(frames):
            packet = av.Packet(content)
            packet.stream, packet.pts, packet.dts, packet.is_keyframe = stream, i, i, True
            packet.time_base = stream.codec_context.time_base
            container.mux(packet)
    return path


def bomb_png(side):
    """A PNG whose header promises side x side RGB pixels, all black."""

    def chunk(kind, data):
        return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))

    lines = (3 * side + 1) * side
    data = b"\x78\x9c" + deflated(lines - lines % 2**20) + b"\0\0\0\0"
    header = struct.pack(">LLBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def deflated(num_bytes):
    """Zeros under deflate, a thousandth of their size."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return block * (num_bytes // 2**20) + b"\x03\0"


def zip_with(members, *, lie=None):
    """A zip of members given as bytes.  lie: (name, packed data, size that its entry claims)."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        if lie:
            name, packed, size = lie
            info = zipfile.ZipInfo(name)
            archive.writestr(info, packed)
            # What is written at the end, and believed by readers, is changed to what the stored bytes are.
            info.compress_type, info.file_size = zipfile.ZIP_DEFLATED, size
    return content.getvalue()
