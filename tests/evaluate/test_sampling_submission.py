import io
import json
import struct
import zipfile
import zlib

import numpy as np
import pytest
from damage import change_members
from PIL import Image
from refusing import refused

from hwm.evaluate.submission import README_KEYS, check_sampling_submission, write_sampling_submission

REFUSED = "no invalid submission is written; the file is read again and checked"
SMALL = {"ids": (0, 1, 4), "size": (8, 12)}
README = {key: f"my {key}" for key in README_KEYS}


def picture(seed=0, size=SMALL["size"]):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def samples():
    return ((number, picture(number)) for number in (4, 0, 1))


def png(array, form="PNG", **options):
    content = io.BytesIO()
    Image.fromarray(array).save(content, form, **options)
    return content.getvalue()


@pytest.mark.parametrize("readme", [README, None])
def test_members_are_those_of_the_challenge(tmp_path, readme):
    path = tmp_path / "submission.zip"
    summary = write_sampling_submission(path, samples(), readme, **SMALL)
    assert summary == check_sampling_submission(path, **SMALL)
    assert (summary.num_samples, summary.num_bytes, summary.readme) == (3, path.stat().st_size, readme)
    with zipfile.ZipFile(path) as archive:
        assert sorted(archive.namelist()) == ["0.png", "1.png", "4.png"] + ["README.txt"] * bool(readme)
        for number in SMALL["ids"]:
            with Image.open(io.BytesIO(archive.read(f"{number}.png"))) as found:
                assert found.mode == "RGB" and (np.asarray(found) == picture(number)).all()
        if readme:
            assert json.loads(archive.read("README.txt")) == README
    write_sampling_submission(tmp_path / "again.zip", samples(), readme, **SMALL)
    assert path.read_bytes() == (tmp_path / "again.zip").read_bytes()


def test_official_are_250_pictures_of_512(tmp_path):
    path, frame = tmp_path / "a.zip", picture()
    summary = write_sampling_submission(path, ((number, frame) for number in range(250)), README, size=SMALL["size"])
    assert summary.num_samples == 250
    refused("0.png: expected RGB 512x512, got RGB 8x12", check_sampling_submission, path)
    with pytest.raises(ValueError, match="249 of 250 samples, the first missing is 17"):
        given = ((number, frame) for number in range(250) if number != 17)
        write_sampling_submission(path, given, README, size=SMALL["size"])
    assert write_sampling_submission(path, [(0, picture(size=(512, 512)))], README, ids=[0]).num_samples == 1


@pytest.mark.fault("B12", REFUSED)
@pytest.mark.parametrize(("given", "message"), [
    ([(0, picture())], "1 of 3 samples, the first missing is 1"), ([(0, picture()), (0, picture())], "sample 0 is given twice"),
    ([(2, picture())], "sample 2 is not in the test set"), ([(0, picture().astype(np.float32))], "expected a uint8 picture"),
    ([(0, picture(size=(12, 8)))], "expected a uint8 picture")
])
def test_wrong_pictures_leave_an_earlier_file_as_it_was(tmp_path, given, message):
    path = tmp_path / "a.zip"
    path.write_bytes(b"earlier")
    refused(message, write_sampling_submission, path, given, README, **SMALL)
    assert path.read_bytes() == b"earlier" and len(list(tmp_path.iterdir())) == 1


def test_a_readme_must_be_complete(tmp_path):
    with pytest.raises(ValueError, match=r"a\.zip: README\.txt key 'team'"):
        write_sampling_submission(tmp_path / "a.zip", samples(), {**README, "team": ""}, **SMALL)


def bomb(side):
    """A PNG of a few bytes whose header promises side x side pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


FAULTS = {
    "1.png is missing": {"1.png": None}, "2.png does not belong": {"2.png": png(picture())},
    "a/1.png does not belong": {"a/1.png": png(picture())},
    "expected RGB 8x12, got RGBA 8x12": {"1.png": png(np.zeros((8, 12, 4), np.uint8))},
    "expected RGB 8x12, got L 8x12": {"1.png": png(np.zeros((8, 12), np.uint8))},
    "expected RGB 8x12, got RGB 12x8": {"1.png": png(picture(size=(12, 8)))},
    "expected RGB 8x12, got RGB 9000x9000": {"1.png": bomb(9000)}, "too many pixels": {"1.png": bomb(60_000)},
    "1.png unpacks to": {"1.png": bytes(1_000_000)}, "not a whole PNG": {"1.png": png(picture())[:-40]},
    "1.png: not a whole PNG": {"1.png": png(picture(), "JPEG")},
    "expected one picture, got an animation": {
        "1.png": png(picture(), save_all=True, append_images=[Image.fromarray(picture(1))])
    },
    "README.txt: not valid JSON": {"README.txt": b"{'method': 1"}, "README.txt needs exactly the keys": {"README.txt": b"{}"}
}


@pytest.mark.parametrize("message", FAULTS)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_foreign_files_are_refused_in_one_line(tmp_path, message):
    path = tmp_path / "a.zip"
    write_sampling_submission(path, samples(), README, **SMALL)
    change_members(path, FAULTS[message], zipfile.ZIP_DEFLATED)
    assert message in refused(None, check_sampling_submission, path, **SMALL)


def test_a_cut_or_missing_file_is_named(tmp_path):
    refused(r"none\.zip: no such file", check_sampling_submission, tmp_path / "none.zip")
    path = tmp_path / "a.zip"
    write_sampling_submission(path, samples(), README, **SMALL)
    path.write_bytes(path.read_bytes()[:-100])
    refused("not a whole zip", check_sampling_submission, path, **SMALL)
