"""Opening a dataset: 1X tokens, video, latents or v1.1, LeRobot or plain logs, told apart by its files.

`open_dataset` checks names, counts and exact sizes; the arrays are memory-mapped on first use.  Byte layouts: reference
A.2, A.3, A.5 (1X dataset cards).
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from hwm.data import layout
from hwm.data.checksums import expect_whole
from hwm.data.dataset import Dataset, collecting
from hwm.data.latents import open_latents
from hwm.data.legacy import is_legacy, open_legacy
from hwm.data.raw import RawDataset, open_raw
from hwm.data.recordings.excerpt import WHOLE, View, excerpt
from hwm.data.recordings.lerobot import is_lerobot, open_lerobot
from hwm.data.recordings.logs import FILMS, is_logs, open_logs
from hwm.data.tokens import open_tokens
from hwm.robot import EVE, Embodiment, read_embodiment
from hwm.safe_load.paths import is_dir, shown
from hwm.work.files import read_count, read_json

KINDS: dict[str, tuple[layout.FileKind, str, Callable[..., Dataset]]] = {
    "tokens": (layout.TOKENS, ".bin tokens", open_tokens),
    "latents": (layout.LATENTS, "latents", open_latents),
    "raw": (layout.VIDEO, ".mp4 video", open_raw),
}
"""What holds the pictures of each kind of dataset, what that is called, and who opens it."""
EXPECTED = "video_0.bin, video_0.mp4 or video.bin, here or in videos/, or latents/latents_0.bin"


def open_dataset(
    path: str | Path, *, faults: list[ValueError] | None = None, verified: bool = True, view: View = WHOLE
) -> Dataset:
    """Open a dataset folder of any kind.

    view: what of recorded video is taken.
    faults: where given, faulty shards are left out and their errors collected here instead of raised, as `ShardFault`
    where they belong to one shard.
    verified: compare every file with its recorded checksum first, where there is one (`checksums.expect_whole`).
    Raises ValueError naming file, expectation and remedy.
    """
    if view.crop or view.hz:
        whole = open_dataset(path, faults=faults, verified=verified, view=replace(view, crop="", hz=0))
        if not isinstance(whole, RawDataset):
            raise ValueError(f"{path}: holds {whole.kind}; crop and hz are for recorded video")
        return excerpt(whole, view)
    root = Path(path)
    kind = probe_kind(root)
    if kind != "lerobot" and (view.camera or view.state != WHOLE.state):
        raise ValueError(f"{root}: has one camera and one row of states a frame; camera and state are for LeRobot datasets")
    if kind != "logs" and view.robot is not None:
        raise ValueError(f"{root}: says itself what its states are; the robot's file is for plain logs")
    if kind == "v1.1":
        return open_legacy(root)
    if kind == "lerobot":
        return open_lerobot(root, camera=view.camera, state=view.columns, faults=faults)
    if kind == "logs":
        return open_logs(root, robot=view.robot, faults=faults)
    if kind not in KINDS:
        raise ValueError(_unknown(root, kind))
    metadata = root / "metadata.json"
    table = read_json(metadata)
    hz, num_shards = read_count(table, "hz", metadata), read_count(table, "num_shards", metadata)
    robot = read_robot(root)
    files, _, open_kind = KINDS[kind]
    # A shard whose pictures are missing is a faulty one, not an absent one.
    present = sorted({*files.indices(root), *layout.METADATA.indices(root)})

    def fail(message: str) -> None:
        if faults is None:
            raise ValueError(f"{metadata}: {message}")
        faults.append(ValueError(f"{metadata}: {message}"))

    if len(present) != num_shards:
        found = f"{len(present)} shards found (first {present[0]}, last {present[-1]})"
        fail(f"num_shards is {num_shards} but {found}; fetch the rest or correct num_shards")

    def opened(shard_class: Any, **common: Any) -> tuple[Any, ...]:
        shards = []
        for index in present:
            with collecting(faults, shard=index):
                shard = shard_class(**_plain(root, index, files), robot=robot, **common)
                shard.check_sizes()
                shards.append(shard)
        return tuple(shards)

    dataset = open_kind(root, opened, hz=hz, robot=robot)
    expected = read_count(table, "num_images", metadata)
    if not faults and dataset.num_frames != expected:
        fail(f"num_images is {expected} but the shards have {dataset.num_frames} frames; write the dataset again")
    if verified and faults is None:
        expect_whole(root)
    return dataset


def _plain(root: Path, index: int, files: layout.FileKind) -> dict[str, Any]:
    """What every shard has, from its metadata."""
    path = layout.METADATA.find(root, index)
    about = read_json(path)
    if about.get("shard_ind", index) != index:
        raise ValueError(f"{path}: shard_ind is {about['shard_ind']!r}, expected {index}; fetch the shard again")
    return {
        "root": root,
        "index": index,
        "num_frames": read_count(about, "shard_num_frames", path),
        "video_path": files.find(root, index),
        "states_path": layout.STATES.find(root, index),
        "segments_path": layout.SEGMENTS.find(root, index),
    }


def probe_kind(root: Path) -> str:
    """What a folder holds: one of KINDS, "v1.1", "lerobot", "logs", "compression test", "sampling test" or "unknown".

    Raises ValueError when it is no folder.
    """
    if not is_dir(root):
        raise ValueError(f"{shown(root)}: no such folder; give the folder that holds metadata.json and the shards")
    if is_legacy(root):
        return "v1.1"
    if is_lerobot(root):
        return "lerobot"
    if is_logs(root):
        return "logs"
    found = _kinds(root)
    if len(found) != 1:
        return "unknown"
    if found == ["latents"] or (root / "metadata.json").is_file() or layout.SEGMENTS.indices(root):
        return found[0]
    return "compression test" if found == ["tokens"] else "sampling test"


def _kinds(root: Path) -> list[str]:
    return [kind for kind, (files, _, _) in KINDS.items() if files.indices(root)]


def _unknown(root: Path, kind: str) -> str:
    if kind != "unknown":
        return f"{root}: holds a {kind} set, which has no future to learn from; open it with open_test_set"
    found = [KINDS[kind][1] for kind in _kinds(root)]
    if len(found) > 1:
        return f"{root}: holds both {' and '.join(found)}; keep the datasets in folders of their own"
    inside = [p.name for p in sorted(root.iterdir()) if p.is_dir() and probe_kind(p) != "unknown"]
    if inside:
        return f"{root}: no dataset itself but holds {', '.join(inside)}; give one of these, such as {root / inside[0]}"
    if any(p.suffix.lower() in FILMS for p in root.iterdir()):
        films = "holds videos, but beside them no table of states (.csv, .parquet or .npz)"
        return f"{root}: {films}; a recording of your own robot is a video and a table of one name, such as a.mp4 and a.csv"
    return f"{root}: no dataset: expected {EXPECTED}, LeRobot's meta/info.json, or a.mp4 with a.csv; check the path"


def read_robot(root: str | Path) -> Embodiment:
    """The embodiment that the dataset's `robot.toml` describes, or the 1X EVE where there is none."""
    path = Path(root) / "robot.toml"
    return read_embodiment(path) if path.is_file() else EVE
