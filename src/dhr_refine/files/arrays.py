"""Arrays and tensors from .npy, .npz, .pt and .pkl files; no pickle is executed unless it is trusted."""

from __future__ import annotations

import os
from typing import IO, Any

import numpy as np

from ..checks import check_count

# The calls register what they mean.
from . import calls_numpy, calls_plain, calls_torch, npy_files, torch_files, trusted  # noqa: F401
from .limits import DEFAULT_DEPTH, DEFAULT_ITEMS, Budget, Damaged, FileProblem, TooMuch
from .regular import NotRegularError, open_regular, show_name
from .resolve import Reader
from .zip_files import Archive


def load_arrays(
    path: str | os.PathLike[str],
    *,
    allow_pickle: bool = False,
    max_bytes: int | None = None,
    max_items: int = DEFAULT_ITEMS,
    max_depth: int = DEFAULT_DEPTH,
) -> Any:
    """Load arrays and tensors from a .npy, .npz, .pt or .pkl file, without executing anything in it.

    Parameters
    ----------
    path : str or path
        The file; its content decides how it is read, not its suffix.
    allow_pickle : bool
        Execute whatever the pickle asks for, and keep no bound. Only for files that you trust as you trust
        code.
    max_bytes : int, optional
        The most bytes that the file may have, and that its arrays may take. Default: 2 GiB, and at most
        256 MiB more than the file has, which only compressed, repeated and expanded arrays need.
    max_items : int
        The most values that it may hold, counted as often as they are referred to; an array or a container
        counts as eight, a tensor as forty.
    max_depth : int
        How deep dictionaries, lists and arrays of objects may lie in each other.

    Returns
    -------
    ndarray, Tensor, number, str, bytes, or dict, list, tuple or set of them
        What was saved; an .npz file as a dict. Tensors, parameters among them, are on the CPU and without
        gradient.

    Raises
    ------
    ValueError
        The file holds anything else and ``allow_pickle`` is off, it is damaged, it exceeds a bound, or it is
        not a regular file.
    OSError
        The file cannot be read.

    Notes
    -----
    What is promised for files of strangers, and how it is tested: :doc:`/files`.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from dhr_refine.files import load_arrays
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "cls_labels.npy")
    ...     np.save(path, {"2007_000032": np.array([0.0, 1.0])})
    ...     load_arrays(path).item()
    {'2007_000032': array([0., 1.])}
    """
    for bound, name in ((max_bytes, "max_bytes"), (max_items, "max_items"), (max_depth, "max_depth")):
        if bound is not None:
            check_count(bound, name, 1)
    name = show_name(path)
    try:
        with open_regular(path) as file:
            if allow_pickle:
                return trusted.load_trusted(file)
            size = os.fstat(file.fileno()).st_size
            budget = Budget(size, max_bytes, max_items, max_depth)
            return _load(_read(file, size, budget), budget)
    except FileProblem as problem:
        raise ValueError(problem.text(name)) from None
    except UnicodeDecodeError:
        raise ValueError(Damaged("text in no known encoding").text(name)) from None
    except MemoryError:
        raise ValueError(f"{name} needs more memory than there is: read it on a larger machine") from None
    except OSError as error:
        # Those of a damaged archive come without the name; those of a missing file have it.
        if error.filename is None and allow_pickle:
            raise ValueError(Damaged(error).text(name)) from error
        error.filename = error.filename or name
        raise
    except NotRegularError:
        raise
    except Exception as error:  # a damaged file can fail in any way
        raise ValueError(Damaged(error).text(name)) from error


def is_number(value: object) -> bool:
    """Whether a value of a file is a whole number."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _read(file: IO[bytes], size: int, budget: Budget) -> bytes:
    if size > budget.max_bytes:
        raise TooMuch(f"has {size} bytes", "max_bytes", budget.max_bytes)
    data = file.read(size + 1)
    if len(data) != size:
        raise Damaged("its size changed while it was read")
    return data


def _load(data: bytes, budget: Budget) -> Any:
    """The content of a file, told by its first bytes."""
    reader = Reader(budget, _read_torch)
    if data[: len(npy_files.MAGIC)] == npy_files.MAGIC:
        return npy_files.read_npy(data, reader)
    if data[:2] == b"PK":
        archive = Archive(data, budget)
        if torch_files.is_torch_zip(archive):
            return reader.value(torch_files.read_zip(archive, reader))
        result = {}
        for member in archive.members:
            result[member.removesuffix(".npy")] = npy_files.read_npy(archive.read(member), reader)
        return result
    node, end = reader.parse(data)
    if type(node) is int and node == torch_files.MAGIC:
        node = torch_files.read_legacy(data, reader, end)
    return reader.value(node)


def _read_torch(reader: Reader, data: bytes | memoryview) -> Any:
    """Graph of a torch file that lies within a pickle."""
    reader.budget.take(len(data))
    data = bytes(data)
    if data[:2] == b"PK":
        return torch_files.read_zip(Archive(data, reader.budget), reader)
    magic, start = reader.parse(data)
    if magic != torch_files.MAGIC:
        raise Damaged("a tensor without the mark of torch")
    return torch_files.read_legacy(data, reader, start)
