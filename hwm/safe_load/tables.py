"""Tables from elsewhere, of Parquet, CSV or .npz: columns of numbers, held against what they may be before they are built."""

import csv
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hwm.safe_load.archives import check_size, opened_zip, read_member
from hwm.safe_load.paths import is_file, reason, shown
from hwm.safe_load.text import read_bytes

AGAIN = "fetch or write the file again"
MAX_ROWS = 10_000_000
MAX_NUMBERS = 300_000_000
MAX_CSV_BYTES = 500_000_000
MAX_RATIO, FREE_BYTES = 200, 64_000_000
"""Of an .npz file: unpacked bytes to bytes of the file beyond those that any may give."""
POINTER = b"version https://git-lfs"
SEPARATORS = ",;\t"


@dataclass
class Table:
    """A table as it lies: float64 (rows,) by name, NaN for what is no number.

    words: of columns with a cell that is no number, its row and text.  ragged: rows with more or fewer cells than the header.
    first: by which number, counted in the file, its first row is known.
    """

    numbers: dict[str, np.ndarray] = field(default_factory=dict)
    words: dict[str, tuple[int, str]] = field(default_factory=dict)
    ragged: list[int] = field(default_factory=list)
    first: int = 0

    @property
    def num_rows(self) -> int:
        return max((len(column) for column in self.numbers.values()), default=0)


def read_table(path: Path) -> Table:
    """All columns of numbers of a .csv, .parquet or .npz file; one of vectors becomes a column for each entry, NAME_0 onwards.

    Raises ValueError, naming file, line or column and remedy, for what is no such table.
    """
    if not is_file(path):
        raise ValueError(f"{shown(path)}: no such file; fetch or write it")
    if not path.stat().st_size:
        raise ValueError(f"{path}: is empty; record or fetch it again")
    expect_content(path)
    table = {".csv": _read_csv, ".parquet": _read_parquet, ".npz": _read_npz}[path.suffix.lower()](path)
    counts = {len(column): name for name, column in table.numbers.items()}
    if len(counts) > 1:
        (one, a), (other, b), *_ = counts.items()
        raise ValueError(f"{path}: {shown(a)} has {one} rows, {shown(b)} has {other}; every column needs as many")
    return table


