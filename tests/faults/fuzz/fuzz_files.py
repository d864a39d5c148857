"""Tiny real files of every kind that the product opens, and the functions behind the verbs that open them."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from official_tests import write_compression_test_set, write_sampling_test_set
from PIL import Image
from safetensors.torch import save_file
from tiny_line import raw_data, token_data, tokenizer
from tiny_training import CONFIG

from hwm.cli import main as hwm
from hwm.clock import COSMOS, WAN
from hwm.config import RunConfig, TrainConfig, from_toml, override, to_toml
from hwm.data.clips import Clips
from hwm.data.describe import check, contact_sheet, describe
from hwm.data.moments import write_statistics
from hwm.data.onex import open_dataset
from hwm.data.quarantine import read_quarantine
from hwm.data.testsets import open_test_set
from hwm.data.windows import sampling_starts
from hwm.data.writers import LatentShardWriter, write_dataset_metadata, write_tokenizer_info
from hwm.evaluate.page.report import read_run
from hwm.evaluate.scores import Scores
from hwm.evaluate.submission import check_sampling_submission, validate_compression_submission
from hwm.models.wan.text import read_text_embedding, write_text_embedding
from hwm.publish.export import export
from hwm.recipes import recipe
from hwm.robot import ROBOTS
from hwm.runs import check as run_check
from hwm.runs import load_run, train
from hwm.safe_load.sizes import check_model_folder
from hwm.safe_load.weights import load_state_dict
from hwm.tokenizers.open import open_tokenizer
from hwm.work.files import sealed
from hwm.work.parts import read_results

Call = Callable[[Path, Path], Any]
"""Opens what lies in the first folder; may write into the second."""
README = dict.fromkeys(("method", "team", "authors", "e-mail", "institution", "country"), "x")
SHORT = [f"train.{change}" for change in (
    "steps=2", "checkpoint_every=1", "validate_every=2", "sample_every=0", "batch_size=1", "accumulate=1", "warmup_steps=1",
    "threads=1", "device=cpu", "schedule=constant")]  # fmt: skip
SHAPE = ["model.vocab_size=200", "model.factors=[8,5,5]", "model.grid=[4,4]", "model.width=16", "model.num_layers=1"]
CODER = ["model.channels=8", "model.depth=1", "model.levels=[8,5,5]", *SHORT]


# --- Files -----------------------------------------------------------------------------------------------------------


def make(place: Path, *, long: bool) -> None:
    """All files.  long: also those of models that need diffusers, and of runs that are trained and scored."""
    rng = np.random.default_rng(0)
    raw = raw_data(place / "raw", shards=1)
    (raw / "robot.toml").write_bytes((ROBOTS / "eve.toml").read_bytes())
    token_data(place / "tokens")
    line = {"shard": 7, "file": "videos/video_7.mp4", "reason": "cut", "frame": 3, "frames": 70, "clips": 4}
    (place / "tokens" / "quarantine.jsonl").write_text("".join(json.dumps({**line, "shard": k}) + "\n" for k in (7, 8)))
    _latents(place / "blocks", rng, every=0)
    _latents(place / "clips", rng, every=8)
    _legacy(place / "legacy", rng)
    states = rng.normal(size=(2, 97, 25)).astype(np.float32)
    tests = place / "compression"
    write_tokenizer_info(tests, name="t", fingerprint="f", vocab_size=200, grid=(4, 4), clock=COSMOS, config={})
    write_compression_test_set(tests, tokens_NTHW=rng.integers(0, 200, (2, 3, 4, 4)), states_NFA=states[:, :64])
    videos = np.full((2, 17, 32, 32, 3), 90, np.uint8)
    write_sampling_test_set(place / "sampling", videos=videos, states_NFA=states)
    tokenizer(place / "coder")
    _submissions(place / "zips", rng)
    _weights(place / "weights")
    (place / "configs").mkdir()
    (place / "configs" / "config.toml").write_text(to_toml(override(CONFIG, SHORT)), encoding="utf-8")
    for name in ("masked-hwm-full-tiny", "flow-hwm-split-tiny", "direct-tiny", "fsq-tiny", "wan-tiny"):
        (place / "configs" / f"{name}.toml").write_text(to_toml(recipe(name)), encoding="utf-8")
    train(_tiny(place, place / "tokens"), place / "run")
    export(place / "run", place / "published", narrow=True)
    if long:
        _long(place)


def _tiny(place: Path, data: Path) -> RunConfig:
    return override(CONFIG, [*SHORT, f"data.train={str(data)!r}", f"data.val={str(data)!r}"])


def _long(place: Path) -> None:
    from test_export import PLAIN, learnt, publish
    from test_wan import autoencoder

    from hwm.models.build import build_model

    coder, data = str(place / "coder"), str(place / "encoded")
    _done(["tokenize", str(place / "raw"), data, "--tokenizer", coder, "--workers", "1"])
    _done(["train", "st-tiny", "--out", str(place / "scored"), "--data", data, "--val", data, "--tokenizer", coder,
           "--set", *SHAPE, *SHORT])  # fmt: skip
    _done(["evaluate", str(place / "scored"), "--data", data, "--clips", "2", "--device", "cpu"])
    _done(["train", "fsq-8x8x8", "--out", str(place / "coder-run"), "--data", str(place / "raw"), "--set", *CODER,
           "train.validate_every=0"])  # fmt: skip
    base, text = place / "wan-base", place / "wan-text" / "text.safetensors"
    build_model(RunConfig(model=PLAIN)).transformer.save_pretrained(base / "transformer")
    write_text_embedding(text, torch.randn(8), source="a test")
    config = replace(PLAIN, base=str(base), text=str(text), lora_rank=2)
    publish(*learnt(RunConfig(recipe="wan", model=config, train=TrainConfig())), place / "wan")
    autoencoder().save_pretrained(place / "vae")


def _done(arguments: list[str]) -> None:
    if code := hwm(arguments):
        raise SystemExit(f"{arguments}: {code}")


def _latents(root: Path, rng: np.random.Generator, *, every: int) -> None:
    segments = np.repeat([0, 1], (90, 80)).astype(np.int32)
    clock = WAN if every else COSMOS
    rows = len(sampling_starts(segments, every=every, path=root)) if every else clock.stored_blocks(len(segments))
    write_tokenizer_info(root, name="t", fingerprint="f", channels=4, grid=(2, 2), clock=clock, config={}, every=every)
    latents = rng.normal(size=(rows, clock.grids, 4, 2, 2))
    LatentShardWriter(root, 0, clock=clock, every=every).write(latents, rng.normal(size=(170, 25)).astype(np.float32), segments)
    write_statistics(root, channels=4)
    write_dataset_metadata(root, num_shards=1, num_images=170)


def _legacy(root: Path, rng: np.random.Generator) -> None:
    widths = {"joint_pos": 21, "l_hand_closure": 1, "r_hand_closure": 1, "driving_command": 2, "neck_desired": 1}
    (root / "actions").mkdir(parents=True)
    rng.integers(0, 2**18, (50, 16, 16)).astype("<u4").tofile(root / "video.bin")
    (np.arange(50) // 25).astype("<i4").tofile(root / "segment_ids.bin")
    for name, width in widths.items():
        rng.normal(size=(50, width)).astype("<f4").tofile(root / "actions" / f"{name}.bin")
    shape = {"s": 16, "h": 16, "w": 16, "vocab_size": 2**18, "hz": 30, "num_images": 50}
    (root / "metadata.json").write_text(json.dumps({"token_dtype": "uint32", **shape}))


def _submissions(root: Path, rng: np.random.Generator) -> None:
    root.mkdir()
    members = {"README.txt": json.dumps(README).encode()}
    for number in range(2):
        content = io.BytesIO()
        indices = np.stack([rng.permutation(9)[:3] for _ in range(3 * 2 * 2)]).reshape(3, 2, 2, 3).astype(np.int32)
        np.savez(content, indices=indices, values=-np.sort(rng.random((3, 2, 2, 3), np.float32)))
        members[f"{number}.npz"] = content.getvalue()
    _zip(root / "compression.zip", members)
    picture = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(picture, "PNG")
    _zip(root / "sampling.zip", {"README.txt": members["README.txt"], "0.png": picture.getvalue(), "1.png": picture.getvalue()})


def _zip(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data)


def _weights(root: Path) -> None:
    root.mkdir()
    tensors = {"a.weight": torch.arange(12.0).view(3, 4), "a.bias": torch.ones(3, dtype=torch.bfloat16), "n": torch.tensor(3)}
    torch.save(tensors, root / "w.pt")
    torch.save({"state_dict": tensors, "epoch": 3}, root / "w.pth")
    torch.save(tensors, root / "old.pth", _use_new_zipfile_serialization=False)
    save_file(tensors, root / "w.safetensors", metadata={"format": "pt"})


# --- Ways in ---------------------------------------------------------------------------------------------------------


def entries(place: Path) -> Iterator[tuple[str, Path, dict[str, tuple[Call, float]]]]:
    """Name, folder and ways in, each with its share, of everything that was made."""
    data: dict[str, tuple[Call, float]] = {
        "read": (lambda root, out: _read(root, verified=True), 3),
        "read unverified": (lambda root, out: _read(root, verified=False), 3),
        "check": (lambda root, out: check(root), 2), "describe": (_describe, 1),
        "hwm data check": (lambda root, out: hwm(["data", "check", str(root)]), 1),
        "hwm data describe": (lambda root, out: hwm(["data", "describe", str(root), "--sheet", str(out / "s.png"), "--json"]), 1),
    }  # fmt: skip
    quarantine = {"quarantine": (lambda root, out: read_quarantine(root), 0.5)}
    learn = {"train": (lambda root, out: train(_tiny(root.parent, root), out / "run"), 0.5)}
    encode = {"hwm tokenize": (
        lambda root, out: hwm(["tokenize", str(root), str(out / "t"), "--tokenizer", str(root.parent / "coder"), "--workers", "1",
                               "--device", "cpu"]), 0.3)}  # fmt: skip
    tests: dict[str, tuple[Call, float]] = {
        "open": (lambda root, out: open_test_set(root).pictures(2), 3), "check": (lambda root, out: check(root), 1),
        "hwm data describe": data["hwm data describe"],
    }  # fmt: skip
    for name in ("raw", "tokens", "blocks", "clips", "legacy"):
        more = {"raw": encode, "tokens": quarantine | learn}.get(name, {})
        yield name, place / name, data | more
    yield "compression", place / "compression", tests
    yield "sampling", place / "sampling", tests
    yield "coder", place / "coder", {"open": (lambda root, out: open_tokenizer(str(root)), 4)}
    yield "zips", place / "zips", {"check": (_check_zips, 6)}
    yield "weights", place / "weights", {"load": (_load_all, 6)}
    configs = sorted((place / "configs").glob("*.toml"))
    yield "configs", place / "configs", {
        "read": (lambda root, out: [from_toml(RunConfig, path) for path in configs], 2),
        "hwm train": (_train, 2)
    }  # fmt: skip
    runs: dict[str, tuple[Call, float]] = {
        "load": (lambda root, out: load_run(root), 4), "last": (lambda root, out: load_run(root, which="last"), 2),
        "trace": (lambda root, out: read_run(root), 1), "go on": (_go_on, 2),
        "done": (lambda root, out: run_check(_tiny(root.parent, root.parent / "tokens"), root, world=1), 1),
    }  # fmt: skip
    yield "run", place / "run", runs
    yield "published", place / "published", {
        "load": (lambda root, out: load_run(root), 3), "export": (lambda root, out: export(root, out / "again"), 1),
    }  # fmt: skip
    if (place / "scored").is_dir():
        yield from _long_entries(place)


def _long_entries(place: Path) -> Iterator[tuple[str, Path, dict[str, tuple[Call, float]]]]:
    from hwm.models.wan.transformer import load_transformer

    data = ["--data", str(place / "encoded")]
    yield "scored", place / "scored", {
        "results": (lambda root, out: Scores.from_json(read_results(root / "results.json"), where=str(root / "results.json")), 2),
        "hwm evaluate": (lambda root, out: hwm(["evaluate", str(root), *data, "--clips", "2", "--device", "cpu"]), 1.5),
        "hwm predict": (lambda root, out: hwm(["predict", str(root), *data, "--frames", "17", "--out", str(out / "x.mp4")]), 1),
        "hwm train": (lambda root, out: hwm(["train", "--config", str(root / "config.toml"), "--out", str(root)]), 1),
    }  # fmt: skip
    again = ["--tokenizer", str(place / "coder"), "--workers", "1", "--device", "cpu"]
    yield "encoded", place / "encoded", {
        "hwm tokenize": (lambda root, out: hwm(["tokenize", str(place / "raw"), str(root), *again]), 0.5),
    }  # fmt: skip
    yield "coder-run", place / "coder-run", {"hwm export": (lambda root, out: hwm(["export", str(root), str(out / "new")]), 1)}
    base = str(place / "wan-base")
    yield "wan", place / "wan", {"load": (lambda root, out: load_run(root, base=base), 1.5)}
    yield "wan-base", place / "wan-base", {
        "load": (lambda root, out: load_transformer(str(root), dtype=torch.float32), 1),
        "check": (lambda root, out: check_model_folder(root, "transformer"), 1),
    }  # fmt: skip
    yield "wan-text", place / "wan-text", {"read": (lambda root, out: read_text_embedding(root / "text.safetensors"), 1)}
    yield "vae", place / "vae", {"open": (lambda root, out: open_tokenizer(str(root)), 1)}


def is_read(path: Path) -> bool:
    """Whether anyone reads it: caches, locks, pages for people and the product's own words about them are left out."""
    return not any(part.startswith(".") for part in path.parts) and path.suffix not in (".md", ".html", ".png")


