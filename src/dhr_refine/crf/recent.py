"""The last few things that were built, found again by what they were built from."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

_NOTHING = np.empty(0)


class _Entry(NamedTuple):
    key: tuple[Any, ...]
    content: np.ndarray
    built: Any


class Recent:
    """The last few used, for all threads; ``nbytes`` bounds all together, but never drops the newest."""

    def __init__(self, count: int, nbytes: float = float("inf")) -> None:
        """Start with none."""
        self.count, self.nbytes = count, nbytes
        self._kept: list[_Entry] = []  # the newest last
        self._lock = Lock()

    def get(self, key: tuple[Any, ...], build: Callable[[], Any], content: np.ndarray = _NOTHING) -> Any:
        """Find what was built for a key, and for an array of the same content; or build it."""
        with self._lock:
            entries = [entry for entry in self._kept if entry.key == key]
        for entry in entries:
            if np.array_equal(entry.content, content):
                with self._lock:
                    others = [other for other in self._kept if other is not entry]
                    if len(others) < len(self._kept):  # else it has been dropped meanwhile
                        self._kept = [*others, entry]
                return entry.built
        # Built outside the lock: two threads may build the same one, which is harmless.
        entry = _Entry(key, content.copy(), build())
        with self._lock:
            self._kept.append(entry)
            while len(self._kept) > 1 and (len(self._kept) > self.count or self._size() > self.nbytes):
                del self._kept[0]
        return entry.built

    def _size(self) -> int:
        return sum(entry.content.nbytes + entry.built.nbytes for entry in self._kept)

    def clear(self) -> None:
        """Forget all of them."""
        with self._lock:
            self._kept.clear()
