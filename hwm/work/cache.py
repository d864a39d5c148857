"""The one folder for what can always be made again: the user's cache, or a temporary one where there is none to write in."""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

TEMPORARY = "hwm-cache-"
"""How the name of a temporary one begins."""


def cache_folder() -> Path:
    """A folder of this user's that can be written: $XDG_CACHE_HOME or ~/.cache.

    Where that cannot be (a container's user has no home, or a read-only one), it is a temporary folder, removed at the end
    of the process; this is said once, and processes started from here share it, by the environment.
    """
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
        folder.mkdir(parents=True, exist_ok=True)
        why = "" if os.access(folder, os.W_OK | os.X_OK) else f"{folder} cannot be written"
    except OSError as error:
        why = f"{error.filename}: {error.strerror}"
    except RuntimeError:
        why = "this user has no home"
    if why:
        # Of a name that nobody can foretell: what lies there is run.
        folder = Path(tempfile.mkdtemp(prefix=TEMPORARY))
        os.environ["XDG_CACHE_HOME"] = str(folder)
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        print(f"{why}: caches are kept in {folder} until the end; set XDG_CACHE_HOME to keep them", file=sys.stderr, flush=True)
    return folder