def _read(root: Path, *, verified: bool) -> None:
    dataset = open_dataset(root, verified=verified)
    for shard in dataset.shards:
        shard.check_segments()
    clips = Clips(dataset, kind="sampling" if dataset.every else "frames" if root.name == "legacy" else "blocks",
                  **({"length": 2, "stride": 15} if root.name == "legacy" else {}))  # fmt: skip
    for number in range(len(clips)):
        clips.batch([number])


def _describe(root: Path, out: Path) -> None:
    describe(root)
    contact_sheet(root, out / "sheet.png")


def _check_zips(root: Path, out: Path) -> None:
    validate_compression_submission(root / "compression.zip", num_samples=2, shape=(3, 2, 2, 3), vocab_size=9)
    check_sampling_submission(root / "sampling.zip", ids=(0, 1), size=(16, 16))


def _load_all(root: Path, out: Path) -> None:
    for path in sorted(root.iterdir()):
        load_state_dict(path)


def _train(root: Path, out: Path) -> int:
    tokens = str(root.parent / "tokens")
    return hwm(["train", "--config", str(root / "config.toml"), "--out", str(out / "new"), "--data", tokens, "--val", tokens])


def _go_on(root: Path, out: Path) -> None:
    train(override(_tiny(root.parent, root.parent / "tokens"), ["train.steps=3"]), root)


