"""What a dataset holds, in numbers and in one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from hwm.contracts import LatentTokenizer, Tokenizer
from hwm.data import video
from hwm.data.check import CHUNK_BYTES, Finding, Report, check
from hwm.data.latents import LatentDataset, LatentShard, Moments
from hwm.data.legacy import LegacyTokenDataset
from hwm.data.onex import Dataset, RawDataset, TokenDataset, frame_size, open_dataset, probe_kind
from hwm.data.testsets import CompressionTestSet, SamplingTestSet, open_test_set
from hwm.data.windows import ClipIndex, check_segments
from hwm.work.files import atomic_path, expect_rows

AnyTokenizer = Tokenizer | LatentTokenizer

__all__ = ["Finding", "Report", "check", "contact_sheet", "describe", "state_statistics"]


def state_statistics(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of every state dimension, float64 (A,) each, in the states' own units.

    Streamed: memory does not grow with the data.  Raises ValueError, naming the file, for a state that is not finite.
    """
    moments = Moments.none(dataset.robot.dim)
    rows = CHUNK_BYTES // (4 * dataset.robot.dim)
    for shard in dataset.shards:
        for first in range(0, shard.num_frames, rows):
            part = shard.read_states(np.arange(first, min(first + rows, shard.num_frames)))
            moments = moments.merged(Moments.of(part))
    return moments.mean, moments.std


def describe(path: str | Path) -> dict[str, Any]:
    """Kind, counts, hours, segment lengths, number of clips and state statistics, as plain values for JSON."""
    root = Path(path)
    kind = probe_kind(root)
    if kind.endswith("test"):
        samples = open_test_set(root)
        facts: dict[str, Any] = {"kind": kind, "samples": len(samples), "state_rows": samples.states_NFA.shape[1]}
        if isinstance(samples, CompressionTestSet):
            return facts | {"grid": list(samples.grid), "vocab_size": samples.vocab_size}
        return facts | {"frame_size": list(video.probe(samples.video_paths[0])[:2])}
    dataset = open_dataset(root)
    facts = {"kind": kind, "shards": len(dataset.shards), "frames": dataset.num_frames, "hz": dataset.hz}
    facts["hours"] = dataset.num_frames / dataset.hz / 3600
    if isinstance(dataset, RawDataset):
        facts["frame_size"] = list(frame_size(dataset))
    else:
        facts["grid"] = list(dataset.grid)
        facts |= _latent_facts(dataset) if isinstance(dataset, LatentDataset) else {"vocab_size": dataset.vocab_size}
        facts["tokenizer"] = (dataset.tokenizer or {}).get("name")
    facts["segments"] = _segment_lengths(dataset)
    facts["clips"] = _clip_counts(dataset)
    mean, std = state_statistics(dataset)
    names = zip(dataset.robot.names, dataset.robot.units, mean.tolist(), std.tolist())
    facts["states"] = {name: {"unit": unit, "mean": m, "std": s} for name, unit, m, s in names}
    return facts


def _latent_facts(dataset: LatentDataset) -> dict[str, Any]:
    """Channels, the range of their means and deviations, and how much of a deviation is change from grid to grid."""
    known = dataset.statistics
    spread = {"smallest_mean": known.mean_C.min(), "largest_mean": known.mean_C.max()}
    spread |= {"smallest_std": known.std_C.min(), "largest_std": known.std_C.max()}
    change = known.change_std_C.mean() / max(known.std_C.mean(), 1e-12)
    values = {name: float(value) for name, value in (spread | {"change_per_std": change}).items()}
    return {"channels": dataset.channels, "latents": values}


def _segment_lengths(dataset: Dataset) -> dict[str, Any]:
    """Count and lengths in frames; a segment that goes on in the next shard counts in both."""
    parts = []
    for shard in dataset.shards:
        boundaries = check_segments(np.asarray(expect_rows(shard.segments)), shard.segments_path)
        parts.append(np.diff(np.concatenate([[0], boundaries, [shard.num_frames]])))
    lengths = np.concatenate(parts)
    spread = {"shortest": int(lengths.min()), "median": float(np.median(lengths)), "longest": int(lengths.max())}
    return {"count": len(lengths), "mean": float(lengths.mean()), **spread}


def _clip_counts(dataset: Dataset) -> dict[str, int]:
    wanted: dict[str, dict[str, Any]] = {
        "blocks": {"kind": "blocks", "overlap": True},
        "block_pairs": {"kind": "block_pairs", "overlap": True},
        "block_pairs_apart": {"kind": "block_pairs", "overlap": False},
        "sampling_77": {"kind": "sampling", "overlap": True},
    }
    if isinstance(dataset, LegacyTokenDataset):
        window = {"kind": "frames", "length": 16, "stride": 15}
        wanted = {"windows_16x15": {**window, "overlap": True}, "windows_16x15_apart": {**window, "overlap": False}}
    elif isinstance(dataset, LatentDataset) and dataset.every:
        window = {"kind": "sampling", "every": dataset.every}
        wanted = {"sampling_77": {**window, "overlap": True}, "sampling_77_apart": {**window, "overlap": False}}
    elif isinstance(dataset, TokenDataset | LatentDataset):
        del wanted["sampling_77"]
    return {name: _count(dataset, **options) for name, options in wanted.items()}


