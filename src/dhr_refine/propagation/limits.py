"""What an affinity may weigh in memory."""

from __future__ import annotations

MOST_BYTES = 2**32
"""4 GiB, 23,170 cells where every pair counts: our choice, above all grids of the field."""


def check_bytes(count: int, size: int, what: str, fix: str) -> None:
    """Raise where ``count`` numbers of ``size`` bytes are more than :data:`MOST_BYTES`."""
    if count * size > MOST_BYTES:
        raise ValueError(
            f"{what} takes {count * size:,} bytes, more than the {MOST_BYTES:,} that are allowed: {fix}"
        )
