import json
from dataclasses import replace

import numpy as np
import pytest
from official_tests import write_compression_test_set, write_sampling_test_set
from PIL import Image
from refusing import refused

from hwm.cli import main
from hwm.clock import COSMOS
from hwm.config import to_toml
from hwm.data import describe as d
from hwm.data import writers
from hwm.data.describe import check
from hwm.data.onex import open_dataset
from hwm.robot import EVE
from hwm.sim.body.robot import skeleton


def test_sound_data_have_no_findings(token_root, raw_root):
    assert check(token_root).findings == check(raw_root).findings == []


def test_every_fault_is_listed(token_root):
    for name in ("robot_states/states_0.bin", "videos/video_1.bin"):
        path = token_root / name
        path.write_bytes(path.read_bytes()[:-4])
    files = [f.file for f in check(token_root).findings if f.severity == "error"]
    assert sum("states_0" in f for f in files) == 2, "its size and its checksum"
    assert any("video_1" in f for f in files)


def test_suspicious_but_usable(tmp_path, make_raw):
    root = make_raw(tmp_path, ((40,),))
    states = np.fromfile(root / "robot_states/states_0.bin", "<f4").reshape(40, 25)
    states[:, 4] = 0.5
    states.tofile(root / "robot_states/states_0.bin")
    about = json.loads((root / "metadata.json").read_text()) | {"hz": 15}
    (root / "metadata.json").write_text(json.dumps(about))
    for path in [*root.glob("checksums*/*"), root / "checksums.json"]:
        path.unlink()
    report = check(root)
    assert report.ok
    messages = " ".join(f"{f.severity} {f.message};" for f in report.findings)
    assert "note never changes: ANKLE_ROLL" in messages
    assert "warning plays at 30 frames/s, metadata.json says 15 Hz" in messages
    assert "note no checksums" in messages


def test_statistics_are_those_of_all_rows(token_root, monkeypatch):
    monkeypatch.setattr(d, "CHUNK_BYTES", 100 * 7)  # seven rows at a time
    dataset = open_dataset(token_root)
    rows = np.concatenate([shard.states for shard in dataset.shards]).astype(np.float64)
    mean, std = d.state_statistics(dataset)
    np.testing.assert_allclose(mean, rows.mean(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(std, rows.std(axis=0), rtol=1e-12)


def test_describe_tokens(token_root):
    facts = json.loads(json.dumps(d.describe(token_root)))
    assert facts["kind"] == "tokens" and facts["frames"] == 214 and facts["shards"] == 2
    assert facts["hours"] == pytest.approx(214 / 30 / 3600)
    assert facts["segments"] == {"count": 5, "mean": 42.8, "shortest": 12, "median": 45.0, "longest": 80}
    # Segments 0-59, 60-104; 0-16, 17-96, 97-108.  Whole blocks start at 0 17 34, 68 85; 0, 17 34 51 68, none.
    assert facts["clips"] == {"blocks": 10, "block_pairs": 6, "block_pairs_apart": 3}
    assert list(facts["states"])[:2] == ["HIP_YAW", "HIP_ROLL"] and facts["states"]["HIP_YAW"]["unit"] == "rad"


def test_describe_the_other_kinds(tmp_path, raw_root, make_legacy):
    raw = d.describe(raw_root)
    assert raw["frame_size"] == [32, 32] and raw["clips"]["sampling_77"] == 0 and raw["clips"]["blocks"] == 5
    zeros = {"joint_pos": 21, "driving_command": 2, "l_hand_closure": 1, "r_hand_closure": 1}
    actions = {name: np.zeros((300, width)) for name, width in zeros.items()}
    tokens = np.zeros((300, 16, 16), int)
    make_legacy(tmp_path / "old", tokens_NHW=tokens, segments=np.zeros(300, int), actions=actions)
    assert d.describe(tmp_path / "old")["clips"] == {"windows_16x15": 75, "windows_16x15_apart": 15}
    assert check(tmp_path / "old").ok
    states = np.zeros((3, 64, 25), np.float32)
    write_compression_test_set(tmp_path / "c", tokens_NTHW=np.zeros((3, 3, 32, 32), int), states_NFA=states)
    assert d.describe(tmp_path / "c")["samples"] == 3
    report = check(tmp_path / "c")
    assert report.ok and "3 samples; the official set has 450" in report.findings[0].message


def test_contact_sheets(tmp_path, token_root, raw_root):
    d.contact_sheet(raw_root, tmp_path / "raw.png", columns=2, rows=2)
    with Image.open(tmp_path / "raw.png") as sheet:
        assert sheet.size[0] == 256
        assert abs(np.asarray(sheet)[10, 10].mean() - 20) < 3, "the first picture is the first frame"
    d.contact_sheet(token_root, tmp_path / "ids.png", columns=3, rows=1)
    with Image.open(tmp_path / "ids.png") as sheet:
        assert sheet.size == (384, 128)
        assert len(np.unique(np.asarray(sheet)[:, :128].reshape(-1, 3), axis=0)) == 16, "one colour per id"
    videos, states = [np.full((17, 32, 32, 3), 99, np.uint8)] * 2, np.zeros((2, 97, 25), np.float32)
    write_sampling_test_set(tmp_path / "s", videos=videos, states_NFA=states)
    d.contact_sheet(tmp_path / "s", tmp_path / "s.png")
    assert (tmp_path / "s.png").is_file()


def test_a_sheet_with_bones(tmp_path, raw_root, token_root, capsys):
    sheet = tmp_path / "sheet.png"
    assert main(["data", "describe", str(raw_root), "--bones", "--sheet", str(sheet)]) != 0
    assert "has no bones to draw" in capsys.readouterr().err and not sheet.exists()
    (raw_root / "robot.toml").write_text(to_toml(replace(EVE, skeleton=skeleton())))
    assert main(["data", "describe", str(raw_root), "--bones", "--sheet", str(sheet)]) == 0
    d.contact_sheet(raw_root, plain := tmp_path / "plain.png", over=lambda robot: lambda picture, states: picture)
    with Image.open(sheet) as drawn, Image.open(plain) as without:
        assert drawn.size == without.size and drawn.tobytes() != without.tobytes()
    assert main(["data", "check", str(raw_root), "--bones"]) != 0
    assert "--bones is for the sheet" in capsys.readouterr().err
    refused("holds tokens", d.contact_sheet, token_root, sheet, over=lambda robot: None)


def test_contact_sheet_through_a_tokenizer(tmp_path):
    from hwm.model_config import FSQConfig
    from hwm.tokenizers.autoencoder import FSQTokenizer

    tokenizer = FSQTokenizer(FSQConfig(levels=(4, 4), channels=8, depth=1)).eval()
    tokens = np.random.default_rng(0).integers(0, 16, (2, 3, 4, 4))
    writers.write_tokenizer_info(tmp_path, name="t", fingerprint="f", vocab_size=16, grid=(4, 4), clock=COSMOS, config={})
    writers.TokenShardWriter(tmp_path, 0, vocab_size=16).write(tokens, np.zeros((34, 25)), np.zeros(34, int))
    writers.write_dataset_metadata(tmp_path, num_shards=1, num_images=34)
    d.contact_sheet(tmp_path, tmp_path / "t.png", tokenizer=tokenizer, columns=2, rows=1)
    with Image.open(tmp_path / "t.png") as sheet:
        assert sheet.size == (256, 128)
