"""What files hold, how tests damage them, and a disk that takes no more."""

import hashlib
import json
import resource
import zipfile
from contextlib import contextmanager

import numpy as np


def contents(root):
    """Every byte below a folder, by path."""
    return {path.relative_to(root): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def edit(path, change):
    """Other bytes, made of those of the file."""
    path.write_bytes(change(path.read_bytes()))


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def reseal(folder):
    """Make the checksums of a published folder agree with its files, as someone who tampers would."""
    names = json.loads((folder / "checksums.json").read_text())
    sums = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names if (folder / name).is_file()}
    (folder / "checksums.json").write_text(json.dumps(sums))


def edit_run(folder, **changes):
    """Other values of the configuration in a published folder's config.json, by dotted names, sealed again."""
    about = json.loads((folder / "config.json").read_text())
    for name, value in changes.items():
        *tables, last = name.split("__")
        table = about["run"]
        for key in tables:
            table = table[key]
        table[last] = value
    (folder / "config.json").write_text(json.dumps(about))
    reseal(folder)


def poke(path, dtype, place, value):
    """Another number at a place of a file of bare numbers."""
    array = np.fromfile(path, dtype)
    array[place] = value
    array.tofile(path)


def change_members(path, change, compression=zipfile.ZIP_STORED):
    """Write a zip again with members changed by name -> bytes, or left out where None."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()} | change
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            if content is not None:
                archive.writestr(name, content)


@contextmanager
def largest_file(size):
    """A stand-in for a full disk that needs no rights: writing beyond `size` bytes of a file fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
