"""Reads files in a process of its own, under limits and with an ear on what Python does meanwhile.

A crash, a hang, memory above the bound, or anything done beside reading is told with the file that brought it
about.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

SECONDS = 2.0
# What a read may take beyond a process that has read honest files before: inputs are small, so that the
# results stay below the 256 MiB by which a file may grow, and a few copies of them.
BYTES = 2**30
# What a read does: open the file, and tell objects apart.
QUIET = {"open", "builtins.id"}


class Outcome(NamedTuple):
    """What became of one file."""

    kind: str
    """read, refused, or a fault: error, ran, memory, hang, crash."""
    text: str
    """The message of the error, or what was done."""
    seconds: float
    """Processor time."""
    peak: int
    """Resident bytes that the process has held at most since it began to read."""
    foreseen: bool = False
    """Whether a check of this library refused it, not one that NumPy, torch or Python happen to have."""


class Watched:
    """A process that reads files; a new one takes its place when it dies."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _start(self) -> subprocess.Popen[bytes]:
        path = os.pathsep.join(entry for entry in sys.path if entry)
        process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        return process

    def read(self, path: Path, seconds: float = SECONDS, **options: Any) -> Outcome:
        """Read a file by load_arrays and read_cams, each within some seconds of processor time."""
        self._process = self._process or self._start()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([str(path), seconds, options]).encode() + b"\n")
        self._process.stdin.flush()
        # The process stops itself after two seconds of its own time; this is for one that waits.
        ready, _, _ = select.select([self._process.stdout], [], [], 60 * seconds)
        line = self._process.stdout.readline() if ready else b""
        if line:
            return Outcome(*json.loads(line))
        status = self._process.wait() if ready else None
        self._stop()
        hung = status in (None, -signal.SIGPROF)
        return Outcome("hang" if hung else "crash", f"exit status {status}", seconds, 0)

    def read_all(self, paths: Iterable[Path]) -> dict[Path, Outcome]:
        """Read several files."""
        return {path: self.read(path) for path in paths}


def _work() -> None:
    import faulthandler
    import resource
    import tempfile
    import time
    import warnings

    import numpy as np
    import torch

    from dhr_refine.files import load_arrays, read_cams

    faulthandler.enable()
    warnings.simplefilter("ignore")
    done: list[str] = []
    listening = False
    current = ""

    def listen(event: str, args: tuple[Any, ...]) -> None:
        # An open file counts as the one that it was opened from.
        elsewhere = event == "open" and args[0] != current and not isinstance(args[0], int)
        if listening and (event not in QUIET or elsewhere):
            done.append(f"{event} {args}"[:200])

    def touch(value: Any) -> None:
        # Every byte of the result is looked at.
        if isinstance(value, np.ndarray) and value.dtype == object:
            touch(value.ravel().tolist())
        elif isinstance(value, (np.ndarray, np.generic)):
            value.tobytes()
            if value.size < 1000:
                str(value)
        elif isinstance(value, torch.Tensor):
            value.clone()
            if value.numel() < 1000:
                str(value.tolist())
        elif isinstance(value, dict):
            touch(list(value))
            touch(list(value.values()))
        elif isinstance(value, (list, tuple, set, frozenset)):
            for part in value:
                touch(part)
        else:
            hash(repr(value))

    def read(path: str, options: dict[str, Any], seconds: float = 10.0) -> tuple[str, str, bool]:
        nonlocal listening, current
        current, kind, text, foreseen = path, "read", "", True
        for reader, allowed in (
            (load_arrays, (ValueError, OSError)),
            (read_cams, (ValueError, OSError, TypeError)),
        ):
            signal.setitimer(signal.ITIMER_PROF, seconds)
            listening = True
            try:
                content = reader(path, **options)
                listening = False
                touch(content)
            except allowed as error:
                listening = False
                if reader is load_arrays:
                    kind, text, foreseen = "refused", str(error), error.__cause__ is None
                words = str(error).replace(path, "")
                if path not in str(error) or "\n" in str(error) or len(words) > 400:
                    return "error", f"{reader.__name__} says {error!r}", False
                if "more memory than there is" in words:
                    return "memory", words, False
            except Exception as error:
                listening = False
                return "error", f"{reader.__name__} raises {error!r}", False
        signal.setitimer(signal.ITIMER_PROF, 0)
        return ("ran", done[0], False) if done else (kind, text, foreseen)

    with tempfile.TemporaryDirectory() as folder:
        # What is done only once is done by honest files.
        from corpus import files

        path = os.path.join(folder, "a")
        for _, data in files().values():
            Path(path).write_bytes(data)
            read(path, {})
    done.clear()
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + BYTES, size + BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sys.addaudithook(listen)
    print("ready", flush=True)
    for line in sys.stdin:
        path, seconds, options = json.loads(line)
        done.clear()
        begin = time.process_time()
        kind, text, foreseen = read(path, options, seconds)
        peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        print(json.dumps([kind, text, time.process_time() - begin, peak, foreseen]), flush=True)


if __name__ == "__main__":
    _work()
