"""Files from elsewhere: nothing in them runs, and nothing leaves its folder."""

import io
import json
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from damage import reseal
from hostile import MAX_GROWTH, Touch, cost, evil_npy, evil_pickle, refused, safetensors_with, write, zip_with
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tiny_line import raw_data, token_data, tokenizer

from hwm.config import RunConfig, from_toml
from hwm.data.onex import open_dataset
from hwm.data.testsets import open_test_set
from hwm.data.video import VideoWriter, count_frames, decoded_frames, read_video
from hwm.evaluate.submission import check_sampling_submission, validate_compression_submission
from hwm.models.wan.text import embed_empty_prompt
from hwm.robot import read_embodiment
from hwm.runs import load_run
from hwm.safe_load.paths import inside
from hwm.safe_load.program import open_programs
from hwm.safe_load.sizes import check_model_folder
from hwm.safe_load.weights import load_safetensors, load_state_dict
from hwm.tokenizers.open import open_tokenizer

B7 = pytest.mark.fault("B7", "0 executions: the canary is never there")
B8 = pytest.mark.fault("B8", "0 escapes; refused")


@pytest.fixture
def canary(tmp_path):
    """A path that must never come to be."""
    path = tmp_path / "it-ran"
    yield path
    assert not path.exists()


# --- B7: programs in disguise ----------------------------------------------------------------------------------------


@B7
def test_the_pickle_of_these_tests_does_act_when_opened_without_care(tmp_path):
    canary = tmp_path / "it-ran"
    torch.save({"a": Touch(canary)}, tmp_path / "w.pt")
    torch.load(tmp_path / "w.pt", weights_only=False)
    assert canary.is_dir()
    canary.rmdir()
    np.load(evil_npy(tmp_path / "a.npy", canary), allow_pickle=True)
    assert canary.is_dir()


@B7
@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.jit", "w.safetensors", "w.ckpt", "w"])
@pytest.mark.parametrize("kind", ["zip", "legacy", "nested", "2", "3", "4", "5", "npy"])
def test_pickles_as_weights(tmp_path, canary, name, kind):
    path, value = tmp_path / name, {"a": Touch(canary)}
    if kind == "nested":
        value = {"state_dict": {"a": torch.zeros(2)}, "extra": [Touch(canary)]}
    if kind in ("zip", "legacy", "nested"):
        torch.save(value, path, _use_new_zipfile_serialization=kind != "legacy")
    elif kind == "npy":
        path.write_bytes(evil_npy(tmp_path / "x.npy", canary).read_bytes())
    else:
        path.write_bytes(evil_pickle(canary, protocol=int(kind)))
    line = refused(lambda: load_state_dict(path), names=path)
    assert "weights_only" not in line
    assert name not in ("w.pt", "w.pth") or kind not in ("zip", "legacy", "nested", "2") or re.search("mkdir.*run code", line)


@B7
def test_pickles_through_every_entry(tmp_path, canary, record_property):
    evil = evil_pickle(canary, protocol=2)
    saved = io.BytesIO()
    torch.save({"a": Touch(canary)}, saved)
    tries = 0
    for content in (evil, saved.getvalue()):
        for number, (call, file) in enumerate(_entries(tmp_path / f"{len(content)}")):
            write(file, content)
            refused(call, names=file.parent if number else file)
            tries += 1
    record_property("measured", f"{tries} tries through public entries, 0 executions")


