"""Where the files of a 1X v2.0 dataset lie and what they are called (reference A.3, A.5; 1X dataset cards).

Training sets keep each kind in a folder of its own, the validation set and the test sets are flat; copies with
other folder names are in circulation.  Each kind is probed on its own: sub-folder first, then the root.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Kind:
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


TOKENS = Kind(("videos",), "video", ".bin")
VIDEO = Kind(("videos",), "video", ".mp4")
LATENTS = Kind(("latents",), "latents", ".bin")
CLIP_STARTS = Kind(("clip_starts",), "clip_starts", ".bin")
MOMENTS = Kind(("statistics",), "statistics", ".json")
STATES = Kind(("robot_states", "states"), "states", ".bin")
SEGMENTS = Kind(("segment_indices", "segment_idx"), "segment_idx", ".bin")
METADATA = Kind(("metadata",), "metadata", ".json")
CHECKSUMS = Kind(("checksums",), "checksums", ".json")
