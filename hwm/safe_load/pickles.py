"""Pickles read without being run: of the language that a pickle is, the few words that a file of weights needs.

A pickle is a program for a machine with a stack.  This machine knows numbers, text and plain containers.  It imports
nothing and calls nothing: a tensor comes out as a `View` of numbers that lie elsewhere in the file, held against their
count, and what else a file asks to be called as an `Other`, its name.  Every step takes at least a byte from the file and
a bounded time, and there are at most `MAX_STEPS`.
"""

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from hwm.safe_load.paths import reason, shown

MAX_BYTES = 32 * 2**20
MAX_STEPS = 600_000
"""About forty are a tensor."""
MAX_DIMS = 16
MAX_KEY = 2**60
"""Numbers up to here are found quickly in a dict, however they are chosen."""
MAX_NAME = 256


@dataclass(frozen=True, eq=False)
class Storage:
    """So many numbers of a type, which the file keeps under a key."""

    dtype: torch.dtype
    key: str
    count: int

    @property
    def nbytes(self) -> int:
        return self.count * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class View:
    """A tensor: where in a storage its numbers lie."""

    storage: Storage
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Other:
    """What a Python object of that name would be: not made, but known to have been asked for."""

    name: str


class UnknownNameError(ValueError):
    """The pickle asks for a Python object that no file of weights needs."""


def parse_pickle(content: bytes, start: int = 0, *, any_name: bool = False) -> tuple[Any, int, dict[str, Storage]]:
    """The value of a pickle, the place behind it, and all storages that it names, by key.

    any_name: let every name stand for itself, to look at the pickle of a program; else only those of `NAMES`.
    Raises UnknownNameError with another name, and ValueError, both of one line, for what is no such pickle.
    """
    machine = _Machine(content, start, any_name)
    try:
        return machine.run(), machine.place, machine.storages
    except UnknownNameError:
        raise
    except (ArithmeticError, LookupError, TypeError, ValueError, struct.error) as error:
        raise ValueError(f"no pickle of tensors: {reason(error)} at byte {machine.place}") from None


