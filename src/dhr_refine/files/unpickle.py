"""The syntax of a pickle, without its meaning: a graph of plain values and stand-ins for everything else.

Nothing is imported, called or hashed here. A name that is not on the list of ``resolve.py`` is refused where
it stands; a call of one that is becomes a :class:`Call` with its arguments, to be checked there.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .limits import Budget, Damaged, Refused, TooMuch

# The longest line of a text opcode other than text itself, and the most bytes of an integer.
_LINE = 4096
_INTEGER = 64
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", "'": "'", '"': '"'}


@dataclass(slots=True, eq=False)
class Name:
    """A name of the allow-list."""

    key: tuple[str, str]


@dataclass(slots=True, eq=False)
class Call:
    """A name of the allow-list called with arguments, and the state or the pairs that follow."""

    key: tuple[str, str]
    args: tuple[Any, ...]
    state: Any = None
    items: list[Any] | None = None
    # What was found when it was checked, once nothing changes any more.
    checked: Any = None


@dataclass(slots=True, eq=False)
class Pairs:
    """A dictionary: keys and values by turns, in the order of the file."""

    items: list[Any]


@dataclass(slots=True, eq=False)
class Members:
    """A set."""

    items: list[Any]
    frozen: bool


@dataclass(slots=True, eq=False)
class Mutable:
    """The bytes of a bytearray."""

    data: memoryview


@dataclass(slots=True, eq=False)
class Persistent:
    """What lies beside the pickle in a torch file, and where to find it."""

    pid: Any
    source: Any


# From a module and a name to a stand-in; raises where the name is not on the list.
Admit = Callable[[str, str], Name]


def parse(
    data: bytes | memoryview, budget: Budget, admit: Admit, *, start: int = 0, source: Any = None
) -> tuple[Any, int]:
    """Read the pickle at ``start``: its graph, and where it ends.

    ``source`` is what persistent ids refer to; where there is none they are refused.
    """
    parser = _Parser(data, budget, admit, start, source)
    return parser.run(), parser.at


class _Parser:
    """A stack machine of the opcodes of protocols 0 to 5."""

    def __init__(self, data: bytes | memoryview, budget: Budget, admit: Admit, start: int, source: Any):
        self.data = data if isinstance(data, bytes) else bytes(data)
        self.view = memoryview(self.data)
        self.budget = budget
        self.admit = admit
        self.at = start
        self.source = source
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        data, budget = self.data, self.budget
        steps, made = budget.steps, 0
        try:
            while True:
                code = data[self.at]
                self.at += 1
                if code == 46:  # STOP
                    budget.steps = steps
                    budget.make(made)
                    return self.stack.pop()
                operation = _OPERATIONS[code]
                if operation is None:
                    raise Damaged(f"opcode {bytes([code])!r} of its pickle is unknown")
                steps -= 1
                made += _MAKES[code]
                if steps < 0:
                    raise TooMuch("takes very many steps to read", "max_items", budget.max_items)
                if made >= 4096:
                    budget.make(made)
                    made = 0
                operation(self)
        except IndexError:
            # Reading beyond the end, or popping what is not on the stack.
            raise Damaged("its pickle is cut short or garbled") from None

    # What the opcodes are made of.

    def take(self, count: int) -> memoryview:
        end = self.at + count
        if end > len(self.data):
            raise Damaged("it ends too early")
        view = self.view[self.at : end]
        self.at = end
        return view

    def byte(self) -> int:
        value = self.data[self.at]
        self.at += 1
        return value

    def number(self, size: int, signed: bool = False) -> int:
        end = self.at + size
        if end > len(self.data):
            raise Damaged("it ends too early")
        value = int.from_bytes(self.data[self.at : end], "little", signed=signed)
        self.at = end
        return value

    def line(self, longest: int | None = _LINE) -> bytes:
        end = self.data.find(b"\n", self.at, None if longest is None else self.at + longest)
        if end < 0:
            raise Damaged("a line of its pickle does not end")
        text = self.data[self.at : end]
        self.at = end + 1
        return text

    def push(self, value: Any) -> None:
        # Looked up here: taking what lies above a mark changes the stack.
        self.stack.append(value)

    def pop_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.below.pop()
        return items

    def push_integer(self, size: int) -> None:
        if size > _INTEGER:
            raise Damaged(f"an integer of {size} bytes")
        self.stack.append(self.number(size, signed=True))

    def push_global(self, module: str, name: str) -> None:
        self.stack.append(self.admit(module, name))

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]
        if len(self.memo) > self.budget.max_items:
            raise TooMuch("memorises very many objects", "max_items", self.budget.max_items)

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise Damaged(f"entry {index} of its pickle's memo is missing")
        self.stack.append(self.memo[index])


def _decimal(line: bytes) -> int:
    text = line.removesuffix(b"L")
    if not re.fullmatch(rb"[+-]?\d{1,150}", text):
        raise Damaged("an integer of its pickle is garbled")
    return int(text)


# One function per opcode, named as in pickletools.


def _mark(p: _Parser) -> None:
    p.below.append(p.stack)
    p.stack = []


def _pop(p: _Parser) -> None:
    if p.stack:
        p.stack.pop()
    else:
        p.pop_mark()


def _int(p: _Parser) -> None:
    line = p.line()
    # Protocol 0 writes truth values as 00 and 01.
    p.stack.append(line == b"01" if line in (b"00", b"01") else _decimal(line))


def _float(p: _Parser) -> None:
    try:
        p.stack.append(float(p.line()[:64]))
    except ValueError:
        raise Damaged("a number of its pickle is garbled") from None


def _string(p: _Parser) -> None:
    # Text of Python 2, in quotes, as its repr.
    line = p.line(None).strip()
    if len(line) < 2 or line[:1] not in (b'"', b"'") or line[-1:] != line[:1]:
        raise Damaged("a string of its pickle is garbled")

    def unescape(match: re.Match[str]) -> str:
        digits, letter = match.groups()
        if digits is None and letter not in _ESCAPES:
            raise Damaged("a string of its pickle is garbled")
        return chr(int(digits, 16)) if digits else _ESCAPES[letter]

    p.stack.append(re.sub(r"\\(?:x([0-9a-fA-F]{2})|(.?))", unescape, line[1:-1].decode("latin1"), flags=re.S))


def _unicode(p: _Parser) -> None:
    p.stack.append(str(p.line(None), "raw-unicode-escape"))


def _global(p: _Parser) -> None:
    module = p.line().decode("utf-8", "replace")
    p.push_global(module, p.line().decode("utf-8", "replace"))


def _stack_global(p: _Parser) -> None:
    name, module = p.stack.pop(), p.stack.pop()
    if type(name) is not str or type(module) is not str:
        raise Damaged("a name of its pickle is no text")
    p.push_global(module, name)


def _inst(p: _Parser) -> None:
    module = p.line().decode("utf-8", "replace")
    raise Refused(f"{module}.{p.line().decode('utf-8', 'replace')}")


def _extension(p: _Parser) -> None:
    raise Refused("an extension of pickle")


def _object(p: _Parser) -> None:
    raise Refused("an instance of a class")


def _outside(p: _Parser) -> None:
    raise Refused("an object kept outside the pickle")


def _reduce(p: _Parser) -> None:
    args, called = p.stack.pop(), p.stack.pop()
    if type(called) is not Name or type(args) is not tuple:
        raise Damaged("it calls what cannot be called")
    p.stack.append(Call(called.key, args))


def _build(p: _Parser) -> None:
    state, target = p.stack.pop(), p.stack[-1]
    if type(target) is not Call or target.state is not None or state is None:
        raise Damaged("it changes what cannot be changed")
    target.state = state


def _persid(p: _Parser) -> None:
    if p.source is None:
        return _outside(p)
    pid = p.stack.pop()
    p.source.pids.append(pid)
    p.stack.append(Persistent(pid, p.source))


def _tuples(count: int) -> Callable[[_Parser], None]:
    def push(p: _Parser) -> None:
        if len(p.stack) < count:
            raise IndexError
        items = tuple(p.stack[-count:])
        del p.stack[-count:]
        p.stack.append(items)

    return push


def _append(p: _Parser) -> None:
    item, target = p.stack.pop(), p.stack[-1]
    if type(target) is not list:
        raise Damaged("it appends to what is no list")
    target.append(item)


def _appends(p: _Parser) -> None:
    items, target = p.pop_mark(), p.stack[-1]
    if type(target) is not list:
        raise Damaged("it appends to what is no list")
    target += items


def _additems(p: _Parser) -> None:
    items, target = p.pop_mark(), p.stack[-1]
    if type(target) is not Members:
        raise Damaged("it adds to what is no set")
    target.items += items


def _setitem(p: _Parser) -> None:
    value, key = p.stack.pop(), p.stack.pop()
    _pairs_of(p.stack[-1]).extend((key, value))


def _setitems(p: _Parser) -> None:
    items = _even(p.pop_mark())
    _pairs_of(p.stack[-1]).extend(items)


def _dict(p: _Parser) -> None:
    p.push(Pairs(_even(p.pop_mark())))


def _even(items: list[Any]) -> list[Any]:
    if len(items) % 2:
        raise Damaged("a key of a dictionary has no value")
    return items


def _pairs_of(target: Any) -> list[Any]:
    if type(target) is Pairs:
        return target.items
    if type(target) is not Call:
        raise Damaged("it sets a key of what is no dictionary")
    # Some of the calls make dictionaries; resolve.py knows which.
    if target.items is None:
        target.items = []
    return target.items


def _push(value: Any) -> Callable[[_Parser], None]:
    return lambda p: p.stack.append(value)


def _make(build: Callable[[], Any]) -> Callable[[_Parser], None]:
    return lambda p: p.stack.append(build())


def _read(size: int, signed: bool = False) -> Callable[[_Parser], None]:
    return lambda p: p.stack.append(p.number(size, signed))


def _text(size: int) -> Callable[[_Parser], None]:
    return lambda p: p.stack.append(str(p.take(p.number(size)), "utf-8", "surrogatepass"))


def _old_text(size: int) -> Callable[[_Parser], None]:
    # Files of Python 2 hold bytes as text.
    return lambda p: p.stack.append(str(p.take(p.number(size)), "latin1"))


def _bytes(size: int) -> Callable[[_Parser], None]:
    return lambda p: p.stack.append(p.take(p.number(size)))


# Code: (operation, how many objects it makes).
_TABLE: dict[bytes, tuple[Callable[[_Parser], Any], int]] = {
    b"\x80": (lambda p: p.take(1), 0),  # PROTO
    b"\x95": (lambda p: p.take(8), 0),  # FRAME: a hint for reading ahead
    b"(": (_mark, 1),
    b"0": (_pop, 0),
    b"1": (lambda p: p.pop_mark(), 0),
    b"2": (lambda p: p.stack.append(p.stack[-1]), 0),
    b"N": (_push(None), 0),
    b"\x88": (_push(True), 0),
    b"\x89": (_push(False), 0),
    b"I": (_int, 1),
    b"L": (lambda p: p.stack.append(_decimal(p.line())), 1),
    b"J": (_read(4, signed=True), 1),
    b"K": (lambda p: p.stack.append(p.byte()), 0),
    b"M": (_read(2), 1),
    b"\x8a": (lambda p: p.push_integer(p.byte()), 1),
    b"\x8b": (lambda p: p.push_integer(p.number(4)), 1),
    b"F": (_float, 1),
    b"G": (lambda p: p.stack.append(struct.unpack(">d", p.take(8))[0]), 1),
    b"S": (_string, 1),
    b"T": (_old_text(4), 1),
    b"U": (_old_text(1), 1),
    b"V": (_unicode, 1),
    b"X": (_text(4), 1),
    b"\x8c": (_text(1), 1),
    b"\x8d": (_text(8), 1),
    b"B": (_bytes(4), 1),
    b"C": (_bytes(1), 1),
    b"\x8e": (_bytes(8), 1),
    b"\x96": (lambda p: p.stack.append(Mutable(p.take(p.number(8)))), 1),
    b"]": (_make(list), 1),
    b"l": (lambda p: p.push(p.pop_mark()), 1),
    b"a": (_append, 0),
    b"e": (_appends, 0),
    b")": (_push(()), 0),
    b"t": (lambda p: p.push(tuple(p.pop_mark())), 1),
    b"\x85": (_tuples(1), 1),
    b"\x86": (_tuples(2), 1),
    b"\x87": (_tuples(3), 1),
    b"}": (_make(lambda: Pairs([])), 1),
    b"s": (_setitem, 0),
    b"u": (_setitems, 0),
    b"d": (_dict, 1),
    b"\x8f": (lambda p: p.stack.append(Members([], False)), 1),
    b"\x90": (_additems, 0),
    b"\x91": (lambda p: p.push(Members(p.pop_mark(), True)), 1),
    b"g": (lambda p: p.get(_decimal(p.line())), 0),
    b"h": (lambda p: p.get(p.byte()), 0),
    b"j": (lambda p: p.get(p.number(4)), 0),
    b"p": (lambda p: p.put(_decimal(p.line())), 0),
    b"q": (lambda p: p.put(p.byte()), 0),
    b"r": (lambda p: p.put(p.number(4)), 0),
    b"\x94": (lambda p: p.put(len(p.memo)), 0),
    b"c": (_global, 1),
    b"\x93": (_stack_global, 1),
    b"i": (_inst, 0),
    b"o": (_object, 0),
    b"\x92": (_object, 0),  # NEWOBJ_EX
    b"R": (_reduce, 1),
    b"\x81": (_reduce, 1),  # NEWOBJ
    b"b": (_build, 0),
    b"Q": (_persid, 1),
    b"P": (_outside, 0),
    b"\x97": (_outside, 0),
    b"\x98": (_outside, 0),
    b"\x82": (_extension, 0),
    b"\x83": (_extension, 0),
    b"\x84": (_extension, 0),
}
_OPERATIONS: list[Callable[[_Parser], Any] | None] = [
    _TABLE.get(bytes([code]), (None, 0))[0] for code in range(256)
]
_MAKES = [_TABLE.get(bytes([code]), (None, 0))[1] for code in range(256)]