def _entries(place):
    """(call, file it reads) for the public functions that open what others made."""
    tokens, raw = token_data(place / "tokens"), raw_data(place / "raw", shards=1)
    yield (lambda: load_state_dict(place / "w.pt")), place / "w.pt"
    for root in (tokens, raw):
        for file in sorted(f for f in root.rglob("*") if f.is_file() and f.suffix in (".json", ".mp4")):
            kept = file.read_bytes()
            yield (lambda root=root, file=file: _read_all(root, verified="checksums" in file.name)), file
            file.write_bytes(kept)
    (raw / "robot.toml").touch()
    yield (lambda: open_dataset(raw, verified=False)), raw / "robot.toml"
    yield (lambda: open_test_set(place / "test")), place / "test" / "metadata.json"
    own = tokenizer(place / "tokenizer")
    for name in ("model.safetensors", "config.json", "checksums.json"):
        kept = (own / name).read_bytes()
        yield (lambda name=name: (reseal(own) if name == "model.safetensors" else None, open_tokenizer(str(own)))), own / name
        (own / name).write_bytes(kept)
        reseal(own)
    write(place / "pair" / "decoder.jit", b"")
    yield (lambda: open_tokenizer(str(place / "pair"))), place / "pair" / "encoder.jit"
    yield (lambda: open_tokenizer(str(place / "pair"), trust=True)), place / "pair" / "encoder.jit"
    yield (lambda: open_tokenizer(str(place / "vae"))), place / "vae" / "config.json"
    yield (lambda: load_run(place / "run")), place / "run" / "config.toml"
    yield (lambda: from_toml(RunConfig, place / "c.toml")), place / "c.toml"
    yield (lambda: read_embodiment(place / "robot.toml")), place / "robot.toml"
    yield (lambda: validate_compression_submission(place / "s.zip")), place / "s.zip"
    yield (lambda: check_sampling_submission(place / "s.zip")), place / "s.zip"


def _read_all(root, *, verified):
    dataset = open_dataset(root, verified=verified)
    return [shard.frames if dataset.kind == "video" else shard.tokens for shard in dataset.shards]


@B7
def test_programs_and_distributed_checkpoints_are_no_weights(tmp_path, canary):
    write(tmp_path / "program.jit", _acting("write", canary))
    refused(lambda: load_state_dict(tmp_path / "program.jit"), names="program.jit: weight files are")
    write(tmp_path / "program.pt", _acting("write", canary))
    assert "TorchScript" in refused(lambda: load_state_dict(tmp_path / "program.pt"), names=tmp_path / "program.pt")
    write(tmp_path / "step-1" / ".metadata", evil_pickle(canary))
    refused(lambda: load_state_dict(tmp_path / "step-1"), names=f"{tmp_path / 'step-1'}: no such weight file")


@B7
def test_a_program_that_acts_needs_trust_and_is_held_even_so(tmp_path, canary, record_property):
    for name in ("encoder.jit", "decoder.jit"):
        write(tmp_path / "pair" / name, _acting("write", canary))
    refused(lambda: open_tokenizer(str(tmp_path / "pair")), names="pass trust=True")
    write(tmp_path / "free.jit", _acting("write", tmp_path / "control"))
    torch.jit.load(str(tmp_path / "free.jit"))(torch.zeros(1))
    assert (tmp_path / "control").exists(), "it does act where nothing holds it"
    files = [write(tmp_path / f"{kind}.jit", _acting(kind, canary)) for kind in ("write", "allocate", "loop", "print")]
    limits = {"device": "cpu", "dtype": torch.float32, "seconds": 120.0, "memory": 2**30}
    write_, allocate, loop, print_ = open_programs(files, trust=True, **limits)
    assert torch.equal(print_(torch.arange(3.0)), torch.arange(1.0, 4.0)), "what it prints is no answer"
    write_(torch.zeros(1))
    assert not canary.exists()
    _, growth, _ = cost(lambda: refused(lambda: allocate(torch.zeros(1)), names="allocate.jit failed"))
    assert growth < MAX_GROWTH, "not in this process"
    loop.func.__self__.seconds = 1.0
    start = time.perf_counter()
    refused(lambda: loop(torch.zeros(1)), names="took more than 1 s")
    record_property("measured", f"a loop ended after {time.perf_counter() - start:.1f} s, allocation beyond 1 GB refused")
    refused(lambda: print_(torch.zeros(1)), names="print.jit failed")  # the process is gone


