"""What Python's own names mean in a pickle: bytes, ordered dictionaries, sets and complex numbers."""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Any

from .limits import Damaged
from .resolve import Plan, Reader, reads
from .unpickle import Call, Mutable, Pairs


def bytes_of(node: Any) -> bytes | memoryview:
    """The bytes that a node stands for, in the forms that pickles of each protocol and Python give them."""
    if isinstance(node, (bytes, memoryview)):
        return node
    if type(node) is Mutable:
        return node.data
    if type(node) is str:  # Python 2
        return _latin1(node)
    if type(node) is Call and node.state is None and node.items is None:
        if node.key == ("_codecs", "encode"):  # protocols 0 to 2
            if (
                len(node.args) != 2
                or type(node.args[0]) is not str
                or node.args[1] not in ("latin1", "latin-1")
            ):
                raise Damaged("bytes in an unknown encoding")
            return _latin1(node.args[0])
        if node.key == ("builtins", "bytes") and node.args == ():  # the empty bytes in them
            return b""
        if node.key == ("builtins", "bytearray") and len(node.args) <= 1:
            if not node.args:
                return b""
            if type(node.args[0]) is Call and node.args[0].key != ("builtins", "bytearray"):
                return bytes_of(node.args[0])
            if isinstance(node.args[0], (bytes, memoryview)):
                return node.args[0]
    raise Damaged("bytes are missing where it should hold some")


def _latin1(text: str) -> bytes:
    try:
        return text.encode("latin1")
    except UnicodeEncodeError:
        raise Damaged("text where it should hold bytes") from None


def plain_call(call: Call, least: int, most: int) -> tuple[Any, ...]:
    """Arguments of a call that takes so many and is not changed afterwards."""
    if not least <= len(call.args) <= most or call.state is not None or call.items is not None:
        raise Damaged(f"a call of {'.'.join(call.key)} is garbled")
    return call.args


@reads(("_codecs", "encode"), ("builtins", "bytes"))
def _bytes(reader: Reader, call: Call) -> Plan:
    plain_call(call, 0, 2)
    data = bytes_of(call)
    return Plan(lambda: bytes(data), nbytes=len(data), is_key=True)


@reads(("builtins", "bytearray"))
def _bytearray(reader: Reader, call: Call) -> Plan:
    plain_call(call, 0, 1)
    data = bytes_of(call)
    return Plan(lambda: bytearray(data), nbytes=len(data))


@reads(("builtins", "complex"))
def _complex(reader: Reader, call: Call) -> Plan:
    parts = plain_call(call, 2, 2)
    if not all(type(part) is float for part in parts):
        raise Damaged("a complex number is garbled")
    return Plan(lambda: complex(*parts), is_key=True)


@reads(("builtins", "set"), ("builtins", "frozenset"))
def _set(reader: Reader, call: Call) -> Plan:
    args = plain_call(call, 0, 1)
    if args and type(args[0]) is not list:
        raise Damaged("a set is garbled")
    return reader.members(args[0] if args else [], set if call.key[1] == "set" else frozenset)


@reads(("collections", "OrderedDict"))
def _ordered_dict(reader: Reader, call: Call) -> Plan:
    # Attributes, such as the version numbers of a state_dict, are left out.
    items: list[Any] = []
    if len(call.args) > 1 or (call.args and type(call.args[0]) is not list):
        raise Damaged("an OrderedDict is garbled")
    for pair in call.args[0] if call.args else []:  # Python 2
        if type(pair) not in (list, tuple) or len(pair) != 2:
            raise Damaged("an OrderedDict is garbled")
        items += pair
    return reader.mapping(items + (call.items or []), OrderedDict)


@reads(("collections", "Counter"))
def _counter(reader: Reader, call: Call) -> Plan:
    args = plain_call(call, 0, 1)
    if args and (type(args[0]) is not Pairs or not all(type(count) is int for count in args[0].items[1::2])):
        raise Damaged("a Counter is garbled")
    return reader.mapping(args[0].items if args else [], lambda pairs: Counter(dict(pairs)))
