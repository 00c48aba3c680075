"""What reading a file may cost, and the three reasons for which a file is not read."""

from __future__ import annotations

# Every part of a message that a file decides is cut to this.
_WORDS = 80
# Beyond its own size a file may grow this far before ``max_bytes`` has to be given: compressed members,
# repeated values, expanded tensors.
GROWTH = 2**28
DEFAULT_BYTES = 2**31
DEFAULT_ITEMS = 1_500_000
DEFAULT_DEPTH = 32
# An array or a container takes the memory and time of so many numbers, and a tensor of so many.
WEIGHT = 8
TENSOR_WEIGHT = 40


class FileProblem(Exception):
    """Why a file is not read; the caller knows the file and makes a ValueError of it."""

    def text(self, name: str) -> str:
        """Message that names the file and the fix."""
        raise NotImplementedError


class Refused(FileProblem):
    """The file asks for something that can run code; made from what it asks for."""

    def text(self, name: str) -> str:
        """Message that names the file and the fix."""
        return (
            f"{name} holds {shorten(self.args[0])}, which read_cams does not load because loading it can run "
            "any code: save arrays or tensors only, or pass allow_pickle=True if you trust where the file "
            "comes from"
        )


class Unreadable(FileProblem):
    """The file holds something harmless that is not read; made from what it is and the fix."""

    def text(self, name: str) -> str:
        """Message that names the file and the fix."""
        return f"{name} holds {shorten(self.args[0])}, which is not read: {self.args[1]}"


class Damaged(FileProblem):
    """The file contradicts itself or ends too early; made from what is wrong."""

    def text(self, name: str) -> str:
        """Message that names the file and the fix."""
        return f"{name} is damaged or no file of arrays ({shorten(self.args[0])}): write it again"


class TooMuch(FileProblem):
    """A bound is exceeded; made from what exceeds it, the argument and its value."""

    def text(self, name: str) -> str:
        """Message that names the file and the fix."""
        what, argument, value = self.args
        return f"{name} {what}, more than {argument}={value}: raise {argument} if it is meant to be so large"


def shorten(value: object) -> str:
    """One short printable line from what a file or an error says."""
    text = " ".join(str(value)[: 4 * _WORDS].split())
    text = text if text.isprintable() else ascii(text)[1:-1]
    return text if len(text) <= _WORDS else f"{text[: _WORDS - 3]}..."


class Budget:
    """Counts what one file costs, with everything nested in it, against the bounds of the call."""

    def __init__(self, size: int, max_bytes: int | None, max_items: int, max_depth: int):
        """Start with the size of the file and the arguments of the call."""
        self.max_bytes = min(DEFAULT_BYTES, size + GROWTH) if max_bytes is None else max_bytes
        self.max_items = max_items
        self.max_depth = max_depth
        # Opcodes make objects, name them and put them into others: in honest files about three for each.
        self.steps = 8 * max_items
        self._made = 0
        self._planned = 0
        self._taken = 0

    def make(self, count: int) -> None:
        """Count objects that are created while a pickle is read."""
        self._made += count
        self.check_items(self._made)

    def plan(self, count: int) -> None:
        """Count values that are going to be built."""
        self._planned += count
        self.check_items(self._planned)

    def take(self, nbytes: int) -> None:
        """Count bytes before they are inflated or copied."""
        self._taken += nbytes
        self.check_bytes(self._taken)

    def check_items(self, items: int) -> None:
        """Raise if there are too many objects."""
        if items > self.max_items:
            raise TooMuch("holds very many values", "max_items", self.max_items)

    def check_bytes(self, nbytes: int) -> None:
        """Raise if there are too many bytes."""
        if nbytes > self.max_bytes:
            raise TooMuch(f"needs {show_count(nbytes)} bytes", "max_bytes", self.max_bytes)

    def check_depth(self, depth: int) -> None:
        """Raise if containers lie too deep in each other."""
        if depth > self.max_depth:
            raise TooMuch("holds very deeply nested containers", "max_depth", self.max_depth)


def show_count(count: int) -> str:
    """Write a number in few digits, however large."""
    return str(count) if count < 10**15 else f"about 2**{count.bit_length()}"
