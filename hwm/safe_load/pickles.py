"""Pickles read as inert data: a pickle is a program that calls what it names, so here every name stands for nothing.

Python's own unpickler walks the opcodes, in its form without C, whose memory a pickle cannot make grow at will; each
name that it asks for is answered with a hollow class that only keeps its arguments and its state.  So no object of the
pickle ever exists, no import takes place, and what a caller makes of the record is up to the caller.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hwm.safe_load.paths import shown

MAX_BYTES = 64 * 2**20
_Unpickler: Any = pickle._Unpickler  # type: ignore[attr-defined]


class Inert:
    """What a pickle would have made: the dotted name of class or function, the arguments and the state given to it.

    A name that is mentioned but not called stands as a subclass of this, not as an instance.
    """

    name = ""

    def __new__(cls, *args: Any, **_: Any) -> Inert:
        self = object.__new__(cls)
        self.args, self.state = args, None
        return self

    def __init__(self, *args: Any, **_: Any) -> None:
        self.args: tuple[Any, ...]
        self.state: Any

    def __setstate__(self, state: Any) -> None:
        self.state = state


def read_inert(content: bytes, *, allowed: Callable[[str], bool], where: str | Path) -> Any:
    """The value of a pickle: plain numbers, texts, tuples, lists, dicts, and `Inert` for all that has a name.

    allowed: whether the format that is read has this dotted name; references to storages become `Inert` "storage".
    Raises ValueError, naming `where`, for any other name and for what is no whole pickle.
    """
    if len(content) > MAX_BYTES:
        raise ValueError(f"{where}: {len(content)} bytes of pickle, at most {MAX_BYTES} are read; get it as safetensors")
    try:
        return _Reader(content, allowed).load()
    except _RefusedError as error:
        raise ValueError(
            f"{where}: refused: it asks for the Python object {error}, so opening it could run code; "
            "get the weights as safetensors or from a source you trust"
        ) from None
    except Exception as error:  # a hostile file can raise anything
        reason = shown(str(error).splitlines()[0] if str(error) else type(error).__name__)
        raise ValueError(f"{where}: not a whole pickle ({reason}); fetch it again") from None


class _RefusedError(Exception):
    pass


class _Reader(_Unpickler):
    def __init__(self, content: bytes, allowed: Callable[[str], bool]) -> None:
        super().__init__(io.BytesIO(content))
        self._allowed = allowed
        self._known: dict[str, type] = {}

    def find_class(self, module: str, name: str) -> type:
        full = f"{module}.{name}"
        if full not in self._known:
            if not self._allowed(full):
                raise _RefusedError(shown(full))
            # Filled item by item, so it has to be a dict; everything else needs no behaviour.
            base = dict if full == "collections.OrderedDict" else Inert
            self._known[full] = type(base.__name__, (base,), {"name": full})
        return self._known[full]

    def persistent_load(self, reference: Any) -> Inert:
        return Inert(reference)

    def get_extension(self, code: int) -> None:
        raise _RefusedError(f"number {code} of copyreg")
