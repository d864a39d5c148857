"""Damage of one file, drawn from a seed: of its bytes, of what stands in it, and of what it is in the folder.

Text is also changed where it means something (keys, types, numbers at their ends), and so are the headers of safetensors,
.npy and zips; what the change was is told in words, so that a failure can be repeated and read.
"""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

ENDS = [0, -1, 1, 2, 3, 7, 255, 256, 4096, 65537, 10**9, 2**31, 2**32 + 1, 2**63, -(2**63), 10**30, 10**400, 0.5, -0.5, 1e-30,
        1e308, -1e308, float("nan"), float("inf"), float("-inf")]  # fmt: skip
OTHERS = [True, False, None, "", "x", "0", "nan", "../../../etc/passwd", "/", "a\0b", "\ud800", "😀", "x" * 10_000, [], {}, [[]],
          [None], [1, 2, 3], [0.5] * 25, ["a"] * 25, {"a": {}}, {"": 1}, [[1] * 3] * 3, list(range(10_000))]  # fmt: skip
TOML_ENDS = ["0", "-1", "1", "2", "65537", "2147483648", "9223372036854775807", "1" + "0" * 30, "0.5", "1e308", "nan", "inf",
             "-inf", "true", '""', '"x"', '"../x"', '"\\u0000"', '"\\uD800"', "[]", "{}", "[[]]", "[1, 2, 3]", '["a"]', "",
             "1979-05-27", "07:32:00", "{a = {b = 1}}", "0x7fffffffffffffff", "1_000_000_000", f"'{'x' * 5000}'"]  # fmt: skip


def damage(path: Path, chance: Random, others: list[Path]) -> str:
    """Damage the file at `path` in some way; what was done, in words.  others: files of the same folder to swap it with."""
    # Several at once, seldom: the first hides the others.
    return "; ".join(_damage(path, chance, others) for _ in range(chance.choice([1, 1, 1, 2, 3])))


def _damage(path: Path, chance: Random, others: list[Path]) -> str:
    if not path.is_file():
        return "not there"
    whole = path.read_bytes()
    of_kind = {".json": of_json, ".jsonl": of_lines, ".toml": of_toml, ".safetensors": of_safetensors, ".npz": of_zip}
    of_kind |= {".npy": of_npy, ".zip": of_zip, ".pt": of_zip, ".pth": of_zip, ".jit": of_zip, "": of_json}
    in_place = of_kind.get(path.suffix)
    draw = chance.random()
    if draw < 0.06:
        return of_place(path, chance, others)
    if in_place is not None and draw < 0.6:
        try:
            said, content = in_place(whole, chance)
        except Exception:  # damaged before, it is not of its kind any more
            said, content = of_bytes(whole, chance)
    else:
        said, content = of_bytes(whole, chance)
    path.write_bytes(content)
    return said


def of_place(path: Path, chance: Random, others: list[Path]) -> str:
    """The name leads to something else: nothing, another file, a folder, a link in a circle, a pipe."""
    what = chance.choice(["deleted", "swapped", "copied over", "a folder", "a link to itself", "a link to nothing", "a pipe"])
    other = chance.choice(others)
    if what == "swapped":
        mine = path.read_bytes()
        path.write_bytes(other.read_bytes())
        other.write_bytes(mine)
        return f"swapped with {other.name}"
    if what == "copied over":
        path.write_bytes(other.read_bytes())
        return f"is a copy of {other.name}"
    path.unlink()
    if what == "a folder":
        path.mkdir()
    elif what == "a pipe":
        os.mkfifo(path)
    elif what != "deleted":
        path.symlink_to(path.name if "itself" in what else "nowhere")
    return what


def of_bytes(whole: bytes, chance: Random) -> tuple[str, bytes]:
    """Bits flipped, bytes cut, put in, zeroed, doubled, or another encoding."""
    size = len(whole)
    place, length = chance.randrange(size + 1), chance.choice([1, 2, 4, 8, 64, 4096])
    noise = chance.randbytes(length)
    kind = chance.choice(["flip"] * 4 + "cut extend zeros noise insert remove double empty utf-16 case".split())
    if kind == "flip" and size:
        content = bytearray(whole)
        for _ in range(chance.choice([1, 1, 1, 8])):
            content[chance.randrange(size)] ^= 1 << chance.randrange(8)
        return "bits flipped", bytes(content)
    made = {
        "cut": whole[:place], "extend": whole + noise, "zeros": whole[:place] + bytes(length) + whole[place + length :],
        "noise": whole[:place] + noise + whole[place + length :], "insert": whole[:place] + noise + whole[place:],
        "remove": whole[:place] + whole[place + length :], "double": whole + whole, "empty": b"",
        "utf-16": whole.decode("latin-1").encode("utf-16"), "case": whole.swapcase(), "flip": b"\0",
    }  # fmt: skip
    return f"{kind} at {place}, {length} bytes", made[kind]


def of_json(whole: bytes, chance: Random) -> tuple[str, bytes]:
    """JSON with another structure."""
    said, value = of_value(json.loads(whole), chance)
    return said, json.dumps(value).encode()


def of_lines(whole: bytes, chance: Random) -> tuple[str, bytes]:
    """One JSON object a line, with another structure in one of them."""
    lines = whole.splitlines(keepends=True)
    number = chance.randrange(len(lines))
    said, lines[number] = of_json(lines[number], chance)
    return f"line {number}: {said}", b"".join(line.rstrip(b"\n") + b"\n" for line in lines)


