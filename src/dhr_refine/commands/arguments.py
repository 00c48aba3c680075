"""Types of arguments that command lines share, and a parser whose complaints are one line."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line, without all options before it."""

    def error(self, message: str) -> NoReturn:
        """Exit with code 2."""
        self.exit(2, f"{self.prog}: {' '.join(message.split())} (--help lists all options)\n")


def whole(least: int, most: int = 2**31 - 1) -> Callable[[str], int]:
    """Type of an argument: a whole number from ``least`` to ``most``."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or not least <= value <= most:
            raise argparse.ArgumentTypeError(
                f"must be a whole number from {least} to {most}, got {text[:50]!r}"
            )
        return value

    return parse


def number(least: float, most: float = math.inf, *, above: bool = False) -> Callable[[str], float]:
    """Type of an argument: a finite number from ``least``, or ``above`` it, to ``most``."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and least <= value <= most) or (above and value == least):
            low = f"above {least:g}" if above else f"from {least:g}"
            high = f" {'and at most' if above else 'to'} {most:g}" if math.isfinite(most) else ""
            raise argparse.ArgumentTypeError(f"must be a number {low}{high}, got {text[:50]!r}")
        return value

    return parse
