"""Tables of a report, as text, in notebooks and on terminals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

from .errors import require


class Table(NamedTuple):
    """Cells of text under heads; the first column is on the left, numbers are on the right."""

    heads: tuple[str, ...]
    rows: list[tuple[str, ...]]

    def text(self) -> str:
        """Columns of one width, on lines without spaces at their ends."""
        lines = [self.heads, *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.heads))]
        return "\n".join(_aligned(line, widths) for line in lines)

    def html(self, caption: str = "", *, beside: str = "") -> str:
        """An HTML table, with HTML ``beside`` its caption."""
        heads = "".join(f'<th scope="col">{escape(head)}</th>' for head in self.heads)
        rows = ("".join(map(_cell, range(len(row)), row)) for row in self.rows)
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        told = f"<caption>{escape(caption)}{beside and f'<br/>{beside}'}</caption>" if caption else ""
        return f"<table>{told}<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"

    def rich(self) -> Any:
        """A table of ``rich``."""
        plain = require("rich.text").Text
        table = require("rich.table").Table()
        for number, head in enumerate(self.heads):
            table.add_column(plain(head), justify="right" if number else "left", no_wrap=number > 0)
        for row in self.rows:
            table.add_row(*map(plain, row))
        return table


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = zip(cells, widths)
    return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]).rstrip()


def _cell(number: int, text: str) -> str:
    if number == 0:
        return f'<th scope="row" style="text-align: left">{escape(text)}</th>'
    return f'<td style="text-align: right">{escape(text)}</td>'


def percent(value: float, error: float = math.nan, *, sign: str = "") -> str:
    """A share in percent with its standard error, where they are defined; ``sign="+"`` for differences."""
    if not math.isfinite(value):
        return "-"
    return f"{100 * value:{sign}.1f}" + (f" ± {100 * error:.1f}" if math.isfinite(error) else "")