def _read_csv(path: Path) -> Table:
    try:
        text = read_bytes(path, max_bytes=MAX_CSV_BYTES, kind="table").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text (byte {error.start}); save it as CSV in UTF-8") from None
    try:
        separator = max(SEPARATORS, key=text.partition("\n")[0].count)
        header, *rows = [row for row in csv.reader(io.StringIO(text), delimiter=separator) if any(map(str.strip, row))] or [[]]
    except csv.Error as error:
        raise ValueError(f"{path}: no CSV table ({reason(error)}); {AGAIN}") from None
    names = [name.strip() for name in header]
    if not any(names):
        raise ValueError(f"{path}: is empty; record or fetch it again")
    if any(_number(name) is not None for name in names if name):
        raise ValueError(f"{path}: its first line holds numbers; put a line with the names of the columns before it")
    if (double := next((name for i, name in enumerate(names) if name and name in names[:i]), None)) is not None:
        raise ValueError(f"{path}: column {shown(double)!r} stands twice; give every column a name of its own")
    if len(rows) > MAX_ROWS:
        raise ValueError(f"{path}: has {len(rows)} rows, at most {MAX_ROWS} are read")
    table = Table(ragged=[i for i, row in enumerate(rows) if len(row) != len(names)], first=2)
    if len(table.ragged) > len(rows) // 2:
        at = table.ragged[0]
        fault = f"line {at + 2} has {len(rows[at])} cells, its first line {len(names)}"
        raise ValueError(f"{path}: {fault}; write numbers with a point (0.5), and as many as there are names")
    skipped = set(table.ragged)
    for place, name in enumerate(names):
        if not name:
            continue  # such as the numbers of rows that some writers put first
        cells = ["nan" if i in skipped else row[place].strip() or "nan" for i, row in enumerate(rows)]
        try:
            table.numbers[name] = np.array(cells, str).astype(np.float64)
        except ValueError:
            found = [_number(cell) for cell in cells]
            at = next(i for i, value in enumerate(found) if value is None)
            if re.fullmatch(r"[+-]?\d+,\d+", cells[at]):
                fault = f"line {at + 2}, column {shown(name)!r}: {cells[at]!r} has a decimal comma"
                raise ValueError(f"{path}: {fault}; write numbers with a point") from None
            table.words[name] = (at, cells[at])
            table.numbers[name] = np.array([np.nan if value is None else value for value in found])
    return table


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _read_parquet(path: Path) -> Table:
    pq, table = _parquet(), Table()
    from pyarrow import types

    try:
        with pq.ParquetFile(path) as file:
            about, schema = file.metadata, file.schema_arrow
            counts = {name: _num_values(about, name, schema.names) for name in schema.names}
            if about.num_rows > MAX_ROWS or sum(counts.values()) > MAX_NUMBERS:
                raise ValueError(f"holds {sum(counts.values())} numbers in {about.num_rows} rows, which is too many")
            for name in schema.names:
                kind = schema.field(name).type
                several = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
                one = kind.value_type if several else kind
                if not (types.is_floating(one) or types.is_integer(one) or types.is_boolean(one)):
                    table.words[name] = (0, str(kind))
                    table.numbers[name] = np.full(about.num_rows, np.nan)
                    continue
                values = file.read(columns=[name]).column(name).combine_chunks()
                if not several:
                    array = values.to_numpy(zero_copy_only=False)
                elif values.null_count or counts[name] % max(1, about.num_rows):
                    continue  # lists of several lengths are no states
                else:
                    array = values.flatten().to_numpy(zero_copy_only=False).reshape(about.num_rows, -1)
                _spread(table, name, array)
    except (ValueError, OSError, ArithmeticError, MemoryError, NotImplementedError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: {reason(error)}; {AGAIN}") from None
    return table


def _read_npz(path: Path) -> Table:
    table = Table()
    with opened_zip(path, max_members=4096) as archive:
        check_size(archive, where=path, max_bytes=max(FREE_BYTES, MAX_RATIO * path.stat().st_size))
        for member in archive.namelist():
            name, where = member.removesuffix(".npy"), f"{path}: {shown(member)}"
            content = read_member(archive, member, MAX_NUMBERS * 8, where=path)
            data = io.BytesIO(content)
            try:
                read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
                shape, fortran, kind = read[np.lib.format.read_magic(data)](data)
                if kind.kind not in "fiub" or not 1 <= len(shape) <= 2:
                    if len(shape) == 1:
                        table.words[name], table.numbers[name] = (0, str(kind)), np.full(shape[0], np.nan)
                    continue  # pictures, single numbers
                array = np.frombuffer(content, kind, offset=data.tell()).reshape(shape, order="F" if fortran else "C")
            except (ValueError, KeyError, MemoryError, TypeError, SyntaxError, OverflowError) as error:
                raise ValueError(f"{where}: not a whole .npy file ({reason(error)}); {AGAIN}") from None
            _spread(table, name, array)
    return table


def _spread(table: Table, name: str, array: np.ndarray) -> None:
    """Add a column, or one for every entry of vectors."""
    wide = array.reshape(len(array), -1) if array.ndim > 1 else array[:, None]
    for i in range(wide.shape[1]):
        table.numbers[name if array.ndim == 1 else f"{name}_{i}"] = np.array(wide[:, i], np.float64)


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
        remedy = "pip install 'humanoid-world-models[lerobot]'"
        raise ValueError(f"LeRobot datasets and other Parquet tables need the package pyarrow: {remedy}") from None
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
