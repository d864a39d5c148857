"""Zip files: names and sizes are known before anything is inflated, and no more is inflated than they say."""

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO

from hwm.safe_load.paths import is_file, reason, shown

MAX_MEMBERS = 100_000
_BYTES_OF_AN_ENTRY = 1024
_PIECE = 2**20
_END, _END64, _LOCATOR64 = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_FAULTS = (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, zlib.error, OSError, struct.error)


@contextmanager
def opened_zip(
    source: str | Path | bytes, *, where: str | Path = "", max_members: int = MAX_MEMBERS, remedy: str = "fetch or write it again"
) -> Iterator[zipfile.ZipFile]:
    """A zip file, or the bytes of one, to read members from with `read_member`; nothing is ever written to disk.

    where: begins messages, `source` by default.
    Raises ValueError, also for what goes wrong in the block: no whole zip, more than `max_members`, methods of
    compression other than deflate, a wrong checksum.
    """
    where = where or (source if isinstance(source, str | Path) else "zip")
    if isinstance(source, str | Path) and not is_file(Path(source)):
        raise ValueError(f"{shown(where)}: no such file")
    try:
        with io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb") as file:
            if _directory_size(file) > max_members * _BYTES_OF_AN_ENTRY:
                raise ValueError(f"{where}: lists more than {max_members} members; {remedy}")
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                if len(members) > max_members:
                    raise ValueError(f"{where}: lists {len(members)} members, at most {max_members} are read; {remedy}")
                for member in members:
                    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                        name = shown(member.filename)
                        raise ValueError(f"{where}: {name} is neither stored nor deflated; write it again so")
                yield archive
    except (*_FAULTS, UnicodeDecodeError) as error:
        raise ValueError(f"{where}: not a whole zip ({reason(error)}); {remedy}") from None


def read_member(
    archive: zipfile.ZipFile, name: str, max_bytes: int, *, where: str | Path = "", into: Any = None
) -> bytes:
    """The bytes of a member, their checksum compared.

    into: a writable buffer of exactly the member's size to read it into instead; nothing is then given back.
    Raises ValueError, before unpacking, where there are more than `max_bytes`; a member that is longer than its entry
    says is refused without unpacking the rest.
    """
    where = where or str(archive.filename)
    if name not in archive.NameToInfo:
        raise ValueError(f"{where}: {shown(name)} is missing; fetch it again")
    size = archive.getinfo(name).file_size
    if size > max_bytes:
        raise ValueError(f"{where}: {shown(name)} unpacks to {size} bytes, expected at most {max_bytes}")
    with archive.open(name) as member:
        # With a number of bytes: without one the library inflates all that there is and only then cuts it.
        content = b"" if into is not None else member.read(size)
        count = _fill(member, into) if into is not None else len(content)
        count += len(member.read(1))
    if count != size:
        raise ValueError(f"{where}: {shown(name)} has {count} bytes, its entry says {size}; fetch it again")
    return content


def _fill(member: IO[bytes], buffer: Any) -> int:
    """Bytes read into a buffer, piece by piece."""
    place = 0
    while piece := member.read(min(_PIECE, len(buffer) - place)):
        buffer[place : place + len(piece)] = piece
        place += len(piece)
    return place


def check_size(archive: zipfile.ZipFile, *, where: str | Path, max_bytes: int) -> None:
    """Raise ValueError unless all members together unpack to at most `max_bytes`."""
    if (total := sum(member.file_size for member in archive.infolist())) > max_bytes:
        raise ValueError(f"{where}: unpacks to {total} bytes, expected at most {max_bytes}; fetch it again")


def _directory_size(file: BinaryIO) -> int:
    """Bytes of the list of members, which is read as a whole when a zip is opened; 0 where it is not to be found."""
    end = file.seek(0, io.SEEK_END)
    start = max(0, end - 2**16 - 42)
    file.seek(start)
    tail = file.read()
    file.seek(0)
    place = tail.rfind(_END)
    if place < 0 or len(tail) < place + 22:
        return 0
    size = struct.unpack_from("<L", tail, place + 12)[0]
    if size == 0xFFFFFFFF and tail[max(0, place - 20) : place - 16] == _LOCATOR64:
        file.seek(min(struct.unpack_from("<Q", tail, place - 12)[0], end))
        record = file.read(56)
        file.seek(0)
        size = struct.unpack_from("<Q", record, 40)[0] if record[:4] == _END64 and len(record) == 56 else 0
    return size
