"""How alike the classes of an image are, and the groups that this makes."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from ..checks import check_range
from ..label_names import Names, name_of
from ..steps import RefineSteps
from .canvas import LETTER, MARK, import_matplotlib, new_figure, plain, signed
from .reading import read_steps

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def show_similarity(
    steps: RefineSteps | RefineSteps[list[Tensor]],
    tau: float = 0.8,
    names: Names = None,
    *,
    index: int | None = None,
) -> Figure:
    """Draw the cosines of an image's USS centroids, and the groups that they make at tau.

    Values above tau are bold; cells of two classes that one group holds are framed.

    Parameters
    ----------
    steps : RefineSteps
        What :func:`dhr_refine.refine_steps` returned.
    tau : float
        The tau that it was called with.
    names : sequence or dict, optional
        Name of each label: ``names[label]``. Default: the labels.
    index : int, optional
        Which image of ``steps``, where these hold several.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError, TypeError
        Steps of several images without ``index``, or of an image without classes; a tau that cannot have
        made their groups; a label without a name.
    ImportError
        If matplotlib is not installed.

    References
    ----------
    Jo et al., DHR, ECCV 2024, Fig. 11.

    Examples
    --------
    >>> import torch
    >>> from dhr_refine import refine_steps
    >>> from dhr_refine.viz import show_similarity
    >>> base = torch.arange(3).repeat(8, 4)[:, :8]
    >>> features = torch.eye(3)[base].permute(2, 0, 1)
    >>> steps = refine_steps(features[1:], base, features, features, labels=[0, 1], boundary=None)
    >>> figure = show_similarity(steps, 0.8, ["background", "cat", "dog"])
    >>> [text.get_text() for text in figure.axes[0].get_xticklabels()]
    ['background', 'cat', 'dog']
    """
    check_range(tau, "tau", -1.0, 1.0)
    one = read_steps(steps, index)
    classes = one.classes.tolist()
    if not classes:
        raise ValueError("steps hold an image without classes: choose one with tags")
    cosine = one.uss_similarity.cpu().numpy()
    groups = one.groups.cpu().numpy()
    pairs = (groups | groups.T) & ~np.eye(len(classes), dtype=bool)
    if (pairs.any(axis=1) & ~(pairs & (cosine > tau)).any(axis=1)).any():
        raise ValueError(
            f"tau {tau} does not give the groups of steps: pass the tau that refine_steps was called with"
        )
    absent = np.diagonal(cosine) < 0.5  # without a pixel in M_init, so without a centroid
    labels = [name_of(names, label) + (" (absent)" if gone else "") for label, gone in zip(classes, absent)]

    size = max(2.2, 0.62 * len(classes))  # inches of the matrix
    longest = 11 / 72 * LETTER * max(len(label) for label in labels)
    margin = 0.25 + longest
    width = margin + size + 1.5
    alike = textwrap.wrap(_group_line(groups, classes, names), int(7.2 * (width - 0.2) / LETTER))
    foot = 0.38 + 0.17 * len(alike) + 0.71 * longest  # names below the matrix stand at 45 degrees
    height = foot + size + 0.15
    figure = new_figure(width, height, dpi=150)
    axes = figure.add_axes((margin / width, foot / height, size / width, size / height))
    picture = _draw_matrix(axes, np.where(absent[:, None] | absent, np.nan, cosine), tau)
    _frame(axes, pairs)
    _name_sides(axes, [*map(plain, labels)])
    bar = figure.add_axes(((margin + size + 0.15) / width, foot / height, 0.16 / width, size / height))
    figure.colorbar(picture, cax=bar).outline.set_visible(False)
    _explain_bar(bar, tau)
    figure.text(0.1 / width, 0.08 / height, plain("\n".join(alike)), fontsize=10, va="bottom")
    return figure


def _draw_matrix(axes: Any, cosine: np.ndarray, tau: float) -> Any:
    """Colour the cells and write their values, NaN as a dash; return what a colour bar needs."""
    low = min(0.0, math.floor(10 * np.nanmin(cosine, initial=0.0)) / 10)
    picture = axes.imshow(cosine, cmap="Blues", vmin=low, vmax=1.0)
    axes.set_facecolor("0.92")
    for i, j in np.ndindex(cosine.shape):
        value = float(cosine[i, j])
        axes.text(
            j,
            i,
            "\N{EN DASH}" if np.isnan(value) else signed(value, ".2f"),
            ha="center",
            va="center",
            fontsize=10,
            fontweight="bold" if value > tau else "normal",
            color="white" if value > low + 0.6 * (1 - low) else "black",
        )
    return picture


def _frame(axes: Any, pairs: np.ndarray) -> None:
    """Frame the cells of classes that one group holds."""
    rectangle = import_matplotlib("matplotlib.patches").Rectangle
    for i, j in np.argwhere(pairs):
        axes.add_patch(rectangle((j - 0.46, i - 0.46), 0.92, 0.92, fill=False, edgecolor=MARK, linewidth=2.2))


def _name_sides(axes: Any, labels: list[str]) -> None:
    """Write the names of the classes beside and below the matrix."""
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right", rotation_mode="anchor", fontsize=11)
    axes.set_yticks(range(len(labels)), labels, fontsize=11)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _explain_bar(bar: Any, tau: float) -> None:
    """Say what the colours are, and where tau lies among them."""
    bar.tick_params(labelsize=9)
    bar.set_ylabel("cosine of USS centroids", fontsize=10)
    bar.yaxis.set_label_coords(1.15 / 0.16, 0.5)  # clear of the longest tau
    bar.axhline(tau, color=MARK, linewidth=2.2)
    bar.annotate(
        f"τ = {tau:g}",
        (1.0, tau),
        xycoords=("axes fraction", "data"),
        xytext=(4, 0),
        textcoords="offset points",
        color=MARK,
        fontsize=10,
        va="center",
        fontweight="bold",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        annotation_clip=False,
    )


def _group_line(groups: np.ndarray, classes: list[int], names: Names) -> str:
    found = {tuple(np.flatnonzero(row).tolist()) for row in groups if row.sum() > 1}
    if not found:
        return "No classes are alike."
    parts = (", ".join(name_of(names, classes[i]) for i in members) for members in sorted(found))
    return "Alike: " + "; ".join(parts)