class _Machine:
    def __init__(self, content: bytes, place: int, any_name: bool) -> None:
        self.content, self.place, self.any_name = content, place, any_name
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def run(self) -> Any:
        for _ in range(MAX_STEPS):
            word = self.take(1)[0]
            if word == _STOP:
                return self.stack.pop()
            if word not in _WORDS:
                raise ValueError(f"an instruction {word} that tensors do not need")
            _WORDS[word](self)
        raise ValueError(f"more than {MAX_STEPS} instructions")

    def take(self, count: int) -> bytes:
        end = self.place + count
        if count < 0 or end > len(self.content):
            raise ValueError("it is cut off")
        self.place, found = end, self.content[self.place : end]
        return found

    def number(self, form: str) -> int:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> str:
        end = self.content.find(b"\n", self.place, self.place + MAX_NAME)
        if end < 0:
            raise ValueError("a name that does not end")
        return self.take(end + 1 - self.place)[:-1].decode()

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def popped_to_mark(self) -> list[Any]:
        found, self.stack = self.stack, self.marked.pop()
        return found

    def mark(self) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def gather(self, count: int) -> None:
        """The last values become a tuple."""
        first = len(self.stack) - count
        if first < 0:
            raise ValueError("a tuple of more than there is")
        self.stack[first:] = [tuple(self.stack[first:])]

    def append(self, values: list[Any]) -> None:
        """To the list on top; what some other object would do with them is left aside."""
        if isinstance(target := self.stack[-1], list):
            target.extend(values)
        elif not isinstance(target, Other):
            raise ValueError(f"items for a {type(target).__name__}")

    def store(self, pairs: list[Any]) -> None:
        """Keys and values in turn into the dict on top."""
        target, keys = self.stack[-1], pairs[::2]
        if not isinstance(target, dict | Other) or len(pairs) % 2:
            raise ValueError(f"entries for a {type(target).__name__}")
        # Only what is found in a time that the file does not choose: a tuple of tuples of tuples is not.
        if bad := [key for key in keys if type(key) is not str and (type(key) is not int or abs(key) > MAX_KEY)]:
            raise ValueError(f"a key that is a {type(bad[0]).__name__}, expected text or a number")
        if isinstance(target, dict):
            target.update(zip(keys, pairs[1::2]))

    def store_one(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.store([key, value])

    def name(self) -> None:
        name = f"{self.line()}.{self.line()}"
        if not self.any_name and name not in NAMES:
            raise UnknownNameError(name)
        self.push(Other(name))

    def refer(self) -> None:
        """A storage, by what torch.save writes in its place."""
        found = self.stack.pop()
        if self.any_name:
            return self.push(Other("storage"))
        if not isinstance(found, tuple) or len(found) not in (5, 6) or found[0] != "storage" or found[5:] not in ((), (None,)):
            raise ValueError("a storage of a kind that is no longer written; open it with PyTorch and save it as safetensors")
        kind, key, count = found[1], found[2], found[4]
        dtype = STORAGES.get(kind.name.rpartition(".")[2]) if isinstance(kind, Other) else None
        if dtype is None or type(key) is not str or type(count) is not int or not 0 <= count < MAX_KEY:
            raise ValueError("a storage without type, key and count")
        storage = Storage(dtype, key, count)
        if self.storages.setdefault(key, storage).nbytes != storage.nbytes:
            raise ValueError(f"storage {shown(key)} of two sizes")
        self.push(storage)

    def call(self) -> None:
        """What a call gives, without the call."""
        args, what = self.stack.pop(), self.stack.pop()
        if not isinstance(what, Other) or not isinstance(args, tuple):
            raise ValueError(f"a call of a {type(what).__name__}")
        self.push(what if self.any_name else _called(what.name, args))

    def set_state(self) -> None:
        """Attributes, which plain containers do without."""
        self.stack.pop()
        if not isinstance(self.stack[-1], dict | Other):
            raise ValueError(f"attributes for a {type(self.stack[-1]).__name__}")


def _called(name: str, args: tuple[Any, ...]) -> Any:
    part = name.rpartition(".")[2]
    if part in ("_rebuild_tensor", "_rebuild_tensor_v2") and len(args) in (4, 6, 7):
        return _view(*args[:4], metadata=args[6:])
    if part == "_rebuild_tensor_v3" and len(args) in (7, 8) and isinstance(args[6], Other):
        return _view(*args[:4], dtype=_DTYPES.get(args[6].name), metadata=args[7:])
    if part in ("_rebuild_parameter", "_rebuild_parameter_with_state") and isinstance(args[0], View):
        return args[0]
    if part == "_rebuild_from_type_v2" and len(args) == 4 and isinstance(args[0], Other) and isinstance(args[2], tuple):
        return _called(args[0].name, args[2]) if args[0].name != name else Other(name)
    if part == "OrderedDict" and not args:
        return {}
    if part == "Size" and len(args) == 1 and isinstance(args[0], tuple):
        return args[0]
    return Other(name)


def _view(
    storage: Any, offset: Any, shape: Any, strides: Any, *, dtype: torch.dtype | None = None, metadata: tuple[Any, ...] = ()
) -> View:
    """A tensor that lies inside its storage and has no more numbers than that."""
    sound = isinstance(storage, Storage) and isinstance(shape, tuple) and isinstance(strides, tuple)
    if not sound or len(shape) != len(strides) or len(shape) > MAX_DIMS:
        raise ValueError("a tensor without storage and shape")
    if not all(type(n) is int and 0 <= n < 2**48 for n in (offset, *shape, *strides)):
        raise ValueError("a tensor of impossible sizes")
    if any(metadata):
        raise ValueError("a tensor that is kept conjugated or negated; save plain copies")
    if dtype is None:
        dtype = storage.dtype
    room = storage.nbytes // dtype.itemsize
    count, last = math.prod(shape), offset + sum((n - 1) * stride for n, stride in zip(shape, strides))
    if count > room or (count and last >= room) or math.prod(n or 1 for n in shape) > 2**48:
        raise ValueError(f"a tensor {shape} that asks for more than the {room} numbers stored for it; save contiguous copies")
    return View(storage, dtype, offset, shape, strides)


_DTYPES = {f"torch.{name}": getattr(torch, name) for name in (
    "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64",
    "bool", "complex64", "complex128", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu",
)}  # fmt: skip
STORAGES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32, "ShortStorage": torch.int16,
    "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool, "UntypedStorage": torch.uint8,
    "ComplexFloatStorage": torch.complex64, "ComplexDoubleStorage": torch.complex128,
}
"""Types of numbers by the name of the class of their storage."""
NAMES = frozenset([
    *_DTYPES, *(f"{place}.{name}" for place in ("torch", "torch.cuda", "torch.storage") for name in STORAGES),
    *(f"torch._utils.{name}" for name in (
        "_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_parameter", "_rebuild_parameter_with_state",
        "_rebuild_sparse_tensor", "_rebuild_qtensor", "_rebuild_nested_tensor", "_rebuild_meta_tensor_no_storage",
    )),
    "torch._tensor._rebuild_from_type_v2", "torch.Tensor", "torch.nn.parameter.Parameter", "torch.Size", "torch.device",
    "torch.serialization._get_layout", "torch.per_tensor_affine", "torch.per_channel_affine",
    "collections.OrderedDict", "collections.Counter", "_codecs.encode",
    *(f"{place}.{name}" for place in ("builtins", "__builtin__") for name in ("set", "bytearray", "complex")),
])  # fmt: skip
"""What files of tensors ask for; of all these nothing is imported."""

