"""A pretrained Wan model as users have it, only tiny: a folder in diffusers' layout is adapted, resumed, scored, refused."""

import json
import os
import shutil
import signal
import threading
import time

import numpy as np
import pytest
import torch
from refusing import refused
from safetensors.torch import load_file

from hwm.cli import main
from hwm.data.onex import open_dataset
from hwm.data.writers import RawShardWriter, write_dataset_metadata
from hwm.runs import load_run

pytest.importorskip("peft")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

VAE = {
    "base_dim": 8, "decoder_base_dim": 8, "z_dim": 4, "num_res_blocks": 1, "temperal_downsample": [False, True, True],
    "dim_mult": [1, 2, 2, 2], "is_residual": True, "patch_size": 2, "in_channels": 12, "out_channels": 12,
    "scale_factor_spatial": 16, "latents_mean": [0.0] * 4, "latents_std": [0.02] * 4
}
DIT = {
    "patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 4, "out_channels": 4,
    "text_dim": 8, "freq_dim": 32, "ffn_dim": 32, "num_layers": 2
}
SIZES = ["model.channels=4", "model.grid=[2,2]", "model.num_layers=2", "model.num_heads=2", "model.head_width=16"]
SIZES += ["model.mlp_width=32", "model.time_width=32", "model.text_width=8", "model.lora_rank=2", "model.text_rows=4"]
SHORT = ["train.batch_size=2", "train.accumulate=2", "train.validate_every=2", "train.validate_clips=2", "train.threads=1"]
SHORT += ["train.checkpoint_every=2", "train.sample_every=0", "train.warmup_steps=0", "model.steps=2"]


def pretrained(folder, seed):
    torch.manual_seed(seed)
    diffusers.WanTransformer3DModel(**DIT).save_pretrained(folder / "transformer")
    diffusers.AutoencoderKLWan(**VAE).save_pretrained(folder / "vae")
    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 2, "num_heads": 2, "vocab_size": 32}
    config = transformers.UMT5Config(**sizes, feed_forward_proj="gated-gelu")
    transformers.UMT5EncoderModel(config).save_pretrained(folder / "text_encoder")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("wan"), np.random.default_rng(0)
    pretrained(root / "base", 0)
    with RawShardWriter(root / "raw", shard=0, height=32, width=32) as writer:
        for segment in range(3):
            states = rng.normal(size=(101, 25)).astype(np.float32).cumsum(0) * 0.1
            frames = np.clip(90 + 20 * states[:, :3, None, None], 0, 255).astype(np.uint8)
            writer.append(np.broadcast_to(frames.transpose(0, 2, 3, 1), (101, 32, 32, 3)), states, segment)
    write_dataset_metadata(root / "raw", num_shards=1, num_images=303)
    assert main(["text-embedding", str(root / "base"), str(root / "prompt.safetensors")]) == 0
    tokenize = ["tokenize", str(root / "raw"), str(root / "latents"), "--tokenizer", str(root / "base"), "--workers", "1"]
    assert main(tokenize) == 0
    assert train(root, "run", steps=4) == 0
    return root


def train(root, name, *, steps, base="base", more=()):
    arguments = ["train", "wan-one-gpu", "--out", str(root / name), "--tokenizer", str(root / base)]
    arguments += ["--data", str(root / "latents"), "--val", str(root / "latents")]
    own = [f"model.base={root / base}", f"model.text={root / 'prompt.safetensors'}", f"train.steps={steps}"]
    return main([*arguments, "--set", *SIZES, *SHORT, *own, *more])


def test_only_what_learns_is_stored_and_it_has_moved(place):
    checkpoint = place / "run" / "checkpoints" / "step-4"
    stored = load_file(checkpoint / "model.safetensors")
    assert all(".lora_" in key or key.startswith(("states.", "units.")) or key == "base_digest" for key in stored)
    moved = [key for key in stored if "lora_B" in key and stored[key].any()]
    assert len(moved) == 2 * 10 and all(stored[key].dtype == torch.float32 for key in moved)
    assert stored["states.out.weight"].any()
    moments = load_file(checkpoint / "optimizer.safetensors")
    assert all(".lora_" in key or ".states." in f".{key}" for key in moments)


def test_a_resumed_adapter_equals_one_that_was_never_stopped(place):
    def stop_soon():
        trace = place / "stopped" / "checkpoints" / "step-2"
        for _ in range(600):
            if trace.is_dir():
                os.kill(os.getpid(), signal.SIGTERM)
                return
            time.sleep(0.01)

    watcher = threading.Thread(target=stop_soon)
    watcher.start()
    code = train(place, "stopped", steps=4)
    watcher.join()
    if code:
        assert code == 128 + signal.SIGTERM
        assert train(place, "stopped", steps=4) == 0
    whole, resumed = (load_file(place / name / "checkpoints" / "step-4" / "model.safetensors") for name in ("run", "stopped"))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_the_run_opens_with_its_own_text_and_precision(place):
    refused("adapts the pretrained model .*which lies elsewhere; give it with --base", load_run, place / "run")
    model = load_run(place / "run", base=str(place / "base")).model
    assert model.transformer.dtype == torch.bfloat16 and model.states.out.weight.dtype == torch.float32
    assert model.transformer.condition_embedder.time_embedder.linear_1.weight.dtype == torch.float32
    assert model.text_1RD[0, 0].any() and not model.text_1RD[0, 1:].any()
    assert open_dataset(place / "latents").channels == 4


def test_frame_76_is_scored_by_the_adapted_model(place):
    arguments = ["evaluate", str(place / "run"), "--protocol", "sampling", "--data", str(place / "raw")]
    arguments += ["--base", str(place / "base"), "--tokenizer", str(place / "base")]
    arguments += ["--tuning", str(place / "raw")]
    assert main([*arguments, "--clips", "2", "--tuning-clips", "2", "--members", "1", "2"]) == 0
    record = json.loads((place / "run" / "results_sampling.json").read_text())
    assert record["config"]["recipe"] == "wan-one-gpu" and record["settings"]["num_clips"] == 2


def test_an_adapter_on_another_base_is_refused(place, capsys):
    pretrained(place / "other", 1)
    text = (place / "run" / "config.toml").read_text()
    moved = place / "moved"
    (moved / "checkpoints").mkdir(parents=True)
    (moved / "config.toml").write_text(text.replace(f'base = "{place / "base"}"', f'base = "{place / "other"}"'))
    shutil.copy(place / "run" / "text.safetensors", moved)
    for item in (place / "run" / "checkpoints").iterdir():
        if item.is_dir():
            (moved / "checkpoints" / item.name).symlink_to(item)
        else:
            (moved / "checkpoints" / item.name).write_bytes(item.read_bytes())
    with pytest.raises(ValueError, match="another base"):
        load_run(moved, base=str(place / "other"))


def test_latents_of_another_autoencoder_are_refused(place, capsys):
    """Latents that are not normalised are not what the pretrained model knows."""
    text, sums = ((place / "latents" / name).read_text() for name in ("statistics.json", "checksums.json"))
    table = json.loads(text)
    (place / "latents" / "statistics.json").write_text(json.dumps(table | {"std": [30.0] * 4}))
    (place / "latents" / "checksums.json").unlink()  # which would say that the file is not as it was written
    assert train(place, "wrong", steps=2) == 2
    (place / "latents" / "statistics.json").write_text(text)
    (place / "latents" / "checksums.json").write_text(sums)
    assert "own autoencoder" in capsys.readouterr().err
