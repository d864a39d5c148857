"""Every command line of docs/reproduce.md, run in order with twins for the recipes and stand-ins for what is downloaded."""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from moving_square import write_moving
from official_tests import write_compression_test_set, write_sampling_test_set

from hwm.cli import VERBS, function_of, main, parsed
from hwm.data.onex import open_dataset
from hwm.experiments.carry_out import declarations
from hwm.recipes import names
from hwm.tokenizers.encode import tokenize
from hwm.tokenizers.open import WEIGHTS

PAGE = Path(__file__).parents[2] / "docs" / "reproduce.md"
WAN = ["model.channels=4", "model.grid=[2,2]", "model.num_layers=2", "model.num_heads=2", "model.head_width=16",
       "model.mlp_width=32", "model.time_width=32", "model.text_width=8", "model.lora_rank=2", "model.text_rows=4"]  # fmt: skip
SHORT = ["train.steps=2", "train.batch_size=2", "train.accumulate=1", "train.validate_every=2", "train.validate_clips=2",
         "train.sample_every=0", "train.warmup_steps=0", "train.threads=1"]  # fmt: skip
TWINS = (
    # What the page says: what is run here.
    (r"\b((masked|flow)-hwm-\w+) --out", r"\1-tiny --out"),
    (r"\btrain st-revontuli", "train st-demo"),
    (r"--size full", "--size tiny"),
    (r"--size 256", "--size 64"),
    (r"--size 512", "--size 32"),
    (r" --nproc 8", ""),
    (r" --(inception|lpips)( weights/\S+)+", ""),
    (r"(experiment (hwm|compression)-\S+)", r"\1 --clips 2 --workers 2"),
    (r"(experiment sampling-table .*)--clips 0", r"\1--clips 2 --workers 2 --samples 4 --most 4 --many-steps 1"),
    (r"(submit .* --track sampling)", r"\1 --samples 2 --size 32"),
)
"""Recipes become their twins and everything small; what is downloaded is made by `release`."""


def commands():
    """The page's command lines, as words."""
    blocks = re.findall(r"^```\n(.*?)^```", PAGE.read_text(), re.S | re.M)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [re.sub(r" +", " ", line).strip() for line in lines if line.strip()]


def small(line):
    """What is run in the place of a command of the page."""
    for pattern, instead in TWINS:
        line = re.sub(pattern, instead, line)
    words = shlex.split(line)[1:]
    if words[0] == "train":
        words += [*([] if "--set" in words else ["--set"]), *SHORT, *(WAN if words[1].startswith("wan") else ())]
    return words


def test_the_page_is_written_in_the_languages_of_the_commands():
    lines = commands()
    assert len(lines) > 20 and all(line.startswith("hwm ") for line in lines)
    for line in lines:
        _, verb, *words = shlex.split(line)
        assert verb in VERBS
        if verb == "experiment":
            plan = parsed(declarations()[words[0]][2], words[1:], prog=verb)
            assert plan.size == "full" and plan.runs
        elif verb != "data":
            parsed(function_of(verb), words, prog=verb)
        if verb == "train":
            assert words[0] in names()


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """In small what one downloads, where the page has it: tokens and video of 1X, test sets, tokenizers, a Wan pipeline."""
    from test_wan_line import pretrained

    root, rng = tmp_path_factory.mktemp("release"), np.random.default_rng(0)
    for place, name in (("DV8x8x8", "fsq-8x8x8"), ("CV8x16x16", "continuous-8x8x8")):
        (root / "cosmos").mkdir(exist_ok=True)
        (root / "cosmos" / place).symlink_to(WEIGHTS / name)
    for name, segments in (("train", 4), ("val", 6)):
        raw = write_moving(root / f"data/{name}_v2.0_raw", rng=rng, frames=102, segments=segments, side=64)
        tokenize(raw, root / f"data/{name}_v2.0", tokenizer="fsq-8x8x8")
    tokens = open_dataset(root / "data/val_v2.0").shards[0].read(0, 17)
    states = rng.normal(size=(2, 97, 25)).astype(np.float32)
    write_compression_test_set(root / "data/test_v2.0", tokens_NTHW=np.stack([tokens] * 2), states_NFA=states[:, :64])
    shutil.copy(root / "data/val_v2.0/tokenizer.json", root / "data/test_v2.0")  # the official sets are of 32x32 without it
    videos = rng.integers(0, 256, (2, 17, 32, 32, 3), dtype=np.uint8)
    write_sampling_test_set(root / "data/sampling/test_v2.0", videos=videos, states_NFA=states)
    pretrained(root / "wan/Wan2.2-TI2V-5B-Diffusers", 0)
    return root


def run(lines, release, monkeypatch):
    monkeypatch.chdir(release)
    for line in lines:
        assert main(small(line)) == 0, line


def part(title):
    """The commands under a heading."""
    text = PAGE.read_text().partition(f"## {title}\n")[2].partition("\n## ")[0]
    return [line for line in commands() if line.split(" --")[0] in text]


@pytest.mark.timeout(600)
def test_the_compression_track_from_the_release_to_the_page(release, monkeypatch):
    run(part("Revontuli, compression track"), release, monkeypatch)
    text = (release / "tables/compression/compression.md").read_text()
    assert "| st-demo |" in text and "4.92" in text and (release / "compression.zip").is_file()


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("title, page", [
    ("What you need", ""), ("HWM, Tables 1 and 2", "tables/hwm/tables.md"),
    ("Revontuli, sampling track", "tables/sampling/sampling.md"),
])  # fmt: skip
def test_the_other_parts_from_the_release_to_the_page(title, page, release, monkeypatch):
    run(part(title), release, monkeypatch)
    if page:
        rows = [line for line in (release / page).read_text().splitlines() if line.startswith("| ")]
        assert len(rows) > 8
    if page.startswith("tables/sampling"):
        ours = [line for line in rows if "learned from validation data too" in line]
        assert len(ours) == 1 and "26.62" in ours[0] and (release / "sampling.zip").is_file()


def test_every_command_of_the_page_belongs_to_a_part_that_is_run():
    titles = re.findall(r"^## (.*)", PAGE.read_text(), re.M)
    assert sorted(line for title in titles for line in part(title)) == sorted(commands())