# --- Checksums -------------------------------------------------------------------------------------------------------


def seal_again(root: Path, path: Path) -> bool:
    """Make checksums and manifests in `root` that tell of a file agree with what it holds now; whether there were any."""
    if not path.is_file() or path.is_symlink() or path.name == "manifest.json" or "checksums" in path.name:
        return False
    if path.name in ("DONE", "results.json", "unigram.json"):
        with suppress(ValueError, AttributeError):
            body = json.loads(path.read_bytes())
            body.pop("sha256", None)
            path.write_text(sealed(body))
            return True
    found = {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    changed = False
    for sidecar in [*root.rglob("checksums*.json"), *root.rglob("manifest.json")]:
        try:
            table = json.loads(sidecar.read_text())
            names = table["files"] if sidecar.name == "manifest.json" else table
            for name in names:
                if (sidecar.parent / name).resolve() == path.resolve():
                    names[name], changed = found if names is not table else found["sha256"], True
        except (ValueError, KeyError, TypeError, OSError):
            continue  # damaged as well
        if sidecar.name == "manifest.json" and table.pop("sha256", None):
            seal = hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()
            sidecar.write_text(json.dumps({**table, "sha256": seal}, indent=1) + "\n")
        else:
            sidecar.write_text(json.dumps(table))
    return changed
