"""How a score depends on tau."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import check_range, read_numbers
from .canvas import new_figure
from .reading import check_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe and Ito


def show_tau(
    taus: Sequence[float],
    values: Sequence[float] | np.ndarray | Mapping[str, Sequence[float] | np.ndarray],
    *,
    errors: Sequence[float] | np.ndarray | Mapping[str, Sequence[float] | np.ndarray] | None = None,
    mark: float | None = 0.8,
    ylabel: str = "mIoU (%)",
) -> Figure:
    """Draw how a score depends on tau, one curve or several, with bands of standard errors.

    Parameters
    ----------
    taus : sequence of T floats
        The values of tau that were tried, increasing.
    values : T floats, or dict of name to T floats
        The score at each tau, in the unit that ``ylabel`` names; NaN leaves a gap.
    errors : as ``values``, optional
        Half the height of the band around each curve. A dict may leave curves out.
    mark : float, optional
        The tau to mark; the paper's 0.8 by default, None for none.
    ylabel : str
        What ``values`` are.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError, TypeError
        Curves of another length than ``taus`` or without numbers, values of tau that do not increase, errors
        of a curve that does not exist.
    ImportError
        If matplotlib is not installed.

    References
    ----------
    Jo et al., DHR, ECCV 2024, Fig. 8.

    Examples
    --------
    >>> from dhr_refine.viz import show_tau
    >>> figure = show_tau([0.6, 0.8, 1.0], {"train": [70.1, 71.3, 70.9]}, errors={"train": [0.4, 0.4, 0.5]})
    >>> figure.axes[0].get_ylabel()
    'mIoU (%)'
    """
    places = _read_curve(taus, "taus")
    if mark is not None:
        check_range(mark, "mark", -sys.float_info.max, sys.float_info.max)
    check_text(ylabel, "ylabel")
    if len(places) == 0 or not (np.diff(places) > 0).all():
        raise ValueError(
            f"taus must hold increasing numbers, got {places.tolist()}: sort them and the values"
        )
    single = not isinstance(values, Mapping)
    curves = {"": values} if single else dict(values)
    bands = {} if errors is None else dict(errors) if isinstance(errors, Mapping) else {"": errors}
    for name in bands.keys() - curves.keys():
        raise ValueError(
            f"errors holds {name!r}, values holds {sorted(curves)}: give both as dicts of the same names"
        )

    figure = new_figure(7.0, 3.6, dpi=150, layout="constrained")
    axes = figure.add_subplot()
    if mark is not None:
        axes.axvline(mark, color="0.45", linestyle=":", linewidth=1.5, zorder=1)
        axes.annotate(
            f"τ = {mark:g}",
            (mark, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            color="0.35",
            ha="center",
            va="bottom",
            fontsize=11,
        )
    for place, (name, given) in enumerate(curves.items()):
        colour, marker = _COLOURS[place % len(_COLOURS)], "osD^vPX"[place % 7]
        curve = _read_curve(given, f"values[{name!r}]" if name else "values", len(places))
        axes.plot(places, curve, color=colour, marker=marker, markersize=6, linewidth=2, label=name)
        if name in bands:
            half = _read_curve(bands[name], f"errors[{name!r}]" if name else "errors", len(places))
            axes.fill_between(places, curve - half, curve + half, color=colour, alpha=0.18, linewidth=0)
    axes.set_xlabel("τ", fontsize=13)
    axes.set_ylabel(ylabel, fontsize=13)
    axes.tick_params(labelsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    if not single:
        axes.legend(frameon=False, fontsize=12, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _read_curve(values: Any, name: str, length: int | None = None) -> np.ndarray:
    curve = read_numbers(values, name, "a list of numbers").astype(np.float64)
    if curve.ndim != 1 or (length is not None and len(curve) != length):
        wanted = "a list of numbers" if length is None else f"{length} numbers, one per tau"
        raise ValueError(f"{name} must hold {wanted}, got an array of shape {curve.shape}: match taus")
    return curve