class Acting(torch.nn.Module):
    """Does one of several things when it is called."""

    def __init__(self, kind: str, path: str):
        super().__init__()
        self.kind, self.path = kind, path

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.kind == "write":
            torch.save(x, self.path)
        while self.kind == "allocate":
            x = torch.cat([x, x])
        while self.kind == "loop":
            x = x + 1
        print("hello")
        return x + 1


def _acting(kind, canary):
    content = io.BytesIO()
    torch.jit.save(torch.jit.script(Acting(kind, str(canary))), content)
    return content.getvalue()


@B7
def test_arrays_of_objects_in_the_cache_of_frames_are_not_opened(tmp_path, canary):
    video = tmp_path / "v.mp4"
    with VideoWriter(video, height=16, width=16) as writer:
        writer.write(np.zeros((3, 16, 16, 3), np.uint8))
    (tmp_path / "metadata.json").touch()  # of a dataset, which has a cache of its own
    decoded_frames(video, num_frames=3)
    (cached,) = (tmp_path / ".cache").glob("*.npy")
    evil_npy(cached, canary)
    assert decoded_frames(video, num_frames=3).shape == (3, 16, 16, 3), "decoded anew"


@B7
@pytest.mark.parametrize("text", [
    "!!python/object/apply:os.mkdir ['{canary}']", "model: !!python/name:os.system\nseed: 1", "a: &a [x]\nb: *a",
    "import os; os.mkdir('{canary}')", "seed = __import__('os').mkdir('{canary}')", "${{oc.env:HOME}}", "_target_: os.mkdir",
    "[model]\nkind = 'os.system'\n", "model = 'os.mkdir'",
])  # fmt: skip
def test_configurations_that_name_code(tmp_path, canary, text):
    path = write(tmp_path / "config.toml", text.replace("{canary}", str(canary)))
    refused(lambda: from_toml(RunConfig, path), names=path)
    refused(lambda: read_embodiment(path), names=path)
    refused(lambda: load_run(tmp_path), names=path)


# --- B8: paths -------------------------------------------------------------------------------------------------------

OUTSIDE = ["../secret", "a/../../secret", "/etc/passwd", "..", "a\0b", "x" * 4096, "a/" * 600 + "b", "c:\\x", "..\\secret",
           "a\nb", "\ud800", "", 3, None, ["a"], "link", "folder-link/secret", "CASE.bin"]  # fmt: skip


@pytest.fixture
def root(tmp_path):
    """A folder with links out of it, beside a secret."""
    write(tmp_path / "secret", "secret")
    write(tmp_path / "root" / "case.bin", "")
    (tmp_path / "root" / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "root" / "folder-link").symlink_to(tmp_path)
    (tmp_path / "root" / "near").symlink_to(tmp_path / "root" / "case.bin")
    return tmp_path / "root"


@B8
@pytest.mark.parametrize("name", OUTSIDE, ids=range(len(OUTSIDE)))
def test_names_in_a_file_stay_inside(root, name):
    refused(lambda: inside(root, name, source="index.json"), names="index.json")
    assert inside(root, "case.bin", source="x") == root / "case.bin"
    assert inside(root, "near", source="x") == root / "near", "a link within the folder"
    assert inside(root, "not/there/yet", source="x") == root / "not" / "there" / "yet"


@B8
@given(parts=st.lists(st.sampled_from(["..", ".", "a", "link", "folder-link", "", "near", "secret", "~"]) | st.text(max_size=5)))
@settings(derandomize=True, deadline=None, max_examples=300)
def test_no_name_leads_out(tmp_path_factory, parts):
    place = tmp_path_factory.getbasetemp() / "no-name-leads-out"
    if not place.exists():
        write(place / "secret", "secret")
        (place / "root").mkdir()
        (place / "root" / "link").symlink_to(place / "secret")
        (place / "root" / "folder-link").symlink_to(place)
    try:
        path = inside(place / "root", "/".join(parts), source="index.json")
    except ValueError as error:
        assert "\n" not in str(error) and "index.json" in str(error)
    else:
        assert path.resolve().is_relative_to((place / "root").resolve())


