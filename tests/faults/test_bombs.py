"""Files from elsewhere that are small and ask for much: nothing small becomes large."""

import json
import time
from pathlib import Path

import pytest
import torch
from hostile import MAX_GROWTH, MAX_SECONDS, bomb_png, bomb_video, cost, deflated, refused, safetensors_with, write, zip_with
from hypothesis import given, settings
from hypothesis import strategies as st

from hwm.config import RunConfig, from_toml
from hwm.data.testsets import open_test_set
from hwm.data.video import MAX_VIDEO_BYTES, decoded_frames, iter_frames, probe, read_video
from hwm.evaluate.submission import check_sampling_submission, validate_compression_submission
from hwm.robot import read_embodiment
from hwm.safe_load.text import parse_json, read_json, read_toml
from hwm.safe_load.weights import load_safetensors, load_state_dict

B2 = pytest.mark.fault("B2", "refused, memory grows by at most 200 MB, at most 2 s")


def cheap(call, record_property, *, names=""):
    line, growth, seconds = cost(lambda: refused(call, names=names))
    if growth > MAX_GROWTH or seconds > MAX_SECONDS:  # what other threads of this process did counted too: once more
        line, growth, seconds = cost(lambda: refused(call, names=names))
    if growth > 50 * 2**20 or seconds > 0.2:  # the worst are worth a place in the table
        record_property("measured", f"{Path(str(names)).name}: +{growth / 2**20:.0f} MB, {seconds:.1f} s of CPU")
    assert growth <= MAX_GROWTH and seconds <= MAX_SECONDS, (line, growth, seconds)
    return line


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    return {suffix: bomb_video(folder / f"bomb.{suffix}") for suffix in ("mp4", "mkv")}


@B2
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])  # mkv does not say how many frames there are
def test_a_video_of_gigabytes_is_not_read_whole(videos, suffix, record_property):
    path = videos[suffix]
    assert 960 * 1024**2 * 3 > 2.8e9 and path.stat().st_size < 1e6
    cheap(lambda: read_video(path), record_property, names=path)


@B2
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_video_out_of_proportion_to_its_file_is_not_read_whole(tmp_path, suffix, record_property):
    path = bomb_video(tmp_path / f"v.{suffix}", frames=40)
    assert 1000 * path.stat().st_size < 64 * 2**20 < 40 * 1024**2 * 3 < MAX_VIDEO_BYTES, "no other bound refuses it"
    assert "decodes to more than 67108864 bytes" in cheap(lambda: read_video(path), record_property, names=path)
    assert read_video(path, size=256).shape == (40, 256, 256, 3), "smaller frames are in proportion"


@B2
def test_a_video_of_gigabytes_is_streamed_in_bounded_memory(videos, record_property):
    def first_frames():
        frames = iter_frames(videos["mp4"])
        return sum(len(next(frames)) for _ in range(20))

    found, growth, seconds = cost(first_frames)
    record_property("measured", f"{found} frames of 1024 x 1024 streamed, +{growth / 2**20:.0f} MB, {seconds:.1f} s")
    assert found == 100 and growth <= MAX_GROWTH


@pytest.mark.full
@B2
def test_all_of_a_video_of_gigabytes_is_streamed_in_bounded_memory(videos, record_property):
    found, growth, seconds = cost(lambda: sum(len(part) for part in iter_frames(videos["mkv"])))
    record_property("measured", f"{found} frames of 1024 x 1024 streamed, +{growth / 2**20:.0f} MB, {seconds:.1f} s")
    assert found == 960 and growth <= MAX_GROWTH


@B2
def test_frames_that_do_not_fit_on_the_disk_are_refused_before_any_is_decoded(videos, record_property):
    path = videos["mp4"]
    (path.parent / "metadata.json").touch()  # of a dataset, which has a cache of its own
    cheap(lambda: decoded_frames(path, num_frames=10**9), record_property, names="make room")
    assert not list((path.parent / ".cache").iterdir())


@B2
@pytest.mark.parametrize("field", ["width", "duration"])
def test_a_video_header_of_large_claims(videos, tmp_path, field, record_property):
    content = bytearray(videos["mp4"].read_bytes())
    if field == "width":  # of the sample description: 65534 x 65534 pixels
        place = content.index(b"avc1", content.index(b"stsd")) + 28
        content[place : place + 4] = b"\xff\xfe\xff\xfe"
        start = content.index(b"avcC") - 4  # without its own parameters the decoder takes what the container says
        content[start + 4 : start + 8] = b"free"
    else:
        place = content.index(b"mdhd") + 4 + 12
        content[place : place + 8] = b"\0\0\0\x1e\x7f\xff\xff\xff"  # thirty to the second, and how many
        place = content.index(b"stts") + 4 + 12
        content[place : place + 4] = (10**6).to_bytes(4, "big")  # as long as each frame is shown
        place = content.index(b"edts")
        content[place : place + 4] = b"free"
    path = write(tmp_path / "v.mp4", bytes(content))
    cheap(lambda: probe(path), record_property, names=path)


@B2
@pytest.mark.parametrize("side", [12_800, 32_000])  # below and above where Pillow itself stops
def test_a_picture_of_gigapixels(tmp_path, side, record_property):
    picture = bomb_png(side)
    path = write(tmp_path / "s.zip", zip_with({"0.png": picture}))
    assert len(picture) < 3.1e6
    cheap(lambda: check_sampling_submission(path, ids=(0,), size=(1024, 1024)), record_property, names="1024x1024")


