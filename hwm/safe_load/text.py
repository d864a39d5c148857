"""Text, JSON and TOML from elsewhere: capped, of bounded depth, no name twice.  Imports nothing heavy."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hwm.safe_load.paths import is_file, reading, reason, shown

AGAIN = "fetch or write the file again"
MAX_JSON_BYTES = 4_000_000
MAX_TOML_BYTES = 1_000_000
MAX_DEPTH = 64
"""Nested tables and lists; a reader that calls itself for each of them must not run out of stack."""
MAX_VALUES = 1_000_000
"""Values of a JSON text; an empty list takes twenty times the memory of its two letters."""
MAX_BITS = 64
"""Of a whole number: what counts or names something has fewer, and larger ones cannot even be shown."""
MAX_DOTS = 2_000_000
"""Sum over the lines of a TOML file of the squared number of dots: what Python's reader takes for dotted names grows so."""


def read_bytes(path: str | Path, *, max_bytes: int, kind: str, remedy: str = AGAIN) -> bytes:
    """The content of a small file.  kind: what it should be, for messages, e.g. "config file".

    Raises ValueError, naming the file, where there is none or it is larger than `max_bytes`.
    """
    path = Path(path)
    if not is_file(path):
        raise ValueError(f"{shown(path)}: no such {kind}; {remedy}")
    with reading(path, remedy=remedy), path.open("rb") as file:
        content = file.read(max_bytes + 1)  # what a file says about its size may be wrong
    if len(content) > max_bytes:
        raise ValueError(f"{path}: larger than {max_bytes} bytes, no {kind}; {remedy}")
    return content


def read_text(path: str | Path, *, max_bytes: int, kind: str, remedy: str = AGAIN) -> str:
    """The same as text; raises ValueError also for what is no UTF-8."""
    try:
        return read_bytes(path, max_bytes=max_bytes, kind=kind, remedy=remedy).decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}), no {kind}; {remedy}") from None


def read_json(
    path: str | Path, *, max_bytes: int = MAX_JSON_BYTES, kind: str = "JSON file", remedy: str = AGAIN
) -> dict[str, Any]:
    """The JSON object in a file.  Raises ValueError, naming the file, for anything else; see `parse_json`."""
    value = parse_json(read_bytes(path, max_bytes=max_bytes, kind=kind, remedy=remedy), where=path, remedy=remedy)
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object, found {type(value).__name__}; {remedy}")
    return value


def parse_json(text: str | bytes, *, where: str | Path, remedy: str = AGAIN) -> Any:
    """The value of a JSON text that was read with a cap on its size.

    where: begins the message.  Raises ValueError for what is no JSON, holds what `_excess` finds, or gives a name twice.
    """
    try:
        letters = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
        if sum(letters.count(mark) for mark in (b",", b"[", b"{")) > MAX_VALUES:
            raise ValueError(f"more than {MAX_VALUES} values")
        value = json.loads(text, object_pairs_hook=_without_doubles)
        if fault := _excess(value):
            raise ValueError(fault)
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits are a ValueError as well
        raise ValueError(f"{where}: not valid JSON ({reason(error)}); {remedy}") from None
    return value


def expect_fields(table: Any, where: str | Path, *, remedy: str = AGAIN, **kinds: type | tuple[type, ...]) -> None:
    """Raise ValueError, naming the file and the field, unless a table from a file has all of these, each of its types.

    True and False count as numbers for those who ask for `bool` alone.
    """
    for name, kind in kinds.items():
        value = table.get(name, AGAIN) if isinstance(table, dict) else AGAIN
        wanted = kind if isinstance(kind, tuple) else (kind,)
        if value is AGAIN or not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
            found = "nothing" if value is AGAIN else shown(repr(value))
            expected = " or ".join(k.__name__.replace("NoneType", "null") for k in wanted)
            raise ValueError(f"{where}: expected {expected} under {name!r}, found {found}; {remedy}")


def read_json_lines(path: str | Path, *, max_line: int = 1_000_000) -> Iterator[dict[str, Any]]:
    """The objects of a file with one JSON object a line; lines that are none, torn by a kill, are left out.

    Lines are read one at a time; raises ValueError, naming the file, for one of more than `max_line` bytes.
    """
    path = Path(path)
    with reading(path), path.open("rb") as file:
        while line := file.readline(max_line + 1):
            if len(line) > max_line:
                raise ValueError(f"{path}: a line of more than {max_line} bytes, no file of records; remove or restore it")
            try:
                value = parse_json(line, where=path)
            except ValueError:
                continue
            if isinstance(value, dict):
                yield value


def read_toml(
    path: str | Path, *, max_bytes: int = MAX_TOML_BYTES, kind: str = "TOML file", remedy: str = AGAIN
) -> dict[str, Any]:
    """The table in a TOML file.

    Raises ValueError, naming the file, for a missing or large file and for what is no TOML or nested too deep.
    """
    text = read_text(path, max_bytes=max_bytes, kind=kind, remedy=remedy)
    # In the longest name of a table: the reader walks along it again for every line below.
    dots = max((line.count(".") for line in text.splitlines() if line.lstrip().startswith("[") and "=" not in line), default=0)
    try:
        if sum((line.count(".") + dots) ** 2 for line in text.splitlines()) > MAX_DOTS:
            raise ValueError("names of too many dotted parts")
        table = tomllib.loads(text)
        if fault := _excess(table):
            raise ValueError(fault)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not valid TOML: {reason(error)}; {remedy}") from None
    return table


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        seen: set[str] = set()
        name = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the name {shown(name)!r} stands twice")
    return table


def _excess(value: Any) -> str:
    """Tables and lists nested deeper than allowed, or a number of too many bits; does not call itself."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        inner = [node.values() if isinstance(node, dict) else node for node in level if isinstance(node, dict | list)]
        if any(type(node) is int and node.bit_length() > MAX_BITS for node in level):
            return f"a number of more than {MAX_BITS} bits"
        if not inner:
            return ""
        level = [child for children in inner for child in children]
    return f"nested deeper than {MAX_DEPTH}"
