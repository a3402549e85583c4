"""The program in PyTorch's data.pkl, read as data: nothing is imported, called or created by it.

A pickle is a program for a stack machine. Files of weights use a few of its instructions to build
one dictionary of tensors; those are interpreted here (`_STEPS`), where a tensor is a note of which
bytes it is, and the only names it may mention are those in `_CALLS` and `DTYPES`. Whatever else a
file holds, such as a name of some function to call, ends reading with a `ProgramFault`.

Time and memory are bounded by the length of the program: every instruction takes constant time
and adds at most what it read.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

DTYPES = {
    "torch FloatStorage": "F32",
    "torch HalfStorage": "F16",
    "torch BFloat16Storage": "BF16",
    "torch DoubleStorage": "F64",
    "torch LongStorage": "I64",
    "torch IntStorage": "I32",
    "torch ShortStorage": "I16",
    "torch CharStorage": "I8",
    "torch ByteStorage": "U8",
    "torch BoolStorage": "BOOL",
}
"""Names of storages and of their element types."""

MAX_INT_BYTES = 8


class ProgramFault(ValueError):
    """The program does something that a file of weights does not."""


class Name(NamedTuple):
    """Something that the program mentions: a module and a name in it."""

    name: str


class Storage(NamedTuple):
    """A member of the archive that holds `length` elements."""

    dtype: str
    key: str
    length: int


class TensorNote(NamedTuple):
    """Which elements of a storage a tensor is."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Mark:
    """What MARK puts on the stack."""


_MARK = _Mark()


def read_program(program: bytes) -> dict[str, TensorNote]:
    """The dictionary that the program builds. Raises `ProgramFault`."""
    machine = _Machine(program)
    try:
        result = machine.run()
    except (IndexError, struct.error):
        raise ProgramFault("its pickle is cut off or damaged") from None
    if not isinstance(result, dict):
        raise ProgramFault("its pickle holds no dictionary of tensors")
    for key, value in result.items():
        if not isinstance(key, str) or not isinstance(value, TensorNote):
            raise ProgramFault(f"its pickle holds {key!r}, which is no tensor")
    return result


class _Machine:
    """Stack, memory and place of one program."""

    def __init__(self, program: bytes) -> None:
        self._program = program
        self._at = 0
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        while True:
            code = self._program[self._at]
            self._at += 1
            if code == ord("."):
                return self._stack.pop()
            step = _STEPS.get(code)
            if step is None:
                raise ProgramFault(f"its pickle has the instruction {code:#04x}, which is refused")
            step(self)

    def take(self, count: int) -> bytes:
        found = self._program[self._at : self._at + count]
        if len(found) != count:
            raise ProgramFault("its pickle is cut off or damaged")
        self._at += count
        return found

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> str:
        end = self._program.find(b"\n", self._at, self._at + 256)
        if end < 0:
            raise ProgramFault("its pickle is cut off or damaged")
        found = self._program[self._at : end].decode("latin-1")
        self._at = end + 1
        return found

    def text(self, form: str) -> None:
        try:
            self.push(self.take(self.number(form)).decode())
        except UnicodeDecodeError:
            raise ProgramFault("its pickle has a text that is not UTF-8") from None

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def pop(self) -> Any:
        value = self._stack.pop()
        if value is _MARK:
            raise ProgramFault("its pickle is cut off or damaged")
        return value

    def since_mark(self) -> list[Any]:
        found = []
        while (value := self._stack.pop()) is not _MARK:
            found.append(value)
        found.reverse()
        return found

    def long(self) -> None:
        size = self.number("<B")
        if size > MAX_INT_BYTES:
            raise ProgramFault("its pickle has a number of more than 64 bits")
        self.push(int.from_bytes(self.take(size), "little", signed=True))

    def mention(self) -> None:
        name = f"{self.line()} {self.line()}"
        if name not in DTYPES and name not in _CALLS:
            shown = name.replace(" ", ".")
            raise ProgramFault(f"its pickle mentions {shown!r}, which no file of weights needs")
        self.push(Name(name))

    def call(self) -> None:
        arguments, called = self.pop(), self.pop()
        if not isinstance(called, Name) or called.name not in _CALLS:
            raise ProgramFault("its pickle calls something that is no function")
        if not isinstance(arguments, tuple):
            raise ProgramFault("its pickle is cut off or damaged")
        self.push(_CALLS[called.name](arguments))

    def storage(self) -> None:
        """A persistent id: ("storage", type, key, device, count)."""
        match self.pop():
            case ("storage", Name(name), str(key), str(), int(count)) if name in DTYPES:
                self.push(Storage(DTYPES[name], key, count))
            case _:
                raise ProgramFault("its pickle names a storage in an unknown way")

    def put(self, form: str) -> None:
        self._memo[self.number(form)] = self._stack[-1]

    def get(self, form: str) -> None:
        found = self._memo.get(self.number(form), _MARK)
        if found is _MARK:
            raise ProgramFault("its pickle is cut off or damaged")
        self.push(found)

    def set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise ProgramFault("its pickle is cut off or damaged")
        for key, value in zip(items[0::2], items[1::2], strict=True):
            if not isinstance(key, str | int):
                raise ProgramFault("its pickle has a key that is no name")
            if key in target:
                raise ProgramFault(f"its pickle has {key!r} twice")
            target[key] = value

    def append(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, list):
            raise ProgramFault("its pickle is cut off or damaged")
        target.extend(values)

    def forget_state(self) -> None:
        """What a module says of itself beside its tensors; it is not needed."""
        self.pop()
        if not isinstance(self._stack[-1], dict):
            raise ProgramFault("its pickle gives a state to something that has none")


