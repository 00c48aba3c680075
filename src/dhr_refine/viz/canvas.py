"""Where figures come from, and what all of them share: matplotlib is imported when the first is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..extras import import_optional

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LETTER = 0.6  # usual width of a letter, in units of the font size
MARK = "#d55e00"  # colour of what a figure points out


def import_matplotlib(module: str = "matplotlib") -> Any:
    """Import a module of matplotlib, or say in one line how to get it."""
    return import_optional(module, by="a figure", extra="viz")


def new_figure(width: float, height: float, *, dpi: int = 100, **options: Any) -> Figure:
    """An empty figure of a size in inches that shows itself in notebooks."""
    import_matplotlib()
    from .figure import ShownFigure

    return ShownFigure(figsize=(width, height), dpi=dpi, **options)


def plain(text: str) -> str:
    """Text that matplotlib draws as it is: dollar signs start no formula."""
    return text.replace("$", r"\$")


def signed(value: float, form: str) -> str:
    """A number with a minus sign as long as the plus sign, not a hyphen."""
    return format(value, form).replace("-", "\N{MINUS SIGN}")
