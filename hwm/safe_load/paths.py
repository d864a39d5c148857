"""Paths: files that are there, and names out of a file's content, which must stay inside a folder."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

MAX_NAME_BYTES = 1024
MAX_PART_BYTES = 255
MAX_LINE = 2000
"""Characters of what is told of an error."""


def is_file(path: Path) -> bool:
    """Whether there is such a file; False, not an error, for a path that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, or a NUL in it
        return False


def is_dir(path: Path) -> bool:
    """Whether there is such a folder; False, not an error, for a path that none can have."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def shown(text: object, *, length: int = 120) -> str:
    """Text of a file in a message: on one line, at most `length` characters, nothing that a terminal would obey."""
    line = str(text)
    line = line if len(line) <= length else f"{line[: length - 3]}..."
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)


def inside(root: str | Path, name: object, *, source: str | Path, links_within: Path | None = None) -> Path:
    """The path of `name`, a relative path with "/" that stands in the file `source`, inside the folder `root`.

    links_within: a wider folder that symbolic links may lead to, where its layout has such links; `hub_folder` finds one.

    Raises ValueError, naming `source`, for anything that leaves the folder (absolute, "..", a symbolic link out of it),
    for no text, NUL and other control characters, backslashes and overlong names, and where two names of the folder
    differ from it in upper and lower case only, so that it would mean another file elsewhere.
    """
    root = Path(root)
    fault = _fault(name)
    if not fault:
        path = root.joinpath(*PurePosixPath(str(name)).parts)
        try:
            if not path.resolve().is_relative_to((links_within or root).resolve()):
                fault = "leads out of the folder"
            elif not path.exists() and (twin := _other_case(path)):
                fault = f"is {twin!r} in the folder, which differs in upper and lower case"
        except (OSError, RuntimeError, ValueError) as error:
            fault = f"cannot be resolved ({type(error).__name__})"
    if fault:
        raise ValueError(f"{source}: names the file {shown(name)!r}, which {fault}; fetch the file from a source you trust")
    return path


def hub_folder(folder: Path) -> Path:
    """Of a folder in the hub's cache the one of its model, in which snapshots are links to blobs; else the folder itself."""
    for place in folder.absolute().parents:
        if place.name == "snapshots" and place.parent.name.startswith("models--") and (place.parent / "blobs").is_dir():
            return place.parent
    return folder


@contextmanager
def reading(path: str | Path, *, remedy: str = "") -> Iterator[None]:
    """Make of what the system says in the block, which looks at a file or reads it, a ValueError of one line that names it."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # a circle of links is the latter to `resolve`
        raise ValueError(f"{shown(path)}: cannot be read ({reason(error)})" + (f"; {remedy}" if remedy else "")) from None


def reason(error: BaseException) -> str:
    """The first line of what an error says, or else its kind, for a message."""
    if isinstance(error, RecursionError):
        return "nested too deep"
    if isinstance(error, OSError) and error.errno == errno.EMFILE:
        return "too many open files: allow this process more with `ulimit -n`"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return shown(str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__)


def one_line(error: BaseException) -> str:
    """All that an error says, on one line that a terminal can show; one of the system with the file that it is about."""
    said = " ".join(str(error).split())
    if isinstance(error, OSError):
        said = (f"{error.filename}: " if error.filename else "") + reason(error)
    return shown(said, length=MAX_LINE)


def _fault(name: object) -> str:
    if not isinstance(name, str) or not name:
        return "is no name"
    if any(not c.isprintable() for c in name) or "\\" in name:
        return "holds a character that file names here do not have"
    try:
        sizes = [len(part.encode()) for part in name.split("/")]
    except UnicodeEncodeError:
        return "holds a character that file names here do not have"
    if len(name.encode()) > MAX_NAME_BYTES or max(sizes) > MAX_PART_BYTES:
        return "is too long"
    if name.startswith("/") or ".." in name.split("/") or name[1:2] == ":":
        return "leads out of the folder"
    return ""


def _other_case(path: Path) -> str:
    """The name in the folder that equals this one but for the case of letters, or nothing."""
    if not path.parent.is_dir():
        return ""
    return next((other.name for other in path.parent.iterdir() if other.name.casefold() == path.name.casefold()), "")
