"""A film for viewers of robot logs: an MCAP file of Foxglove's messages, which Foxglove and Rerun open, and a layout beside it.

Everything is on one clock, seconds since the recording's first frame:

    /truth /prediction      what the camera saw and what was predicted, from the seen frames on     foxglove.CompressedImage
    /uncertainty /error     maps over the predicted frames, black to pale yellow                    foxglove.CompressedImage
    /states /commands       a number for every state, by its name, in every frame                   hwm.States, hwm.Commands
    /scores                 PSNR against the truth, in dB, and mean doubt of every predicted frame  hwm.Scores

Messages are Protobuf, which both viewers read without a schema of ours.  Sources: the MCAP specification, Foxglove's message
schemas and layouts; which maps and scores there are is ours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from hwm.evaluate.page.pictures import FULL_SCALE, error, heat, jpeg
from hwm.robot import Embodiment
from hwm.watch.film import Film
from hwm.work.files import atomic_path, write_json

NEEDS = ("mcap", "mcap_protobuf", "foxglove_schemas_protobuf")
QUALITY = 95
NATURAL = {"token entropy": 1.0, "predicted change": FULL_SCALE / 255, "ensemble spread": FULL_SCALE / 255}
"""The doubt that is shown brightest, of ways whose unit says so; of others it is the largest of the film."""
COLOURS = ("#1d4ed8", "#d97706", "#059669", "#be185d", "#7c3aed", "#0891b2", "#6b7280", "#84cc16")


def expect_mcap() -> None:
    """Raise ValueError where the libraries that write MCAP are not installed."""
    if missing := [name for name in NEEDS if find_spec(name) is None]:
        raise ValueError(f"--mcap needs {missing[0]}, which is not installed: pip install 'humanoid-world-models[mcap]'")


def layout_beside(out: Path) -> Path:
    """Where the layout of a file is written."""
    return out.with_suffix(".layout.json")


def write_mcap(out: Path, film: Film) -> Path:
    """Write a film and, beside it, the layout with which Foxglove shows it; the layout's path.

    film: with doubt.
    """
    from mcap_protobuf.writer import Writer

    fields = fields_of(film.robot)
    kinds = message_types({"States": fields, "Commands": fields, "Scores": ["psnr", "doubt"]})
    brightest = NATURAL.get(film.doubt_name) or float(np.max(film.doubt)) or 1.0  # type: ignore[arg-type]
    with atomic_path(out) as temporary, temporary.open("wb") as file:
        writer = Writer(file)
        names = dict(zip(fields, film.robot.names))
        units = dict(zip(fields, film.robot.units))
        told = {"doubt": film.doubt_name, "brightest doubt": f"{brightest:.6g}", "robot": film.robot.name}
        writer.add_metadata("hwm", film.about | told | {"seen frames": str(film.num_past), "hz": str(film.hz)})
        writer.add_metadata("states", names)
        writer.add_metadata("units", units)

        def say(topic: str, frame: int, message: Any) -> None:
            when = nanoseconds(film, frame)
            message.timestamp.FromNanoseconds(when)
            writer.write_message(topic, message, log_time=when, publish_time=when, sequence=frame)

        shown: dict[int, int] = {i * film.every: i for i in range(len(film.truth))}
        for frame, row in enumerate(film.states):
            say("/states", frame, kinds["States"](**dict(zip(fields, row.tolist()))))
            if film.commands is not None:
                say("/commands", frame, kinds["Commands"](**dict(zip(fields, film.commands[frame].tolist()))))
            if frame in shown:
                for topic, picture in _pictures(film, shown[frame], brightest).items():
                    say(topic, frame, _image(picture))
                if (scores := _scores(film, shown[frame])) is not None:
                    say("/scores", frame, kinds["Scores"](**scores))
        writer.finish()
    write_json(layout_beside(out), layout(film, fields))
    return layout_beside(out)


def nanoseconds(film: Film, frame: int) -> int:
    """When a frame of the film was seen, counted from its recording's first frame."""
    return round((film.first + frame) * 10**9 / film.hz)


def _pictures(film: Film, i: int, brightest: float) -> dict[str, np.ndarray]:
    """The pictures of the ith shown frame by topic."""
    found = {"/truth": film.truth[i], "/prediction": film.prediction[i]}
    if i >= film.num_past:
        assert film.doubt is not None
        found["/uncertainty"] = heat(film.doubt[i - film.num_past] * (FULL_SCALE / brightest))
        found["/error"] = heat(error(film.prediction[i], film.truth[i]))
    return found