def _count(dataset: Dataset, **options: Any) -> int:
    try:
        return len(ClipIndex.build(dataset, **options))
    except ValueError:
        return 0


def contact_sheet(
    path: str | Path, out_png: str | Path, *, tokenizer: AnyTokenizer | None = None, columns: int = 8, rows: int = 5
) -> None:
    """Write a PNG of pictures spread over a dataset or test set.

    Tokens and latents are decoded by `tokenizer` where it is given; otherwise each id is shown as a colour of its own,
    and the first three channels of latents as red, green and blue.
    """
    root, count = Path(path), columns * rows
    if probe_kind(root).endswith("test"):
        pictures = _sample_pictures(open_test_set(root), count, tokenizer)
    else:
        pictures = _dataset_pictures(open_dataset(root), count, tokenizer)
    side = 128
    sheet = Image.new("RGB", (columns * side, -(-len(pictures) // columns) * side))
    for i, picture in enumerate(pictures):
        small = picture.shape[0] < side
        tile = Image.fromarray(picture).resize((side, side), Image.Resampling.NEAREST if small else Image.Resampling.BOX)
        sheet.paste(tile, (i % columns * side, i // columns * side))
    with atomic_path(out_png) as temporary:
        sheet.save(temporary, format="PNG")


def _dataset_pictures(dataset: Dataset, count: int, tokenizer: AnyTokenizer | None) -> list[np.ndarray]:
    places = np.linspace(0, len(dataset.shards), count, endpoint=False).astype(int)
    pictures: list[np.ndarray] = []
    for position in np.unique(places):
        shard, number = dataset.shards[position], int((places == position).sum())
        if isinstance(dataset, RawDataset):
            pictures.extend(video.thumbnails(shard.video_path, count=number, size=128))
        elif isinstance(dataset, LegacyTokenDataset):
            chosen = np.linspace(0, shard.num_frames, number, endpoint=False).astype(int)
            pictures.extend(_colours(dataset.shards[0].read_tokens(i)[0]) for i in chosen)
        else:
            rows = max(1, dataset.clock.num_blocks(shard.num_frames))
            if isinstance(shard, LatentShard) and shard.every:
                rows = shard.num_rows
            chosen = np.unique(np.linspace(0, rows, number, endpoint=False).astype(int))[:rows]
            pictures.extend(_row_picture(dataset, position, int(i), tokenizer) for i in chosen)
    return pictures


def _sample_pictures(
    samples: CompressionTestSet | SamplingTestSet, count: int, tokenizer: AnyTokenizer | None
) -> list[np.ndarray]:
    chosen = np.unique(np.linspace(0, len(samples), count, endpoint=False).astype(int))
    if isinstance(samples, CompressionTestSet):
        return [_picture(samples.tokens_NTHW[i], tokenizer) for i in chosen]
    return [samples.frames(i, 128)[-1] for i in chosen]


def _row_picture(
    dataset: TokenDataset | LatentDataset, position: int, row: int, tokenizer: AnyTokenizer | None
) -> np.ndarray:
    if isinstance(dataset, TokenDataset):
        return _picture(dataset.shards[position].read_tokens(row), tokenizer)
    latents, known = dataset.shards[position].read_row(row), dataset.statistics
    if tokenizer is not None:
        return _decoded(latents, tokenizer)
    scaled = (latents[-1] - known.mean_C[:, None, None]) / np.maximum(known.std_C, 1e-12)[:, None, None]
    three = np.resize(scaled, (3, *dataset.grid))
    return np.moveaxis(np.clip(128 + 48 * three, 0, 255), 0, -1).astype(np.uint8)


def _picture(tokens_THW: np.ndarray, tokenizer: AnyTokenizer | None) -> np.ndarray:
    return _colours(tokens_THW[-1]) if tokenizer is None else _decoded(tokens_THW, tokenizer)


def _decoded(grids: np.ndarray, tokenizer: AnyTokenizer) -> np.ndarray:
    """Last frame of one block of tokens or latents."""
    with torch.inference_mode():
        return tokenizer.decode(torch.from_numpy(grids[None]))[0, -1].numpy()


def _colours(tokens_HW: np.ndarray) -> np.ndarray:
    """A colour per id, uint8 (H, W, 3): multiplicative hashing spreads neighbouring ids over all colours."""
    mixed = (tokens_HW.astype(np.uint64) * np.uint64(2654435761)) >> np.uint64(8)
    return np.stack([(mixed >> np.uint64(shift)) & np.uint64(255) for shift in (0, 8, 16)], axis=-1).astype(np.uint8)