def _tensor(arguments: tuple[Any, ...]) -> TensorNote:
    match arguments:
        case (Storage() as storage, int(offset), tuple(shape), tuple(strides), *_):
            sizes = (offset, *shape, *strides)
            if len(shape) == len(strides) <= 8 and all(_is_size(size) for size in sizes):
                return TensorNote(storage, offset, shape, strides)
    raise ProgramFault("its pickle describes a tensor in an unknown way")


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 48


def _parameter(arguments: tuple[Any, ...]) -> TensorNote:
    if not arguments or not isinstance(arguments[0], TensorNote):
        raise ProgramFault("its pickle describes a parameter in an unknown way")
    return arguments[0]


def _dictionary(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    if arguments:
        raise ProgramFault("its pickle fills a dictionary in an unknown way")
    return {}


_CALLS: Mapping[str, Callable[[tuple[Any, ...]], Any]] = {
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_parameter": _parameter,
    "collections OrderedDict": _dictionary,
}
"""What the program may call, and what is done instead."""

Step = Callable[[_Machine], None]

_STEPS: Mapping[int, Step] = {
    ord(code): step
    for code, step in {
        "\x80": lambda m: m.take(1),  # PROTO
        "\x95": lambda m: m.take(8),  # FRAME
        "}": lambda m: m.push({}),  # EMPTY_DICT
        "]": lambda m: m.push([]),  # EMPTY_LIST
        ")": lambda m: m.push(()),  # EMPTY_TUPLE
        "N": lambda m: m.push(None),  # NONE
        "\x88": lambda m: m.push(True),  # NEWTRUE
        "\x89": lambda m: m.push(False),  # NEWFALSE
        "J": lambda m: m.push(m.number("<i")),  # BININT
        "K": lambda m: m.push(m.number("<B")),  # BININT1
        "M": lambda m: m.push(m.number("<H")),  # BININT2
        "\x8a": lambda m: m.long(),  # LONG1
        "G": lambda m: m.push(m.number(">d")),  # BINFLOAT
        "X": lambda m: m.text("<I"),  # BINUNICODE
        "\x8c": lambda m: m.text("<B"),  # SHORT_BINUNICODE
        "U": lambda m: m.text("<B"),  # SHORT_BINSTRING
        "(": lambda m: m.push(_MARK),  # MARK
        "t": lambda m: m.push(tuple(m.since_mark())),  # TUPLE
        "\x85": lambda m: m.push((m.pop(),)),  # TUPLE1
        "\x86": lambda m: m.push((m.pop(), m.pop())[::-1]),  # TUPLE2
        "\x87": lambda m: m.push((m.pop(), m.pop(), m.pop())[::-1]),  # TUPLE3
        "q": lambda m: m.put("<B"),  # BINPUT
        "r": lambda m: m.put("<I"),  # LONG_BINPUT
        "h": lambda m: m.get("<B"),  # BINGET
        "j": lambda m: m.get("<I"),  # LONG_BINGET
        "c": lambda m: m.mention(),  # GLOBAL
        "Q": lambda m: m.storage(),  # BINPERSID
        "R": lambda m: m.call(),  # REDUCE
        "s": lambda m: m.set_items([m.pop(), m.pop()][::-1]),  # SETITEM
        "u": lambda m: m.set_items(m.since_mark()),  # SETITEMS
        "a": lambda m: m.append([m.pop()]),  # APPEND
        "e": lambda m: m.append(m.since_mark()),  # APPENDS
        "b": lambda m: m.forget_state(),  # BUILD
    }.items()
}
"""What each instruction does; all others are refused."""
