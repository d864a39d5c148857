"""Flipped bits and damaged files: found before anything is trained on them or scored with them, in one line."""

import random
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny_line import COMMAND, raw_data, start, token_data, tokenizer, train_command
from tiny_training import checkpoint_bytes, run

from hwm.cli import main
from hwm.config import RunConfig, from_toml
from hwm.data.onex import open_dataset
from hwm.publish.export import export
from hwm.runs import load_run
from hwm.tokenizers.open import load_tokenizer
from hwm.training import checkpoint
from hwm.training.identity import expect_config
from hwm.training.run_folder import read_done, read_metrics
from hwm.work.files import sealed
from hwm.work.parts import read_results

STEPS = ("train.steps=6", "train.checkpoint_every=3", "train.validate_every=0")


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """A run of two checkpoints, its data, raw data and a tokenizer."""
    place = tmp_path_factory.mktemp("sound")
    run(place / "run", *STEPS)
    token_data(place / "tokens")
    raw_data(place / "raw")
    tokenizer(place / "coder")
    export(place / "run", place / "published")
    return place


@pytest.fixture
def copy(sound, tmp_path) -> Path:
    shutil.copytree(sound, tmp_path / "copy")
    return tmp_path / "copy"


def everything(root: Path) -> list[bytes]:
    """All that training reads of a dataset."""
    dataset = open_dataset(root)
    read = [np.asarray(array).tobytes() for shard in dataset.shards for array in (shard.states, shard.segments)]
    if hasattr(dataset.shards[0], "tokens"):
        return read + [np.asarray(shard.tokens).tobytes() for shard in dataset.shards]
    return read + [shard.video_path.read_bytes() for shard in dataset.shards]


def newest_checkpoint(out: Path) -> list[bytes]:
    """What a run would continue from; a damaged one gives place to the one before, with a warning that names the file."""
    said: list[str] = []
    found = checkpoint.find(out, which="last", say=said.append)
    if said:
        raise ValueError(f"{said[0]} (and then took {found.name})")
    return [p.read_bytes() for p in sorted(found.iterdir())]


def weights(folder: Path) -> list[bytes]:
    return [tensor.numpy().tobytes() for tensor in load_tokenizer(folder).state_dict().values()]


def published(folder: Path) -> list[bytes]:
    return [tensor.numpy().tobytes() for tensor in load_run(folder).model.state_dict().values()]


READERS: dict[str, Callable[[Path], list[bytes]]] = {
    "run": newest_checkpoint, "tokens": everything, "raw": everything, "coder": weights, "published": published,
}  # fmt: skip


def victims(place: Path) -> list[tuple[str, Path]]:
    """Every file whose bytes decide what is read, with the folder that it belongs to."""
    found = [("run", path) for path in sorted((place / "run/checkpoints/step-6").iterdir())]
    for name in ("tokens", "raw"):
        found += [(name, path) for path in sorted((place / name).rglob("*")) if path.is_file()]
    names = ("config.json", "model.safetensors", "checksums.json")
    return found + [(kind, place / kind / name) for kind in ("coder", "published") for name in names]


def flips(place: Path, count: int) -> tuple[int, int]:
    """Flip `count` single bits, each in a whole folder.  Returns how many were found, over how many files."""
    chance, files, found = random.Random(0), victims(place), 0
    for number in range(count):
        kind, path = files[number % len(files)]
        whole = path.read_bytes()
        position, bit = chance.randrange(len(whole)), chance.randrange(8)
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1 << bit]) + whole[position + 1 :])
        with pytest.raises(ValueError) as caught:
            READERS[kind](place / kind)
            raise AssertionError(f"bit {bit} of byte {position} of {path} went unnoticed")
        told = str(caught.value)
        assert "\n" not in told and (path.name in told or path.parent.name in told), told
        if kind == "run":
            assert told.endswith("(and then took step-3)")
        found += 1
        path.write_bytes(whole)
    for kind, reader in READERS.items():
        reader(place / kind)
    return found, len(files)


FOUND = "all found before use, in one line that names the file; the checkpoint before takes over"


@pytest.mark.fault("F6", FOUND)
@pytest.mark.parametrize("count", [40, pytest.param(200, marks=pytest.mark.full)])
def test_flipped_bits_are_found_before_use(copy, count, record_property):
    found, files = flips(copy, count)
    assert found == count
    record_property("measured", f"{found} of {count} found, over {files} files of a checkpoint, data, what is published")


