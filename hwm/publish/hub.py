"""Published folders on the Hugging Face hub, by "user/name@revision" (extra `hub`).

The "@" asks for the hub: a name without one is a path, so that a mistyped path never reaches the network.  A revision that is a
whole commit is taken from the cache where it lies there; a branch or tag is asked for again, and taken from the cache where the
hub cannot be reached; the commit is told.  What was fetched is a folder like any other, read with the same guards.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from hwm.publish.folder import CARD, CONFIG, ROBOT, SUMS, WEIGHTS, read_published
from hwm.safe_load.paths import hub_folder, inside, is_file, reason, shown
from hwm.safe_load.text import read_json

FETCHED = [
    *(CONFIG, WEIGHTS, ROBOT, SUMS, CARD, "text.safetensors", "unigram.json", "adapter/pytorch_lora_weights.safetensors"),
    *(f"tokenizer/{name}" for name in (CONFIG, WEIGHTS, SUMS)),
]
"""What is fetched of a repository: the files that published folders have, nothing that can run."""
_NAME = re.compile(r"[\w][\w.-]{0,95}/[\w][\w.-]{0,95}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def is_hub_name(name: str) -> bool:
    """Whether a name asks for the hub."""
    repository, at, revision = name.partition("@")
    return bool(at and _NAME.fullmatch(repository) and re.fullmatch(r"[\w][\w./-]{0,250}", revision) and ".." not in revision)


def fetch(name: str) -> Path:
    """The folder of a hub name, "user/name@revision", in the library's cache; its last name is the commit.

    Raises ValueError, in one line, without the extra, and for what is neither cached nor to be had.
    """
    hub, (repository, _, revision) = _library(), name.partition("@")

    def snapshot(**options: Any) -> Path:
        return _whole(Path(hub.snapshot_download(repository, revision=revision, allow_patterns=FETCHED, **options)))

    if _COMMIT.fullmatch(revision):
        with suppress(Exception):  # not there, or in part: the hub is asked
            return snapshot(local_files_only=True)
    try:
        return snapshot()  # the library itself takes what the cache has where the hub cannot be reached
    except Exception as error:  # of the network, the hub, the disk, a file in the cache
        fault = f"{name}: no whole published folder could be fetched, or is in the cache ({reason(error)})"
        raise ValueError(f"{fault}; check name and connection, or give a folder that lies here") from None


def _whole(folder: Path) -> Path:
    """The folder, if all files are there that its checksums list; the library takes one fetched in part for whole."""
    for name in read_json(folder / SUMS):
        if not is_file(path := inside(folder, name, source=folder / SUMS, links_within=hub_folder(folder))):
            raise ValueError(f"{path} is missing")
    return folder


def pinned(folder: Path, name: str) -> str:
    """The hub name of a fetched folder with the commit for its revision; other names as they are."""
    fetched = is_hub_name(name) and _COMMIT.fullmatch(folder.name)
    return f"{name.partition('@')[0]}@{folder.name}" if fetched else name


def contents(folder: Path) -> list[tuple[str, int]]:
    """What `push` sends of a published folder, by name and size; every file is compared with its checksum first."""
    read_published(folder)
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    sent = [name for name in names if Path(name).suffix in (".json", ".toml", ".safetensors") or name in (CARD, SUMS)]
    return [(name, (folder / name).stat().st_size) for name in sent]


def push(folder: Path, name: str, *, private: bool) -> str:
    """Send a published folder to the repository "user/name", which is made where there is none; returns where it is.

    Only the files of `contents` go.  Raises ValueError, in one line, where the hub refuses or cannot be reached.
    """
    expect_repository(name)
    hub, files = _library(), [file for file, _ in contents(folder)]
    try:
        interface = hub.HfApi()
        interface.create_repo(name, private=private, exist_ok=True)
        done = interface.upload_folder(repo_id=name, folder_path=folder, allow_patterns=files, commit_message="hwm push")
    except Exception as error:
        raise ValueError(f"{name}: cannot be sent ({reason(error)}); log in with `hf auth login` and try again") from None
    return f"{name}@{done.oid}"


def expect_repository(name: str) -> None:
    """Raise ValueError for what is no "user/name"."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{shown(name)}: is no name of a repository; write it as user/name")


def _library() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        remedy = "pip install 'humanoid-world-models[hub]'"
        raise ValueError(f"a hub name needs the package huggingface_hub: {remedy}") from None
    return huggingface_hub
