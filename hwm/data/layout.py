"""Where the files of a 1X v2.0 dataset lie, what they are called, and who made its grids (reference A.3, A.5; 1X cards).

Training sets keep each kind in a folder of its own, the validation set and the test sets are flat; copies with
other folder names are in circulation.  Each kind is probed on its own: sub-folder first, then the root.  The sidecar
`tokenizer.json` says by whom, on which grid and by which clock tokens or latents were made.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from hwm.clock import COSMOS, SAMPLING_FRAMES, SAMPLING_STEP, Clock
from hwm.work.files import read_count, read_json


@dataclass(frozen=True)
class FileKind:
    """One kind of file: `folders` (the official one first), then `stem`_{index}`suffix`."""

    folders: tuple[str, ...]
    stem: str
    suffix: str

    def name(self, index: int) -> str:
        """File name of one shard or sample."""
        return f"{self.stem}_{index}{self.suffix}"

    def place(self, root: Path, index: int, *, flat: bool) -> Path:
        """Where to write it."""
        return root / self.name(index) if flat else root / self.folders[0] / self.name(index)

    def find(self, root: Path, index: int) -> Path:
        """Where it is.  Raises ValueError naming the official place when it is nowhere."""
        places = [root / folder / self.name(index) for folder in self.folders] + [root / self.name(index)]
        for path in places:
            if path.is_file():
                return path
        raise ValueError(f"{places[0]}: no such file (also looked for {places[-1]}); fetch or write the missing file")

    def indices(self, root: Path) -> list[int]:
        """Every index present, in numerical order."""
        pattern = re.compile(rf"{self.stem}_(\d{{1,9}}){re.escape(self.suffix)}")
        folders = [root / folder for folder in self.folders] + [root]
        names = (path.name for folder in folders if folder.is_dir() for path in folder.iterdir())
        return sorted({int(match[1]) for name in names if (match := pattern.fullmatch(name))})


TOKENS = FileKind(("videos",), "video", ".bin")
VIDEO = FileKind(("videos",), "video", ".mp4")
LATENTS = FileKind(("latents",), "latents", ".bin")
CLIP_STARTS = FileKind(("clip_starts",), "clip_starts", ".bin")
MOMENTS = FileKind(("statistics",), "statistics", ".json")
STATES = FileKind(("robot_states", "states"), "states", ".bin")
SEGMENTS = FileKind(("segment_indices", "segment_idx"), "segment_idx", ".bin")
MASKS = FileKind(("robot_masks",), "robot_mask", ".bin")
COMMANDS = FileKind(("robot_commands", "commands"), "commands", ".bin")
"""Not of 1X: rows like those of the states, each what was asked of the robot from its frame to the next (ours)."""
METADATA = FileKind(("metadata",), "metadata", ".json")
CHECKSUMS = FileKind(("checksums",), "checksums", ".json")

COSMOS_GRID = (32, 32)
COSMOS_VOCAB = 64000


def read_tokenizer_info(root: Path) -> dict | None:
    """The sidecar `tokenizer.json` of tokens or latents that this library made, or None."""
    path = root / "tokenizer.json"
    return read_json(path) if path.is_file() else None


def token_geometry(info: dict | None, root: Path) -> tuple[tuple[int, int], int, Clock]:
    """Grid (H, W), vocabulary and clock of tokens: the sidecar's, or the official ones of Cosmos DV8x8x8."""
    return (COSMOS_GRID, COSMOS_VOCAB, COSMOS) if info is None else _geometry(info, "vocab_size", root)


def latent_geometry(info: dict | None, root: Path) -> tuple[tuple[int, int], int, Clock]:
    """Grid (H, W), channels and clock of latents, which only the sidecar tells."""
    if info is None:
        raise ValueError(f"{root / 'tokenizer.json'}: no such file; latents cannot be read without it: tokenize again")
    return _geometry(info, "channels", root)


def clip_table(every: int) -> dict[str, int]:
    """What the sidecar says under "clip" of latents of sampling clips, one from every `every`th frame."""
    return {"frames": SAMPLING_FRAMES, "step": SAMPLING_STEP, "every": every}


def clip_hop(info: dict, root: Path) -> int:
    """Frames from the start of one stored sampling clip to the next, or 0 where latents are of blocks."""
    if "clip" not in info:
        return 0
    path, clip = root / "tokenizer.json", info["clip"]
    every = clip.get("every") if isinstance(clip, dict) else None
    if type(every) is not int or every < 1 or clip != clip_table(every):
        expected = f"frames {SAMPLING_FRAMES}, step {SAMPLING_STEP} and a positive every"
        raise ValueError(f"{path}: expected {expected} under 'clip', found {clip!r}; tokenize again")
    return every


def _geometry(info: dict, count: str, root: Path) -> tuple[tuple[int, int], int, Clock]:
    path = root / "tokenizer.json"
    grid, clock = info.get("grid"), info.get("clock")
    if not (isinstance(grid, list) and len(grid) == 2 and all(type(n) is int and 0 < n <= 4096 for n in grid)):
        raise ValueError(f"{path}: expected two positive sides under 'grid', found {grid!r}; tokenize again")
    if not isinstance(clock, dict) or {*clock} != {"stride", "block"} or any(type(n) is not int for n in clock.values()):
        raise ValueError(f"{path}: expected stride and block under 'clock', found {clock!r}; tokenize again")
    try:
        return (grid[0], grid[1]), read_count(info, count, path), Clock(**clock)
    except ValueError as error:
        raise ValueError(f"{path}: {error}" if str(path) not in str(error) else str(error)) from None
