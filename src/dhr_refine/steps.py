"""What refine_steps returns: the refined mask and every intermediate map, image by image on request."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Generic

import torch
from torch import Tensor
from typing_extensions import TypeVar

from .label_names import Names, name_of
from .palettes import UNKNOWN, palette
from .tables import Table

# Fields with an axis of classes behind the batch's.
_BY_CLASS = {
    "probs",
    "classes",
    "uss",
    "wss",
    "uss_centroids",
    "uss_similarity",
    "groups",
    "recovered",
    "posterior",
    "purity",
}
# Images that the repr and the tables tell apart.
_SHOWN_IMAGES = 8
_THUMBNAIL = 96  # pixels of the longer side, at most


Maps = TypeVar("Maps", bound="Tensor | list[Tensor]", default=Tensor)


@dataclass(frozen=True, eq=False, repr=False)
class RefineSteps(Generic[Maps]):
    """Result of :func:`refine_steps`: the refined mask and every intermediate map.

    Shapes are those of a batch; a call on one image has no batch axis, a call on lists has lists. K is the
    largest number of classes of an image; images with fewer are padded, ``classes`` is -1 there. To type
    checkers it is a ``RefineSteps[Tensor]`` or, of lists, a ``RefineSteps[list[Tensor]]``.
    """

    mask: Maps
    """(B, H, W) int64 refined pseudo mask."""
    probs: Maps
    """(B, K, H, W) float32 what the mask is the argmax of, zeros outside the boxes."""
    classes: Maps
    """(B, K) int64 mask label of each class."""
    seed: Maps
    """(B, H, W) int64 OT seed, ignore where unassigned."""
    init_mask: Maps
    """(B, H, W) int64 M_init, the base mask with the seed merged in."""
    uss: Maps
    """(B, K, u, v) float32 scores after the USS step."""
    wss: Maps
    """(B, K, u, v) float32 scores after the WSS step."""
    uss_centroids: Maps
    """(B, K, D) float32 class averages of the USS features in M_init, cleaned by a memory if there is one."""
    uss_similarity: Maps
    """(B, K, K) float32 cosine of these centroids, 0 for classes without a pixel."""
    groups: Maps
    """(B, K, K) bool, row i marks the classes that are treated as alike to class i."""
    recovered: Maps
    """(B, K) bool, classes without a pixel in the base mask that the refined mask has."""
    posterior: Maps
    """(B, K, u, v) float32 probability of each class given the feature, by the memory; 1 for classes that it
    does not know, and without a memory."""
    purity: Maps
    """(B, K) float32 in [0, 1], the mean posterior of a class over the features behind its average before the
    memory cleaned it: how pure the memory takes M_init to be. 0 for classes without a pixel."""
    base_mask: Maps
    """(B, H, W) int64 base mask, as it came but ignore outside the boxes."""

    def __repr__(self) -> str:
        """Say what the images hold, not the numbers."""
        images = split(self)
        single = any(one is self for one in images)
        sizes = _enumerate([*dict.fromkeys(_size(one.mask) for one in images)])
        classes = _enumerate([str(one.classes.tolist()) for one in images])
        back = [(i, one.classes[one.recovered].tolist()) for i, one in enumerate(images)]
        back = [_enumerate(labels) + f" in image {i}" * (not single) for i, labels in back if labels]
        number = "image" if single else f"{len(images)} image{'s' * (len(images) != 1)}"
        what = f" of {sizes}, classes {classes}; recovered {_enumerate(back) or 'none'}"
        return f"RefineSteps: {number}{what * bool(images)}"

    def table(self, names: Names = None) -> StepTable:
        """The classes of each image, with their names, as a table for prints and notebooks.

        Parameters
        ----------
        names : sequence or dict of str, optional
            What labels are called: a sequence with the name of label i at position i, or a dict, where others
            are "class 3" and the like. Default: their numbers.

        Returns
        -------
        StepTable
            The first eight images: of each class its share of the pixels in the base mask, M_init and the
            result, whether it was recovered, and which classes it is alike to. In notebooks the three masks
            stand beside (where Pillow is installed).

        Raises
        ------
        ValueError, TypeError
            ``names`` are no list or dict, or a list that ends before a label that is shown.

        Examples
        --------
        >>> import torch
        >>> from dhr_refine import refine_steps
        >>> cams = torch.zeros(2, 4, 4)
        >>> cams[1, :, 2:] = 1.0
        >>> base = torch.zeros(8, 8, dtype=torch.long)  # the base mask lost class 2
        >>> features = cams + 0.1
        >>> steps = refine_steps(cams, base, features, features, labels=[1], boundary=None)
        >>> steps.table(["background", "cat", "dog"])
        Image of 8 x 8; share of the pixels
        class         base  M_init  result             alike to
        background  100.0%   50.0%   50.0%
        dog           0.0%   50.0%   50.0%  recovered
        """
        return StepTable(self, names)

    def _repr_html_(self) -> str:
        """One small table per image, for notebooks."""
        return self.table()._repr_html_()


class StepTable:
    """Result of :meth:`RefineSteps.table`: shows itself as text, and in notebooks with small pictures."""

    def __init__(self, steps: RefineSteps[Any], names: Names):
        """Look all names up, so that what cannot be shown is said at once."""
        images = split(steps)
        self._hidden = max(0, len(images) - _SHOWN_IMAGES)
        self._shown = images[:_SHOWN_IMAGES]
        self._tables: list[Table] = [_table(one, names) for one in self._shown]
        alone = any(one is steps for one in images)
        self._captions: list[str] = [
            f"{'Image of' if alone else f'Image {i},'} {_size(one.mask)}; share of the pixels"
            for i, one in enumerate(self._shown)
        ]

    def __repr__(self) -> str:
        """The tables of all images."""
        parts = [f"{caption}\n{table.text()}" for caption, table in zip(self._captions, self._tables)]
        return "\n\n".join(parts + self._more()) or "RefineSteps of no images"

    def _repr_html_(self) -> str:
        tables = [
            table.html(caption, beside=_thumbnails(one))
            for caption, table, one in zip(self._captions, self._tables, self._shown)
        ]
        more = [f"<p>{line}</p>" for line in self._more()]
        return f"<div>{''.join(tables + more)}</div>" if tables else "<p>RefineSteps of no images</p>"

    def _more(self) -> list[str]:
        return [f"and {self._hidden} more images"] * (self._hidden > 0)


def _table(one: RefineSteps, names: Names) -> Table:
    """Shares of the pixels of one image."""
    labels = one.classes.tolist()
    called = [str(label) if names is None else name_of(names, label) for label in labels]
    groups = (one.groups | one.groups.mT).tolist()
    rows = []
    for k, (label, back) in enumerate(zip(labels, one.recovered.tolist())):
        alike = [called[j] for j in range(len(labels)) if groups[k][j] and j != k]
        shares = [float((mask == label).double().mean()) for mask in (one.base_mask, one.init_mask, one.mask)]
        cells = (called[k], *map("{:.1%}".format, shares), "recovered" * back, ", ".join(alike))
        rows.append(cells)
    return Table(("class", "base", "M_init", "result", "", "alike to"), rows)


def _thumbnails(one: RefineSteps) -> str:
    """Base mask, M_init and result as small pictures in HTML; nothing where Pillow is not installed."""
    masks = {"base": one.base_mask, "M_init": one.init_mask, "result": one.mask}
    pictures = [(name, _picture(mask, one.classes)) for name, mask in masks.items()]
    return "".join(
        f'<img alt="{name}" title="{name}" src="data:image/png;base64,{data}" style="margin: 2px"/>'
        for name, data in pictures
        if data
    )


def _picture(mask: Tensor, classes: Tensor) -> str:
    """A mask of few pixels as PNG in base 64, what is no class of the image as unknown."""
    try:
        from PIL import Image
    except ImportError:
        return ""
    height, width = mask.shape
    step = max(1, -(-max(height, width) // _THUMBNAIL))
    small = mask[step // 2 :: step, step // 2 :: step] if step > 1 else mask
    known = torch.isin(small, classes)
    indices = torch.where(known, small % UNKNOWN, UNKNOWN).byte().cpu().numpy()
    if indices.size == 0:
        return ""
    image = Image.fromarray(indices)
    image.putpalette(palette(UNKNOWN).tobytes())
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def split(steps: RefineSteps[Any]) -> list[RefineSteps]:
    """The steps of each image, without batch axis and padding; ``steps`` itself where it is one image's."""
    if isinstance(steps.classes, list):
        names = [field.name for field in fields(RefineSteps)]
        return [
            RefineSteps(**{name: getattr(steps, name)[i] for name in names})
            for i in range(len(steps.classes))
        ]
    if steps.classes.ndim == 1:
        return [steps]
    return [pick(steps, row, count) for row, count in enumerate((steps.classes >= 0).sum(dim=1).tolist())]


def join(images: Sequence[RefineSteps]) -> RefineSteps[list[Tensor]]:
    """The steps of a call on lists."""
    names = [field.name for field in fields(RefineSteps)]
    return RefineSteps(**{name: [getattr(one, name) for one in images] for name in names})


def pick(steps: RefineSteps, row: int, count: int) -> RefineSteps:
    """One image of a batch, without the padding of its class axes."""
    cut = {field.name: getattr(steps, field.name)[row] for field in fields(RefineSteps)}
    for name in _BY_CLASS:
        cut[name] = cut[name][:count]
    cut["uss_similarity"] = cut["uss_similarity"][:, :count]
    cut["groups"] = cut["groups"][:, :count]
    return replace(steps, **cut)


def _size(mask: Tensor) -> str:
    return " x ".join(map(str, mask.shape))


def _enumerate(items: Sequence[Any]) -> str:
    """The first few items, separated by commas."""
    return ", ".join([*map(str, items[:_SHOWN_IMAGES]), *["..."] * (len(items) > _SHOWN_IMAGES)])
