"""Run lengths of COCO: masks as the lengths of their runs of zeros and ones, column by column."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..checks import describe

# Pixels of an image; what a file claims beyond it is no image.
_MOST_PIXELS = 2**28
# Characters of five bits each; nine hold every count that fits an image, and int64 holds nine.
_MOST_CHARACTERS = 9


def decode_rle(rle: Mapping[str, Any], name: str) -> tuple[np.ndarray, tuple[int, int]]:
    """The pixels of a mask in run lengths.

    Parameters
    ----------
    rle : {"size": (H, W), "counts": text, bytes or list of whole numbers}
    name : what the caller calls it

    Returns
    -------
    positions (N,) int64, ascending, row by row from the upper left corner; (H, W)

    Raises
    ------
    ValueError
        The parts are missing, damaged or do not fit each other.
    """
    if "counts" not in rle or "size" not in rle:
        raise _wrong(name, f"has {sorted(map(str, rle))[:5]}", 'pass {"size": (H, W), "counts": ...}')
    height, width = _read_size(rle["size"], name)
    counts = _read_counts(rle["counts"], name)
    if counts.size and counts.min() < 0:
        raise _wrong(name, f"has a run of {counts.min()} pixels", "write it again")
    # Each on its own first: the sum of numbers beyond every image may wrap round.
    total = int(counts.sum()) if counts.max(initial=0) <= height * width else int(counts.max())
    if total != height * width:
        raise _wrong(name, f"has runs of {total} pixels in all for {(height, width)}", "write it again")
    ends = counts.cumsum()
    starts, lengths = ends[:-1:2], counts[1::2]  # every second run is of ones
    within = np.arange(lengths.sum()) - np.repeat(lengths.cumsum() - lengths, lengths)
    columns, rows = np.divmod(np.repeat(starts[: len(lengths)], lengths) + within, height)
    return np.sort(rows * width + columns), (height, width)


def _read_size(size: Any, name: str) -> tuple[int, int]:
    pair = size.tolist() if hasattr(size, "tolist") else size
    fits = isinstance(pair, (list, tuple)) and len(pair) == 2 and all(type(side) is int for side in pair)
    if not fits or min(pair) < 1 or pair[0] * pair[1] > _MOST_PIXELS:
        raise _wrong(name, f"has the size {describe(size)}", "pass (H, W) of the image")
    return pair[0], pair[1]


def _read_counts(counts: Any, name: str) -> np.ndarray:
    """Lengths of the runs (R,) int64, from a list or COCO's text."""
    if isinstance(counts, str):
        counts = counts.encode("ascii", "replace")
    if isinstance(counts, bytes):
        return _uncompress(np.frombuffer(counts, np.uint8), name)
    if not isinstance(counts, np.ndarray):
        whole = isinstance(counts, (list, tuple)) and all(
            type(one) is int and abs(one) <= _MOST_PIXELS for one in counts
        )
        if not whole:
            raise _wrong(name, f"has the counts {describe(counts)}", "pass COCO's text or a list")
        counts = np.array(counts, np.int64)
    if counts.ndim != 1 or counts.dtype.kind not in "iu":
        raise _wrong(name, f"has the counts {describe(counts)}", "pass whole numbers (R,)")
    return counts.astype(np.int64)


def _uncompress(text: np.ndarray, name: str) -> np.ndarray:
    """Numbers of a text: five bits a character, the lowest first, the sixth says that more follow.

    From the fourth on, numbers are differences to the one before the last.
    """
    codes = text.astype(np.int64) - 48
    if codes.size and (codes.min() < 0 or codes.max() > 63 or codes[-1] & 32):
        raise _wrong(name, "has a text that no compressed counts are", "write it again")
    last = np.flatnonzero(codes & 32 == 0)
    lengths = np.diff(last, prepend=-1)
    if lengths.size and lengths.max() > _MOST_CHARACTERS:
        raise _wrong(name, "has a text with a number beyond every image", "write it again")
    place = np.arange(codes.size) - np.repeat(last - lengths + 1, lengths)
    values = np.zeros(last.size, np.int64)
    np.add.at(values, np.repeat(np.arange(last.size), lengths), (codes & 31) << (5 * place))
    negative = codes[last] & 16 != 0
    values[negative] -= 1 << (5 * lengths[negative])
    for start in (1, 2):  # each adds to the one before the last, but the third number to none
        values[start::2] = values[start::2].cumsum()
    return values


def _wrong(name: str, came: str, fix: str) -> ValueError:
    return ValueError(f"{name} must be a mask in COCO's run lengths, but it {came}: {fix}")