_STOP = ord(".")
_WORDS: dict[int, Callable[[_Machine], Any]] = {word[0]: does for word, does in {
    b"\x80": lambda m: m.take(1),  # protocol
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"J": lambda m: m.push(m.number("<i")),
    b"K": lambda m: m.push(m.number("<B")),
    b"M": lambda m: m.push(m.number("<H")),
    b"\x8a": lambda m: m.push(int.from_bytes(m.take(m.number("<B")), "little", signed=True)),
    b"G": lambda m: m.push(m.number(">d")),
    b"X": lambda m: m.push(m.take(m.number("<I")).decode("utf-8", "surrogatepass")),
    b"U": lambda m: m.push(m.take(m.number("<B")).decode("latin-1")),
    b")": lambda m: m.push(()),
    b"]": lambda m: m.push([]),
    b"}": lambda m: m.push({}),
    b"\x8f": lambda m: m.push(Other("builtins.set")),
    b"(": lambda m: m.mark(),
    b"t": lambda m: m.push(tuple(m.popped_to_mark())),
    b"\x85": lambda m: m.gather(1),
    b"\x86": lambda m: m.gather(2),
    b"\x87": lambda m: m.gather(3),
    b"a": lambda m: m.append([m.stack.pop()]),
    b"e": lambda m: m.append(m.popped_to_mark()),
    b"\x90": lambda m: m.append(m.popped_to_mark()),  # to a set
    b"s": lambda m: m.store_one(),
    b"u": lambda m: m.store(m.popped_to_mark()),
    b"q": lambda m: m.memo.__setitem__(m.number("<B"), m.stack[-1]),
    b"r": lambda m: m.memo.__setitem__(m.number("<I"), m.stack[-1]),
    b"h": lambda m: m.push(m.memo[m.number("<B")]),
    b"j": lambda m: m.push(m.memo[m.number("<I")]),
    b"c": lambda m: m.name(),
    b"Q": lambda m: m.refer(),
    b"R": lambda m: m.call(),
    b"\x81": lambda m: m.call(),  # of a class
    b"b": lambda m: m.set_state(),
}.items()}  # fmt: skip
"""What to do at each instruction of pickle's second protocol."""