def of_value(value: Any, chance: Random) -> tuple[str, Any]:
    """A value with one of its inner values removed, doubled, renamed, nested or replaced by one of another kind or size."""
    places: list[tuple[Any, Any]] = [(None, None)]

    def walk(node: Any) -> None:
        for key, child in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
            places.append((node, key))
            walk(child)

    walk(value)
    node, key = chance.choice(places[1:] or places)
    other = chance.choice(ENDS) if chance.random() < 0.5 else chance.choice(OTHERS)
    if node is None or chance.random() < 0.02:
        return f"all is {str(other)[:40]!r}", other
    kind = chance.choice(["remove", "rename", "replace", "replace", "replace", "nest", "deep", "text", "more"])
    old = node[key]
    if kind == "remove":
        del node[key]
    elif kind == "rename" and isinstance(node, dict):
        node[chance.choice(["", "x", key[:-1], key.upper(), "\0", "__class__"])] = node.pop(key)
    elif kind == "nest":
        node[key] = chance.choice([[old], {"x": old}, [old, old]])
    elif kind == "deep":
        for _ in range(chance.choice([10, 70, 900])):
            old = [old] if chance.random() < 0.9 else {"a": old}
        node[key] = old
    elif kind == "text":
        node[key] = str(old)
    elif kind == "more" and isinstance(node, dict):
        node["more"] = other
    else:
        is_number = isinstance(old, int | float) and not isinstance(old, bool)
        node[key] = chance.choice([-old, old + 1, old - 1, 2 * old, 1000 * old]) if is_number and chance.random() < 0.5 else other
        return f"{key} becomes {str(node[key])[:40]!r}", value
    return f"{kind} {key}", value


def of_toml(whole: bytes, chance: Random) -> tuple[str, bytes]:
    """TOML with a line left out, doubled, renamed, or with another value."""
    lines = whole.decode().splitlines()
    number = chance.randrange(len(lines))
    line = lines[number]
    kind = chance.choice(["value"] * 6 + ["remove", "double", "rename", "table", "swap"])
    key, sign, _ = line.partition("=")
    if kind == "value" and sign:
        lines[number] = f"{key}= {chance.choice(TOML_ENDS)}"
    elif kind == "remove":
        del lines[number]
    elif kind == "double":
        lines.insert(number, line)
    elif kind == "rename":
        lines[number] = chance.choice(["x", "", '""', "a.b.c"]) + line
    elif kind == "table":
        lines.insert(number, chance.choice(["[x]", "[[x]]", "[model]", "[model.x]", "[", "]", "[" + ".".join("a" * 90) + "]"]))
    else:
        other = chance.randrange(len(lines))
        lines[number], lines[other] = lines[other], line
    return f"line {number + 1}, {kind}: {lines[min(number, len(lines) - 1)][:60] if lines else ''}", "\n".join(lines).encode()


def of_safetensors(whole: bytes, chance: Random) -> tuple[str, bytes]:
    """Another header before the same numbers, of the right length or not."""
    size = int.from_bytes(whole[:8], "little")
    said, header = of_json(whole[8 : 8 + size], chance)
    length = len(header) if chance.random() < 0.9 else chance.choice([0, 1, size, 2**31, 2**63, 2**64 - 1])
    return f"header: {said}", length.to_bytes(8, "little") + header + whole[8 + size :]


def of_npy(whole: bytes, chance: Random) -> tuple[str, bytes]:
    """Another header of the same length."""
    size = int.from_bytes(whole[8:10], "little")
    header = whole[10 : 10 + size].decode("latin-1")
    swaps = [("<f4", "<f8"), ("<i4", "|O8"), ("False", "True"), ("(", "(-"), ("(", "(99999999999, "), ("{", "["), ("sh", "s")]
    old, new = chance.choice(swaps)
    header = header.replace(old, new).rstrip().ljust(size - 1)[: size - 1] + "\n"
    return f"header: {old} becomes {new}", whole[:10] + header.encode("latin-1") + whole[10 + size :]


def of_zip(whole: bytes, chance: Random) -> tuple[str, bytes]:
    """The same members again with one damaged, left out, doubled or renamed; checksums fit."""
    with zipfile.ZipFile(io.BytesIO(whole)) as old:
        members = [(info, old.read(info)) for info in old.infolist()]
    number = chance.randrange(len(members))
    info, content = members[number]
    inner: dict[str, Callable[[bytes, Random], tuple[str, bytes]]] = {".npy": of_npy, ".npz": of_zip, ".txt": of_json}
    kind = chance.choice(["damage"] * 6 + ["remove", "double", "rename", "deflate", "entry"])
    said, name, method = kind, info.filename, zipfile.ZIP_STORED
    if kind == "damage":
        change = inner.get(Path(name).suffix, of_bytes) if chance.random() < 0.6 else of_bytes
        try:
            said, content = change(content, chance)
        except (ValueError, zipfile.BadZipFile):
            said, content = of_bytes(content, chance)
    elif kind == "rename":
        name = chance.choice(["../" + name, "/" + name, name.upper(), "x" * 5000, "a\nb", name + "/"])
    elif kind == "deflate":
        method = chance.choice([zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    members[number : number + 1] = [] if kind == "remove" else [(name, content)] * (1 + (kind == "double"))  # type: ignore[list-item]
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as new:
        for member, data in members:
            entry = member if isinstance(member, str) else member.filename
            fixed = zipfile.ZipInfo(entry)
            fixed.compress_type = method
            new.writestr(fixed, data)
    content = made.getvalue()
    if kind == "entry":  # a number of the list of members at the end, whose checksum nobody keeps
        starts = [match.start() for match in re.finditer(b"PK\x01\x02|PK\x05\x06", content)]
        place = chance.choice(starts) + chance.randrange(4, 22)
        content = content[:place] + chance.randbytes(2) + content[place + 2 :]
    return f"member {info.filename}: {said}", content