@B2
@pytest.mark.parametrize("size", [1_000, 2**31 - 1])  # a member that lies about its size, and one that does not
def test_a_deflated_member_of_a_gigabyte(tmp_path, size, record_property):
    members = {"README.txt": json.dumps({})}
    packed = deflated(2**30)
    path = write(tmp_path / "a.zip", zip_with({}, lie=("README.txt", packed, size)))
    cheap(lambda: validate_compression_submission(path, num_samples=0), record_property, names=path)
    path = write(tmp_path / "b.zip", zip_with(members, lie=("0.png", packed, size)))
    cheap(lambda: check_sampling_submission(path, ids=(0,), size=(64, 64)), record_property, names=path)
    path = write(tmp_path / "w.pth", zip_with({}, lie=("w/data.pkl", packed, size)))
    cheap(lambda: load_state_dict(path), record_property, names=path)
    path = write(tmp_path / "w.jit", zip_with({}, lie=("w/data.pkl", packed, size)))
    cheap(lambda: load_state_dict(path), record_property, names=path)


@B2
def test_an_npz_within_the_zip(tmp_path, record_property):
    readme = json.dumps(dict.fromkeys(("method", "team", "authors", "e-mail", "institution", "country"), "x"))
    inner = zip_with({"values.npy": b""}, lie=("indices.npy", deflated(2**30), 100))
    path = write(tmp_path / "a.zip", zip_with({"README.txt": readme, "0.npz": inner}))
    cheap(lambda: validate_compression_submission(path, num_samples=1), record_property, names="0.npz")


@B2
def test_a_zip_of_a_million_members(tmp_path, record_property):
    entry = zip_with({"a": b""})
    start = entry.index(b"PK\x01\x02")
    central, end = entry[start : entry.index(b"PK\x05\x06")], bytearray(entry[entry.index(b"PK\x05\x06") :])
    directory = central * 3_000_000
    end[12:16], end[16:20] = len(directory).to_bytes(4, "little"), start.to_bytes(4, "little")
    path = write(tmp_path / "a.zip", entry[:start] + directory + bytes(end))
    cheap(lambda: check_sampling_submission(path), record_property, names="members")


@B2
@pytest.mark.parametrize("text", [
    "[" * 1_000_000, '{"a":' * 500_000, '{"a": ' + "1" * 900_000 + "}", "[" + "[]," * 900_000 + "[]]",
    '{"a": ' + "[" * 200 + "]" * 200 + "}", '{"a": 1, "a": 2}', '"' + "\\u0000" * 500_000,
], ids=["lists", "objects", "digits", "wide", "deeper", "twice", "escapes"])  # fmt: skip
def test_json(tmp_path, text, record_property):
    path = write(tmp_path / "metadata.json", text)
    cheap(lambda: read_json(path), record_property, names=path)
    cheap(lambda: open_test_set(tmp_path), record_property)


@B2
@pytest.mark.parametrize("text", [
    "a = " + "[" * 400_000, "a = " + "{a=" * 300_000, "a." * 450_000 + "a = 1", "x." * 100 + "x = 1", "a = " + "1" * 900_000,
    "[" + "a." * 120 + "a]\n" + "".join(f"k{i} = 1\n" for i in range(80_000)), "x" * 1_000_001,
    "".join(f"a{i}: &a{i} [" + f"*a{i - 1}," * 9 + "]\n" for i in range(1, 40)), "a = \"" + "\\" * 900_000,
], ids=["lists", "tables", "dots", "deeper", "digits", "header", "large", "yaml aliases", "escapes"])  # fmt: skip
def test_toml(tmp_path, text, record_property):
    path = write(tmp_path / "config.toml", text)
    for call in (lambda: read_toml(path), lambda: from_toml(RunConfig, path), lambda: read_embodiment(path)):
        cheap(call, record_property, names=path)


@B2
def test_weights_whose_header_promises_what_is_not_there(tmp_path, record_property):
    huge = {"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}
    for name, content in {
        "header": b"\xff" * 7 + b"\x7f" + b"{}", "shape": safetensors_with(huge), "deep": safetensors_with(b'{"a":' * 100_000),
        "overflow": safetensors_with({"a": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 0]}})
    }.items():
        path = write(tmp_path / f"{name}.safetensors", content)
        cheap(lambda path=path: load_safetensors(path), record_property, names=path)
    # One number, told to be a hundred thousand million of them.
    torch.save({"a": torch.zeros(1).expand(10**11)}, tmp_path / "w.pth")
    cheap(lambda: load_state_dict(tmp_path / "w.pth"), record_property, names="asks for more than the 1 numbers stored")


@pytest.mark.full
@pytest.mark.fault("B2", "any bytes: a ValueError of one line, or a value")
@given(content=st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
@settings(derandomize=True, deadline=None, max_examples=2000)
def test_any_bytes(tmp_path_factory, content):
    place = tmp_path_factory.getbasetemp() / "any-bytes"
    start = time.perf_counter()
    for name, call in (("w.pth", load_state_dict), ("w.jit", load_state_dict), ("w.safetensors", load_state_dict),
                       ("c.toml", read_toml), ("c.json", read_json), ("v.mp4", probe)):  # fmt: skip
        path = write(place / name, content)
        try:
            call(path)
        except ValueError as error:
            assert type(error) is ValueError and "\n" not in str(error) and str(path) in str(error)
    assert time.perf_counter() - start < 2 and parse_json(b"[1]", where="x") == [1]
