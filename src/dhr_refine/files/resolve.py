"""From the graph of a pickle to values: everything is checked first, then everything is built.

Each node of the graph becomes a :class:`Plan`: what it will cost, and a function that builds it once all of
the file is known to be sound. What a call of the allow-list means is said in ``calls_plain.py``,
``calls_numpy.py`` and ``calls_torch.py``, which register themselves in :data:`CALLS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .limits import WEIGHT, Budget, Damaged, Refused, Unreadable
from .unpickle import Call, Members, Mutable, Name, Pairs, Persistent, parse

# Values that a pickle writes as they are.
_PLAIN = (int, float, str, bool, type(None))
# The time that larger dictionaries take grows as the square if their keys are chosen to that end; not with
# text, whose hash is drawn anew in each process, nor with whole numbers of 32 bits, of which too few collide.
_ANY_KEYS = 1000
# torch files within pickles lie within each other at most so deep; honest ones do not.
_FILES = 3


@dataclass(slots=True, eq=False)
class Plan:
    """A value that can be built, and what it costs with everything in it, as often as it is referred to."""

    build: Callable[[], Any]
    items: int = WEIGHT
    own: int = WEIGHT
    nbytes: int = 0
    height: int = 0
    is_key: bool = False
    built: bool = False
    _value: Any = None

    def value(self) -> Any:
        """Build the value, or return the one that was built before."""
        if not self.built:
            self._value = self.build()
            self.built = True
        return self._value


# What the calls of the allow-list mean: each makes a plan, or raises.
CALLS: dict[tuple[str, str], Callable[[Reader, Call], Plan]] = {}
# Names that may stand in a pickle without being called, and the values that a file can hold by naming them.
NAMES: dict[tuple[str, str], Any] = {}
# Harmless names that are not read, what they stand for, and the fix.
ADVICE: dict[tuple[str, str], tuple[str, str]] = {}


class NotAValue:
    """Marks a name that is used by calls but is no value itself."""


def reads(*keys: tuple[str, str]) -> Callable[[Any], Any]:
    """Register what calls of some names mean."""

    def register(function: Callable[[Reader, Call], Plan]) -> Callable[[Reader, Call], Plan]:
        for key in keys:
            CALLS[key] = function
        return function

    return register


def admit(module: str, name: str) -> Name:
    """Stand-in of a name, whichever NumPy, torch or Python wrote it; raise if it is not on the list."""
    if module.startswith("numpy._core."):  # NumPy 2 moved the functions that NumPy 1 names
        module = module.replace("_core", "core", 1)
    module = {"__builtin__": "builtins", "torch.tensor": "torch._tensor"}.get(module, module)
    key = (module, name)
    if key in CALLS or key in NAMES:
        return Name(key)
    if key in ADVICE:
        raise Unreadable(*ADVICE[key])
    raise Refused(f"{module}.{name}")


class Reader:
    """Reads one file: its budget, and the plans of the nodes seen so far."""

    def __init__(self, budget: Budget, read_nested: Callable[[Reader, bytes | memoryview], Any]):
        """Start with ``read_nested``, which reads torch files within pickles."""
        self.budget = budget
        self._read_nested = read_nested
        self._files = 0
        self._depth = 0
        # By identity: the graphs are kept, so that no other node takes the place of one.
        self._graphs: list[Any] = []
        self._plans: dict[int, Plan | None] = {}
        self._nested: dict[int, Any] = {}

    def parse(self, data: bytes | memoryview, *, start: int = 0, source: Any = None) -> tuple[Any, int]:
        """Read the syntax of a pickle, and where it ends."""
        node, end = parse(data, self.budget, admit, start=start, source=source)
        self._graphs.append(node)
        return node, end

    def value(self, node: Any) -> Any:
        """Check everything under a node, then build it."""
        plan = self.plan(node)
        if not isinstance(plan, Plan):
            return plan
        return plan.value()

    def plan(self, node: Any) -> Any:
        """Plan of a node; a plain value is its own."""
        if type(node) in _PLAIN:
            return node
        key = id(node)
        budget = self.budget
        if key in self._plans:
            plan = self._plans[key]
            if plan is None:
                raise Damaged("it holds a container that contains itself")
        else:
            self._plans[key] = None
            plan = self._plans[key] = self._make_plan(node)
            budget.plan(plan.own)
        budget.check_depth(self._depth + plan.height)
        budget.check_items(plan.items)
        budget.check_bytes(plan.nbytes)
        return plan

    def _make_plan(self, node: Any) -> Plan:
        kind = type(node)
        if kind is Call:
            return CALLS[node.key](self, node) if node.key in CALLS else _not_a_value(node.key)
        if kind is memoryview:
            return Plan(lambda: bytes(node), nbytes=len(node), is_key=True)
        if kind is bytes:
            return Plan(lambda: node, nbytes=len(node), is_key=True)
        if kind is list:
            return self.sequence(node, list)
        if kind is tuple:
            return self.sequence(node, tuple)
        if kind is Pairs:
            return self.mapping(node.items, dict)
        if kind is Members:
            return self.members(node.items, frozenset if node.frozen else set)
        if kind is Mutable:
            return Plan(lambda: bytearray(node.data), nbytes=len(node.data))
        if kind is Name and NAMES.get(node.key, NotAValue) is not NotAValue:
            found = NAMES[node.key]
            return Plan(lambda: found)
        if kind is Name:
            return _not_a_value(node.key)
        assert kind is Persistent
        raise Unreadable("a storage without a tensor", "save the tensor itself")

    def sequence(self, nodes: Any, kind: Callable[[Any], Any]) -> Plan:
        """Plan of a list or tuple."""
        parts, cost = self._parts(nodes)
        is_key = kind is tuple and all(type(part) in _PLAIN for part in parts)
        return Plan(lambda: kind(_values(parts)), is_key=is_key, **cost)

    def mapping(self, nodes: list[Any], kind: Callable[..., Any]) -> Plan:
        """Plan of a dictionary from keys and values by turns."""
        parts, cost = self._parts(nodes)
        keys, held = parts[::2], parts[1::2]
        self._check_keys(keys)

        def build() -> Any:
            made = _values(keys)
            _check_hashes(made)
            return kind(zip(made, _values(held)))

        return Plan(build, **cost)

    def members(self, nodes: list[Any], kind: Callable[[Any], Any]) -> Plan:
        """Plan of a set."""
        parts, cost = self._parts(nodes)
        self._check_keys(parts)

        def build() -> Any:
            made = _values(parts)
            _check_hashes(made)
            return kind(made)

        return Plan(build, **cost)

    def _parts(self, nodes: Any) -> tuple[list[Any], dict[str, Any]]:
        self._depth += 1
        self.budget.check_depth(self._depth)
        parts = [node if type(node) in _PLAIN else self.plan(node) for node in nodes]
        self._depth -= 1
        items, nbytes, height = WEIGHT + len(parts), 0, 0
        for part in parts:
            if type(part) is Plan:
                items += part.items - 1
                nbytes += part.nbytes
                height = max(height, part.height)
        return parts, {"items": items, "nbytes": nbytes, "height": height + 1}

    def _check_keys(self, parts: list[Any]) -> None:
        for part in parts:
            if type(part) is int and not -(2**63) <= part < 2**63:
                raise Damaged("a key above 64 bits")
            if type(part) is Plan and not part.is_key:
                raise Damaged("a key that is neither a number nor text")

    def nested(self, call: Call, data: bytes | memoryview) -> Any:
        """Graph of a torch file that lies within a pickle."""
        if id(call) not in self._nested:
            self._nested[id(call)] = self._read_nested(self, data)
        return self._nested[id(call)]

    def nested_plan(self, call: Call, data: bytes | memoryview) -> Any:
        """Plan of what a torch file within a pickle holds."""
        if self._files >= _FILES:
            raise Damaged("torch files within torch files")
        self._files += 1
        plan = self.plan(self.nested(call, data))
        self._files -= 1
        return plan


def _values(parts: list[Any]) -> list[Any]:
    return [part.value() if type(part) is Plan else part for part in parts]


def _check_hashes(keys: list[Any]) -> None:
    if len(keys) <= _ANY_KEYS:
        return
    for key in keys:
        if not (
            isinstance(key, (str, bytes)) or (isinstance(key, (int, np.integer)) and -(2**31) <= key < 2**32)
        ):
            raise Damaged(
                f"a dictionary of more than {_ANY_KEYS} keys that are neither text nor class numbers"
            )


def _not_a_value(key: tuple[str, str]) -> Plan:
    raise Damaged(f"{'.'.join(key)} is no value")