@B8
@pytest.mark.parametrize("name", ["../w.safetensors", "/etc/passwd", "x" * 4096, "a\0b", 3, None, "link.safetensors"])
def test_an_index_of_weights(tmp_path, name):
    folder = tmp_path / "base" / "text_encoder"
    write(folder / "config.json", json.dumps({"model_type": "umt5", "feed_forward_proj": "gated-gelu", "num_layers": 1}))
    save_file({"shared.weight": torch.zeros(2, 4)}, tmp_path / "base" / "w.safetensors")
    (folder / "link.safetensors").symlink_to(tmp_path / "base" / "w.safetensors")
    index = write(folder / "model.safetensors.index.json", json.dumps({"weight_map": {"shared.weight": name}}))
    refused(lambda: embed_empty_prompt(str(tmp_path / "base")), names=index)
    refused(lambda: check_model_folder(tmp_path / "base", "text_encoder"), names=index)


@B8
def test_links_of_the_hub_s_own_cache_are_followed(tmp_path):
    model = tmp_path / "models--a--b"
    write(model / "blobs" / "123", safetensors_with({}))
    folder = model / "snapshots" / "abc" / "vae"
    write(folder / "x.index.json", json.dumps({"weight_map": {"a": "w.safetensors"}}))
    (folder / "w.safetensors").symlink_to(Path("../../../blobs/123"))
    check_model_folder(folder.parent, "vae")
    (folder / "w.safetensors").unlink()
    (folder / "w.safetensors").symlink_to(write(tmp_path / "other", safetensors_with({})))
    refused(lambda: check_model_folder(folder.parent, "vae"), names="leads out")


@B8
def test_a_playlist_is_no_video(tmp_path):
    with VideoWriter(tmp_path / "secret.mp4", height=16, width=16) as writer:
        writer.write(np.zeros((3, 16, 16, 3), np.uint8))
    lists = {
        "concat": "ffconcat version 1.0\nfile secret.mp4\n",
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{tmp_path}/secret.mp4\n#EXT-X-ENDLIST\n",
        "dash": '<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period><BaseURL>secret.mp4</BaseURL></Period></MPD>',
        "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    }
    for name, text in lists.items():
        path = write(tmp_path / f"{name}.mp4", text)
        refused(lambda path=path: count_frames(path), names=path)
    # A name with a colon is a file as well, not a protocol.
    shutil.copy(tmp_path / "secret.mp4", tmp_path / "concat:a.mp4")
    assert count_frames(tmp_path / "concat:a.mp4") == 3


@B8
@pytest.mark.parametrize("path", ["x" * 4096, "a\0b", "x/" * 2000 + "y", "no/such"], ids=["long", "nul", "deep", "absent"])
def test_paths_that_no_file_can_have_are_refused_by_every_entry(path, record_property):
    calls = [load_state_dict, load_safetensors, open_dataset, open_test_set, open_tokenizer, read_embodiment,
             lambda p: from_toml(RunConfig, p), validate_compression_submission, check_sampling_submission,
             read_video, lambda p: open_tokenizer(p, trust=True)]  # fmt: skip
    for call in calls:
        refused(lambda call=call: call(path), length=9000)
    record_property("measured", f"{len(calls)} entries")


@B8
def test_members_of_a_submission_are_never_written_out(tmp_path):
    place = tmp_path / "a" / "b"
    place.mkdir(parents=True)
    path = write(place / "s.zip", zip_with({"../../evil.png": b"x", "/etc/evil": b"x", "a\nb": b""}))
    before = sorted(tmp_path.rglob("*"))
    refused(lambda: check_sampling_submission(path), names=path)
    refused(lambda: validate_compression_submission(path), names=path)
    assert sorted(tmp_path.rglob("*")) == before
