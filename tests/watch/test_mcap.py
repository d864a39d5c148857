"""A film as MCAP, read back with the library: every picture, state, command and score at its moment, and a layout that fits."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from hwm.evaluate.page.pictures import FULL_SCALE, error, heat
from hwm.robot import Embodiment
from hwm.watch.film import Film
from hwm.watch.mcap import NEEDS, expect_mcap, fields_of, layout_beside, write_mcap

for name in NEEDS:
    pytest.importorskip(name)

NAMES = ("left arm.pitch", "left_arm_pitch", "2nd", "timestamp")
ROBOT = Embodiment("arm", NAMES, ("rad",) * 4, (), (0,) * 4, (1,) * 4, groups={"left_arm": (0, 1), "rest": (2, 3)})
FIELDS = ["left_arm_pitch", "left_arm_pitch_1", "s_2nd", "timestamp_3"]


@pytest.fixture
def film():
    """Three seen and four predicted frames, each second one of a recording at 20 Hz, from its frame 5 on."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (2, 7, 4, 4, 3), dtype=np.uint8).repeat(8, 2).repeat(8, 3)
    states, commands = rng.normal(size=(2, 14, 4)).astype(np.float32)
    doubt = rng.random((4, 4, 4)).repeat(8, 1).repeat(8, 2).astype(np.float32)
    return Film(
        *coarse, num_past=3, every=2, hz=20, first=5, states=states, commands=commands, robot=ROBOT,
        about={"model": "tiny"}, doubt=doubt, doubt_name="token entropy",
    )  # fmt: skip


def read(path):
    """Messages by topic, each with its time in seconds; schema names by topic; metadata by name."""
    from mcap.reader import make_reader
    from mcap_protobuf.decoder import DecoderFactory

    found, schemas = {}, {}
    with path.open("rb") as file:
        reader = make_reader(file, decoder_factories=[DecoderFactory()])
        for schema, channel, message, decoded in reader.iter_decoded_messages():
            assert message.log_time == message.publish_time == decoded.timestamp.ToNanoseconds()
            found.setdefault(channel.topic, []).append((message.log_time / 1e9, decoded))
            schemas[channel.topic] = schema.name
        return found, schemas, {record.name: record.metadata for record in reader.iter_metadata()}


def pictures(messages):
    assert {message.format for _, message in messages} == {"jpeg"}
    return np.stack([np.asarray(Image.open(io.BytesIO(message.data))) for _, message in messages])


def test_all_is_there_at_its_moment(film, tmp_path):
    write_mcap(tmp_path / "x.mcap", film)
    found, schemas, metadata = read(tmp_path / "x.mcap")
    every, shown = (5 + np.arange(14)) / 20, (5 + np.arange(0, 14, 2)) / 20
    when = {topic: [time for time, _ in messages] for topic, messages in found.items()}
    assert when == {
        "/states": pytest.approx(every), "/commands": pytest.approx(every), "/truth": pytest.approx(shown),
        "/prediction": pytest.approx(shown), "/uncertainty": pytest.approx(shown[3:]), "/error": pytest.approx(shown[3:]),
        "/scores": pytest.approx(shown[3:]),
    }  # fmt: skip
    assert {schemas[topic] for topic in ("/truth", "/prediction", "/uncertainty", "/error")} == {"foxglove.CompressedImage"}
    assert (schemas["/states"], schemas["/commands"], schemas["/scores"]) == ("hwm.States", "hwm.Commands", "hwm.Scores")
    for topic, rows in (("/states", film.states), ("/commands", film.commands)):
        got = [[getattr(message, name) for name in FIELDS] for _, message in found[topic]]
        np.testing.assert_array_equal(np.array(got, np.float32), rows)
    wrong = error(film.prediction, film.truth)[3:]
    expected = {"/truth": film.truth, "/prediction": film.prediction, "/error": heat(wrong)}
    for topic, frames in (expected | {"/uncertainty": heat(film.doubt * FULL_SCALE)}).items():
        assert np.abs(pictures(found[topic]).astype(int) - frames).mean() < 3, topic
    psnr = [message.psnr for _, message in found["/scores"]]
    assert psnr == pytest.approx(20 * np.log10(255) - 10 * np.log10(np.square(wrong).mean((1, 2))))
    assert [message.doubt for _, message in found["/scores"]] == pytest.approx(film.doubt.mean((1, 2)))
    assert metadata["states"] == dict(zip(FIELDS, NAMES)) and metadata["units"] == dict.fromkeys(FIELDS, "rad")
    assert metadata["hwm"] == {"model": "tiny", "doubt": "token entropy", "brightest doubt": "1", "robot": "arm",
                               "seen frames": "3", "hz": "20"}  # fmt: skip


def test_without_commands_there_are_none_and_a_doubt_of_no_known_unit_is_scaled_to_its_largest(film, tmp_path):
    write_mcap(tmp_path / "x.mcap", replace(film, commands=None, doubt=7 * film.doubt, doubt_name="flow unrest"))
    found, _, metadata = read(tmp_path / "x.mcap")
    assert "/commands" not in found and float(metadata["hwm"]["brightest doubt"]) == pytest.approx(7 * film.doubt.max(), rel=1e-4)
    assert "/commands" not in layout_beside(tmp_path / "x.mcap").read_text()
    shown = heat(film.doubt * (FULL_SCALE / film.doubt.max()))
    assert np.abs(pictures(found["/uncertainty"]).astype(int) - shown).mean() < 3


def test_the_layout_shows_what_the_file_has(film, tmp_path):
    place = write_mcap(tmp_path / "x.mcap", film)
    found, _, _ = read(tmp_path / "x.mcap")
    assert place == tmp_path / "x.layout.json"
    layout = json.loads(place.read_text())
    panels, placed = layout["configById"], []

    def walk(part):
        if isinstance(part, str):
            placed.append(part)
        else:
            assert part["direction"] in ("row", "column") and 0 < part["splitPercentage"] < 100
            walk(part["first"]), walk(part["second"])

    walk(layout["layout"])
    assert sorted(placed) == sorted(panels)
    images = {panel["imageMode"]["imageTopic"] for name, panel in panels.items() if name.startswith("Image!")}
    assert images == {"/truth", "/prediction", "/uncertainty", "/error"} <= found.keys()
    plotted = [path["value"].split(".") for name, panel in panels.items() if name.startswith("Plot!") for path in panel["paths"]]
    for topic, field in plotted:
        assert field in {name.name for name in found[topic][0][1].DESCRIPTOR.fields}
    assert {field for topic, field in plotted if topic == "/commands"} == set(FIELDS) == set(fields_of(ROBOT))


def test_a_missing_library_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setattr("hwm.watch.mcap.NEEDS", ("mcap", "no_such_library"))
    with pytest.raises(ValueError, match=r"--mcap needs no_such_library.*pip install 'humanoid-world-models\[mcap\]'"):
        expect_mcap()