def _scores(film: Film, i: int) -> dict[str, float] | None:
    if i < film.num_past:
        return None
    assert film.doubt is not None
    squared = float(np.square(error(film.prediction[i], film.truth[i])).mean())
    return {"psnr": 10 * float(np.log10(255**2 / max(squared, 1e-4))), "doubt": float(film.doubt[i - film.num_past].mean())}


def _image(picture: np.ndarray) -> Any:
    from foxglove_schemas_protobuf.CompressedImage_pb2 import CompressedImage  # type: ignore[import-not-found]

    return CompressedImage(frame_id="camera", format="jpeg", data=jpeg(picture, QUALITY))


def fields_of(robot: Embodiment) -> list[str]:
    """Names of the states as fields of a message: letters, digits and underscores, each its own."""
    found: list[str] = []
    for name in robot.names:
        plain = re.sub(r"\W", "_", name, flags=re.ASCII)
        plain = plain if re.match(r"[A-Za-z]", plain) else f"s_{plain}"
        found.append(plain if plain not in (*found, "timestamp") else f"{plain}_{len(found)}")
    return found


def message_types(kinds: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Classes of Protobuf messages by name, each with a timestamp and numbers of these names."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2

    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="hwm.proto", package="hwm", syntax="proto3")
    file.dependency.append(timestamp_pb2.DESCRIPTOR.name)
    for name, numbers in kinds.items():
        message = file.message_type.add(name=name)
        stamp: Any = {"type": field.TYPE_MESSAGE, "type_name": ".google.protobuf.Timestamp"}
        message.field.add(name="timestamp", number=1, label=field.LABEL_OPTIONAL, **stamp)
        for i, number in enumerate(numbers):
            message.field.add(name=number, number=2 + i, label=field.LABEL_OPTIONAL, type=field.TYPE_DOUBLE)
    pool = descriptor_pool.DescriptorPool()  # of its own: another film may be of another robot
    pool.AddSerializedFile(timestamp_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"hwm.{name}")) for name in kinds}


def layout(film: Film, fields: Sequence[str]) -> dict[str, Any]:
    """A Foxglove layout: four pictures above, below them scores and the states of every group of the robot, commands dashed."""
    titles = {"truth": "recorded", "prediction": "predicted", "uncertainty": film.doubt_name, "error": "error"}
    panels: dict[str, Any] = {
        f"Image!{topic}": {"foxglovePanelTitle": title, "imageMode": {"imageTopic": f"/{topic}"}}
        for topic, title in titles.items()
    }
    panels["Plot!scores"] = _plot("PSNR, dB", [("/scores.psnr", "PSNR", COLOURS[0], 1.5)])
    panels["Plot!doubt"] = _plot("mean doubt", [("/scores.doubt", film.doubt_name, COLOURS[1], 1.5)])
    groups = film.robot.groups or {"states": tuple(range(film.robot.dim))}
    for group, rows in groups.items():
        lines = [("/states", "", 1.5)] + [("/commands", " asked", 0.7)] * (film.commands is not None)
        series = [
            (f"{topic}.{fields[row]}", film.robot.names[row] + note, COLOURS[i % len(COLOURS)], size)
            for i, row in enumerate(rows)
            for topic, note, size in lines
        ]
        panels[f"Plot!{group}"] = _plot(group.replace("_", " "), series)
    plots = ["Plot!scores", "Plot!doubt", *(f"Plot!{group}" for group in groups)]
    half = -(-len(plots) // 2)
    below = _beside([_beside(plots[:half], "row"), _beside(plots[half:], "row")], "column")
    pictures = _beside([f"Image!{topic}" for topic in titles], "row")
    shown = {"layout": _beside([pictures, below], "column"), "playbackConfig": {"speed": 1}}
    return {"configById": panels, "globalVariables": {}, "userNodes": {}, **shown}


def _plot(title: str, series: Sequence[tuple[str, str, str, float]]) -> dict[str, Any]:
    paths = [
        {"value": value, "label": label, "color": colour, "lineSize": size, "enabled": True, "timestampMethod": "receiveTime"}
        for value, label, colour, size in series
    ]
    return {"foxglovePanelTitle": title, "paths": paths, "xAxisVal": "timestamp", "showLegend": True, "isSynced": True}


def _beside(parts: Sequence[Any], direction: str) -> Any:
    """Panels of equal size beside ("row") or below ("column") each other, as a layout nests them."""
    if len(parts) == 1:
        return parts[0]
    share = 100 / len(parts)
    return {"direction": direction, "first": parts[0], "second": _beside(parts[1:], direction), "splitPercentage": share}