@pytest.mark.fault("F6", FOUND)
def test_every_flipped_byte_of_small_files_is_noticed_or_changes_nothing(copy, tmp_path):
    """config.toml, DONE and metrics.jsonl of a run, and results: what is read is what was written, or nothing, in one line."""
    place, config = copy / "run", from_toml(RunConfig, copy / "run/config.toml")
    results = tmp_path / "results.json"
    results.write_text(sealed({"settings": {"fingerprint": "key"}, "scores": [{"mean": 12.5, "row": "model"}], "none": None}))
    state = checkpoint.newest_state(place / "checkpoints")
    place.joinpath("done").mkdir()

    def configured(path):
        shutil.copy(path, place / "done/config.toml")
        expect_config(state, from_toml(RunConfig, place / "done/config.toml"), run=place / "done")

    def done(path):
        found = read_done(place, config, {})
        return [] if found is None else [found]

    readers = [
        (results, lambda path: [read_results(path)]), (place / "metrics.jsonl", lambda path: list(read_metrics(path))),
        (place / "DONE", done), (place / "config.toml", configured)
    ]  # fmt: skip
    chance = random.Random(0)
    for path, reader in readers:
        whole, expected = path.read_bytes(), reader(path)
        for position in range(0, len(whole), max(1, len(whole) // 300)):
            changed = bytearray(whole)
            changed[position] ^= 1 << chance.randrange(8)
            path.write_bytes(changed)
            try:
                found = reader(path) or []
            except ValueError as error:
                assert "\n" not in str(error) and path.name in str(error)
                continue
            for value in found:  # a checksum whose name is damaged is no checksum
                value = {k: v for k, v in value.items() if k in expected[0]} if path == results else value
                assert value in expected, f"{path}: byte {position} of {bytes(changed)!r}"
        path.write_bytes(whole)
        assert reader(path) == expected


@pytest.mark.fault("F6", FOUND)
def test_training_and_scoring_refuse_a_flipped_bit(copy, capsys):
    """By the command line, as people would meet it."""
    shard = copy / "tokens/videos/video_0.bin"
    whole = bytearray(shard.read_bytes())
    whole[0] ^= 1  # a token that is as good as another
    shard.write_bytes(whole)
    assert main(train_command(copy, copy / "tokens", *STEPS, out="new")[3:]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "video_0.bin: its content differs from checksums_0.json" in told
    assert not (copy / "new" / "checkpoints").exists()


# --- F7 --------------------------------------------------------------------------------------------------------------


def damages(whole: bytes, chance: random.Random) -> list[bytes | None]:
    """A file cut, extended, with zeros from somewhere on, or deleted (None)."""
    cut = chance.randrange(len(whole)) if whole else 0
    more = bytes(chance.randrange(256) for _ in range(chance.randrange(1, 9)))
    return [whole[:cut], whole + more, whole[:cut] + bytes(len(whole) - cut), None]


def resumed(place: Path) -> list[bytes]:
    """Go on with a run that has a step to make, to its end; what it ends in."""
    result = run(place, *STEPS)
    assert result.step == 6
    return [data for name, data in sorted(checkpoint_bytes(place).items()) if "step-6/" in name and "manifest" not in name]


def damage_everything(place: Path, tmp_path: Path, points: int) -> tuple[int, int, int]:
    """Damage every file in turn.  Returns how many damages gave an error, how many changed nothing, how many files."""
    chance, refused, harmless = random.Random(1), 0, 0
    targets: list[tuple[str, Path, Callable[[Path], list[bytes]]]] = []
    targets += [(kind, path, READERS[kind]) for kind, path in victims(place) if kind != "run"]
    targets += [("run", path, resumed) for path in sorted((place / "run").rglob("*")) if path.is_file()]
    expected = {(kind, reader): reader(place / kind) for kind, _, reader in targets}
    spare = tmp_path / "spare"
    shutil.copytree(place / "run", spare)
    done = 0
    while done < points:
        for kind, path, reader in targets:
            whole = path.read_bytes()
            damaged = damages(whole, chance)[chance.randrange(4)]
            if damaged == whole:
                continue
            path.unlink()
            if damaged is not None:
                path.write_bytes(damaged)
            try:
                same = reader(place / kind) == expected[kind, reader]
                assert same, f"{path}: {len(damaged or b'')} of {len(whole)} bytes were taken for the whole"
                harmless += 1
            except ValueError as error:
                assert "\n" not in str(error) and str(place) in str(error), error
                refused += 1
            if kind == "run":
                shutil.rmtree(place / "run")
                shutil.copytree(spare, place / "run")
            else:
                path.write_bytes(whole)
            done += 1
    return refused, harmless, len(targets)


TYPED = "one line that names the file, or the same result as before; no traceback"


@pytest.mark.fault("F7", TYPED)
@pytest.mark.parametrize("points", [40, pytest.param(400, marks=pytest.mark.full)])
def test_damaged_files_are_refused_or_change_nothing(copy, tmp_path, points, record_property):
    refused, harmless, files = damage_everything(copy, tmp_path, points)
    told = f"{refused} of {refused + harmless} refused, {harmless} without effect on the result; {files} files"
    record_property("measured", told)
    assert refused + harmless >= points and refused > files / 2


# --- F4: a full disk, in what the other verbs write ---------------------------------------------------------------------


def limited(command: list[str], size: int) -> tuple[int, str]:
    """Exit code and text of a command that cannot make a file larger than `size` bytes."""
    process = start(command, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)))
    output = process.communicate(timeout=120)[0]
    return process.returncode, output


def hidden(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if ".tmp" in path.name or path.name.startswith((".coder", ".tokens"))]


DISK = "file and free space named, exit code not 0, what was there whole, nothing half-written left"


@pytest.mark.fault("F4", DISK)
def test_a_full_disk_while_tokenizing(copy, record_property):
    arguments = ["tokenize", str(copy / "raw"), str(copy / "out"), "--tokenizer", str(copy / "coder"), "--workers", "1"]
    everything_there = {path: path.read_bytes() for path in (copy / "raw").rglob("*.mp4")}
    code, told = limited([*COMMAND, *arguments], 3000)
    assert code == 2 and "cannot write: File too large" in told and "GB free" in told, told
    assert "Traceback" not in told and str(copy) in told
    assert hidden(copy) == [] and {path: path.read_bytes() for path in everything_there} == everything_there
    assert main(arguments) == 0
    open_dataset(copy / "out")
    record_property("measured", f"tokenizing: exit code {code}, then finished")


@pytest.mark.full
@pytest.mark.fault("F4", DISK)
@pytest.mark.timeout(400)
def test_a_full_disk_while_reporting_and_writing_video(copy, record_property):
    coder, tokens = str(copy / "coder"), str(copy / "encoded")
    assert main(["tokenize", str(copy / "raw"), tokens, "--tokenizer", coder, "--workers", "1"]) == 0
    shape = ["model.vocab_size=200", "model.factors=[8,5,5]", "model.grid=[4,4]", "train.steps=2", "train.validate_every=0"]
    shape += ["train.sample_every=0", "train.threads=1"]
    trained = str(copy / "trained")
    assert main(["train", "st-tiny", "--out", trained, "--data", tokens, "--tokenizer", coder, "--set", *shape]) == 0
    scores, video, exported = copy / "scores/results.json", copy / "rollout.mp4", copy / "exported"
    verbs = [  # what they write, an old result that must stay, the largest file
        (["evaluate", trained, "--data", tokens, "--out", str(copy / "scores"), "--clips", "4"], scores, 1000),
        (["evaluate", trained, "--data", tokens, "--out", str(copy / "scores"), "--clips", "4"], scores, 12_000),
        (["predict", trained, "--data", tokens, "--out", str(video), "--frames", "17"], video, 1000),
        (["export", str(copy / "coder-run"), str(exported)], None, 1000),
    ]
    config = ["model.channels=8", "model.depth=1", "model.levels=[8,5,5]", "train.steps=1", "train.batch_size=1"]
    assert main(["train", "fsq-8x8x8", "--out", str(copy / "coder-run"), "--data", str(copy / "raw"), "--set", *config,
                 "train.validate_every=0", "train.sample_every=0"]) == 0  # fmt: skip
    (copy / "scores").mkdir()
    for arguments, old, size in verbs:
        if old:
            old.write_text("old")
        code, told = limited([*COMMAND, *arguments], size)
        assert code == 2 and "cannot write" in told and "GB free" in told and str(copy) in told, told
        assert "Traceback" not in told and hidden(copy) == []
        assert old is None or old.read_text() == "old"
    for arguments, _, _ in verbs[1:]:
        assert main(arguments) == 0
    record_property("measured", "evaluate, predict, export: exit code 2, old files whole, then finished")
