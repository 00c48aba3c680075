"""Machine code on disk that is used only if it is whole: numba's own cache trusts what it finds.

A file may be cut short (a full disk, a copy that was broken off), altered, or of another version. Each file
begins with a SHA-256 of what it is for and of its content; one that does not fit counts as not there, and is
written anew. What cannot be written is compiled again the next time.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from numba.core.caching import FunctionCache, IndexDataCacheFile

_DIGEST = hashlib.sha256().digest_size


class CheckedCache(FunctionCache):
    """The cache of one function, in numba's place and by its keys.

    numba takes machine code from disk if the file of the function itself has not changed. But code and
    constants of other modules are part of it, and old ones would work on memory in an outdated layout:
    ``sources`` stands for all of these.
    """

    # Private, all that is used of numba here, and the same since long before the oldest one that we take.

    def __init__(self, function: Callable[..., Any], sources: str) -> None:
        """Find a folder; RuntimeError where there is none."""
        super().__init__(function)
        self._cache_file = _CheckedFile(
            cache_path=self._cache_path,
            filename_base=self._impl.filename_base,
            source_stamp=(self._impl.locator.get_source_stamp(), sources),
        )

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Find the machine code for a signature; None where anything keeps it from being used."""
        try:
            return super().load_overload(sig, target_context)
        except Exception:
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep the machine code for a signature, if the disk takes it."""
        with suppress(OSError):
            super().save_overload(sig, data)


class _CheckedFile(IndexDataCacheFile):
    """An index, which says where the machine code for each key lies, and the files where it does."""

    # Two processes may give the same name to files for different keys: a file says for which it is.

    def save(self, key: Any, data: Any) -> None:
        super().save(key, (key, data))

    def load(self, key: Any) -> Any:
        found = super().load(key)
        return found[1] if found is not None and found[0] == key else None

    def _load_index(self) -> dict[Any, str]:
        return self._read(self._index_name) or {}

    def _save_index(self, overloads: dict[Any, str]) -> None:
        self._write(self._index_name, overloads)

    def _load_data(self, name: str) -> Any:
        return self._read(name)

    def _save_data(self, name: str, data: Any) -> None:
        self._write(name, data)

    def _digest(self, name: str, content: bytes) -> bytes:
        """Digest of a content and of what it is for: a file's name, numba's version and all sources."""
        purpose = hashlib.sha256(repr((name, self._version, self._source_stamp)).encode())
        return hashlib.sha256(purpose.digest() + content).digest()

    def _read(self, name: str) -> Any:
        """What a file holds; None if it is not just what was written."""
        try:
            whole = Path(self._cache_path, name).read_bytes()
        except OSError:
            return None
        digest, content = whole[:_DIGEST], whole[_DIGEST:]
        return pickle.loads(content) if digest == self._digest(name, content) else None

    def _write(self, name: str, value: Any) -> None:
        """Write a file at once: other processes find the old one or the new one."""
        content = self._dump(value)
        path = Path(self._cache_path, name)
        # Not ending like the files that are read; of this process and thread alone.
        draft = path.with_name(f"{name}.{os.getpid()}.{threading.get_ident()}.tmp")
        try:
            draft.write_bytes(self._digest(name, content) + content)
            os.replace(draft, path)
        except OSError:
            with suppress(OSError):
                draft.unlink()
            raise
