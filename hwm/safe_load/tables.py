"""Parquet tables from elsewhere: the asked columns alone, of numbers, held against what they may be before they are built."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hwm.safe_load.paths import is_file, reason, shown

AGAIN = "fetch or write the file again"
MAX_ROWS = 10_000_000
POINTER = b"version https://git-lfs"


def read_columns(path: Path, columns: Mapping[str, int], *, num_rows: int | None = None) -> dict[str, np.ndarray]:
    """Columns of a Parquet file by name, float64 or int64: (rows,) for a width of 0, else (rows, width).

    num_rows: how many rows others say that there are; None: any number up to ten million.
    Raises ValueError, naming the file, for what is no Parquet file, another number of rows, a column that is missing, has
    gaps or is not of such numbers; what is compressed to nothing cannot allocate more than rows x width numbers.
    """
    pq = _parquet()
    if not is_file(path):
        raise ValueError(f"{shown(path)}: no such file; fetch or write it")
    expect_content(path)
    try:
        with pq.ParquetFile(path) as file:
            about, names = file.metadata, file.schema_arrow.names
            if about.num_rows != (about.num_rows if num_rows is None else num_rows):
                raise ValueError(f"has {about.num_rows} rows, {num_rows} are expected")
            if about.num_rows > MAX_ROWS:
                raise ValueError(f"has {about.num_rows} rows, at most {MAX_ROWS} are read")
            for name, width in columns.items():
                if name not in names:
                    raise ValueError(f"has no column {name!r}, only {', '.join(map(shown, names))}")
                count, each = _num_values(about, name, names), max(1, width)
                if count != about.num_rows * each:
                    raise ValueError(f"column {name!r} holds {count} numbers in {about.num_rows} rows, {each} a row are expected")
            table = file.read(columns=list(columns))
            return {name: _array(table.column(name), width, name) for name, width in columns.items()}
    except (ValueError, OSError, ArithmeticError, MemoryError, NotImplementedError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: {reason(error)}; {AGAIN}") from None


def expect_content(path: Path) -> None:
    """Raise ValueError for the pointer that Git LFS leaves in place of a large file."""
    with path.open("rb") as file:
        if file.read(len(POINTER)) == POINTER:
            raise ValueError(f"{path}: is a pointer of Git LFS, not the file itself; fetch it with `git lfs pull`")


def _parquet() -> Any:
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise ValueError("LeRobot datasets need the package pyarrow: pip install 'humanoid-world-models[lerobot]'") from None
    return pq


def _num_values(about: Any, name: str, names: list[str]) -> int:
    """Numbers in a column, by the file's own index: nothing is read for it."""
    total = 0
    for group in range(about.num_row_groups):
        row_group = about.row_group(group)
        for place in range(row_group.num_columns):
            column = row_group.column(place)
            owner = max((n for n in names if f"{column.path_in_schema}.".startswith(f"{n}.")), key=len, default="")
            total += column.num_values if owner == name else 0
    return total


def _array(column: Any, width: int, name: str) -> np.ndarray:
    import pyarrow as pa

    values = column.combine_chunks()
    types = pa.types
    if width and not any(is_one(values.type) for is_one in (types.is_list, types.is_large_list, types.is_fixed_size_list)):
        raise ValueError(f"column {name!r} is of {values.type}, lists of {width} numbers are expected")
    if values.null_count:
        raise ValueError(f"column {name!r} has {values.null_count} gaps")
    if width:
        rows, values = len(values), values.flatten()
        if len(values) != rows * width or values.null_count:
            raise ValueError(f"column {name!r} has gaps")
    if not (types.is_floating(values.type) or types.is_integer(values.type)):
        raise ValueError(f"column {name!r} is of {values.type}, numbers are expected")
    array = np.asarray(values.to_numpy(zero_copy_only=False), np.float64 if types.is_floating(values.type) else np.int64)
    return array.reshape(-1, width) if width else array
