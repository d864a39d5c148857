"""The sidecar that says by which tokenizer a folder is made: written by the first of several processes, checked by all."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from hwm.contracts import LatentTokenizer, Tokenizer
from hwm.data.files import atomic_path
from hwm.data.onex import RawDataset
from hwm.data.quarantine import Rule
from hwm.data.sidecar import clip_hop, read_tokenizer_info
from hwm.data.writers import write_tokenizer_info

ROBOT = "robot.toml"


def claim(
    out: Path,
    encoder: Tokenizer | LatentTokenizer,
    dataset: RawDataset,
    *,
    frame_size: tuple[int, int],
    rule: Rule,
    size: int,
) -> None:
    """Write tokenizer.json, or check that the one there is of the same tokenizer and clips.

    frame_size: height and width of the stored frames.  size: side to which they are resized, 0 keeps them.
    """
    height, width = (size, size) if size else frame_size
    stride = encoder.spatial_stride
    if height % stride or width % stride:
        raise ValueError(f"{dataset.root}: frames of {height}x{width} do not divide by the tokenizer's stride {stride}; set size")
    grid, fingerprint = (height // stride, width // stride), encoder.fingerprint()
    if not (out / "tokenizer.json").is_file():
        config = asdict(encoder.config) if hasattr(encoder, "config") else {}
        out.mkdir(parents=True, exist_ok=True)
        if (dataset.root / ROBOT).is_file():  # another robot's states keep their meaning
            with atomic_path(out / ROBOT) as target:
                target.write_bytes((dataset.root / ROBOT).read_bytes())
        write_tokenizer_info(
            out,
            name=encoder.name,
            fingerprint=fingerprint,
            grid=grid,
            clock=encoder.clock,
            config=config,
            phases=rule.phases,
            every=rule.every,
            first=True,
            **({"channels": encoder.channels} if isinstance(encoder, LatentTokenizer) else {"vocab_size": encoder.vocab_size}),
        )
    known = read_tokenizer_info(out) or {}  # by whichever process came first
    if known.get("fingerprint") != fingerprint or tuple(known.get("grid", ())) != grid:
        raise ValueError(
            f"{out}/tokenizer.json: what lies here was made by tokenizer {known.get('name')} on grid {known.get('grid')}, "
            f"not by {encoder.name} on grid {list(grid)}; choose a new output folder"
        )
    if (phases := known.get("phases", rule.phases)) != rule.phases:
        raise ValueError(f"{out}/tokenizer.json: was cut from {phases} phases, not {rule.phases}; choose a new output folder")
    if (hop := clip_hop(known, out)) != rule.every:
        every = f"its clips start every {hop} frames, not {rule.every}"
        raise ValueError(f"{out}/tokenizer.json: {every}; choose a new output folder")
