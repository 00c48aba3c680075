"""What refine_steps returns: the refined mask and every intermediate map, image by image on request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Generic

from torch import Tensor
from typing_extensions import TypeVar

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
# Images that the repr tells apart.
_SHOWN_IMAGES = 8


Maps = TypeVar("Maps", bound="Tensor | list[Tensor]", default=Tensor)


@dataclass(frozen=True, repr=False)
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

    def _repr_html_(self) -> str:
        """One small table per image, for notebooks."""
        images = split(self)
        head = "".join(f"<th>{name}</th>" for name in ("class", "M_init", "result", "", "alike to"))
        tables = []
        for i, one in enumerate(images[:_SHOWN_IMAGES]):
            labels = one.classes.tolist()
            groups = (one.groups | one.groups.mT).tolist()
            rows = []
            for k, (label, back) in enumerate(zip(labels, one.recovered.tolist())):
                alike = [str(other) for j, other in enumerate(labels) if groups[k][j] and j != k]
                shares = [float((mask == label).double().mean()) for mask in (one.init_mask, one.mask)]
                cells = (str(label), *map("{:.1%}".format, shares), "recovered" * back, ", ".join(alike))
                rows.append("".join(f"<td>{cell}</td>" for cell in cells))
            caption = f"Image of {_size(one.mask)}" if one is self else f"Image {i}, {_size(one.mask)}"
            body = "".join(f"<tr>{row}</tr>" for row in (head, *rows))
            tables.append(f"<table><caption>{caption}; share of the pixels</caption>{body}</table>")
        if len(images) > len(tables):
            tables.append(f"<p>and {len(images) - len(tables)} more images</p>")
        return "<div>" + "".join(tables) + "</div>" if tables else "<p>RefineSteps of no images</p>"


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
