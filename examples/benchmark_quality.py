r"""Quality of refined masks on images with ground truth: each stage, each recipe, with standard errors.

On a VOC-like folder, with CAMs of a linear head on EfficientNet-lite0 and features of the demo's networks::

    python examples/benchmark_quality.py --root VOCdevkit/VOC2012 --head head.pt --min-classes 2

On index masks of any data set, with CAMs, features and base masks from your own files (one per image)::

    python examples/benchmark_quality.py --images val2017 --targets val_masks --classes 81 \
        --cams cams --uss dino --wss fmap --masks pseudo_masks

How each row is made:

- base mask: CAMs of the tags over their maximum, a constant background score, argmax. base + crf: the same
  with the boundary step before the argmax. With ``--masks`` there is one row instead, the masks as given.
  Every recipe refines the second row (or the given masks), and the differences are against it.
- seed: M_init, the base mask with the OT seed (after its boundary step) merged in.
- + USS: argmax of the scores after the USS step, without a boundary step. The step is run with tau = 1, which
  makes no group, so that the WSS step changes nothing. + WSS: the same with tau as it is.
- final without WSS, final: the two after the boundary step. final is what ``refine_mask`` returns.

The seed's boundary step runs once per recipe, and the CRF's lattice is built once per image. CAMs, features
and masks are kept in the cache folder, so that a stopped run goes on where it was. The networks' CAMs
and features are kept and used in half precision. Masks are made anew when the library's code or their inputs
change.

Research scripts import it: ``evaluate(samples, {"mine": Variant(replace(Recipe(), prior=0.5))}, ...)``.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import io
import json
import math
import platform
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

import dhr_refine
from dhr_refine import DenseCRFLattice, Recipe, dense_crf, pamr, refine_steps, viz
from dhr_refine.demo import models
from dhr_refine.demo.models import DemoError, require
from dhr_refine.demo.output import figure_png, write_atomic
from dhr_refine.demo.run import make_base_mask
from dhr_refine.files import load_arrays, read_cams
from dhr_refine.metrics import ImageCounts, Scores, image_counts, image_scores, scores_of

BASE = ("", "base mask")
RECIPES = {"default": Recipe(), "released": Recipe.released(), "paper": Recipe.paper()}
STAGES = ("seed", "+ USS", "+ WSS", "final without WSS", "final")
METRICS = ("miou", "per_image_miou", "mfpr", "mfnr", "vanishing", "vanished", "recovery")
TITLES = ("mIoU", "per-image mIoU", "mFPR", "mFNR", "vanishing (< 10 %)", "vanished (0)", "recovery")

_IMAGES = (".jpg", ".jpeg", ".png", ".JPEG", ".JPG")
_ARRAYS = (".npy", ".npz", ".pt", ".pth", ".pkl")
_WITHOUT_INFLUENCE = {
    "cli.py",
    "demo",
    "features.py",
    "files",
    "metrics",
    "training.py",
    "viz",
}

Row = tuple[str, str]
"""Name of a variant ("" for the base masks) and of a stage."""


# --------------------------------------------------------------------------------------------------
# The data set


@dataclass(frozen=True)
class Item:
    """One image of the data set, on disk."""

    key: str
    image: Path
    target: Path
    tags: tuple[int, ...]  # 0-based foreground classes


def voc_folders(root: Path) -> tuple[Path, Path]:
    """Images and ground truth of a VOC-like folder."""
    masks = [root / name for name in ("SegmentationClassAug", "SegmentationClass")]
    targets = next((folder for folder in masks if folder.is_dir()), None)
    if targets is None or not (root / "JPEGImages").is_dir():
        raise DemoError(
            f"{root} needs the folders JPEGImages and SegmentationClassAug or SegmentationClass: "
            "pass the VOC2012 folder, or --images and --targets"
        )
    return root / "JPEGImages", targets


def voc_split(root: Path, split: str) -> list[str]:
    """The image ids of a split: ImageSets/Segmentation/SPLIT.txt, or entries of index.json."""
    listed = root / "ImageSets" / "Segmentation" / f"{split}.txt"
    if listed.is_file():
        return read_list(listed)
    index = root / "index.json"
    if not index.is_file():
        raise DemoError(f"{root} has neither {listed.relative_to(root)} nor index.json: pass --list FILE")
    return sorted(entry["id"] for entry in json.loads(index.read_text()) if entry["split"] == split)


def read_list(path: Path) -> list[str]:
    """Image ids of a list: the first word of each line, without folder and image suffix."""
    names = [Path(line.split()[0]) for line in path.read_text().splitlines() if line.strip()]
    return [name.stem if name.suffix in _IMAGES else name.name for name in names]


def read_tags(path: Path, classes: int, *, allow_pickle: bool = False) -> dict[str, tuple[int, ...]]:
    """0-based tags per image id from a .npy dictionary of multi-hot rows (cls_labels.npy)."""
    content = read_arrays(path, allow_pickle=allow_pickle)
    if not isinstance(content, Mapping):
        raise DemoError(f"{path} holds no dictionary of image ids and tags: pass a file like cls_labels.npy")
    table = {}
    for key, row in content.items():
        row = np.asarray(row)
        if row.shape != (classes - 1,):
            raise DemoError(
                f"{path} has tags of shape {row.shape} for {key} but --classes {classes} needs "
                f"({classes - 1},): tags are multi-hot without the background"
            )
        if isinstance(key, (int, np.integer)):  # IRN keeps 2007_000032 as the number 2007000032
            key = f"{key // 1_000_000:04d}_{key % 1_000_000:06d}"
        table[str(key)] = tuple(row.nonzero()[0].tolist())
    return table


def read_index_mask(path: Path, classes: int, ignore_index: int) -> np.ndarray:
    """(H, W) int64 labels of an index PNG."""
    with require("PIL.Image").open(path) as picture:
        if picture.mode not in ("P", "L", "I", "I;16"):
            raise DemoError(f"{path} is a {picture.mode} picture: labels come from index or grey PNGs")
        mask = np.array(picture).astype(np.int64)
    return check_labels(mask, path, classes, ignore_index)


def check_labels(mask: np.ndarray, path: Path, classes: int, ignore_index: int) -> np.ndarray:
    """Return the labels of a file if all are classes or ignored."""
    wrong = mask[(mask != ignore_index) & ((mask < 0) | (mask >= classes))]
    if wrong.size:
        raise DemoError(
            f"{path} holds the label {wrong[0]}, but there are {classes} classes and ignore {ignore_index}: "
            "pass --classes N with the background counted, and --ignore-index"
        )
    return mask


def read_safely(path: Path, read: Callable[[], Any]) -> Any:
    """What a reader of dhr_refine.files, which executes no pickle unless told to, finds in a file."""
    try:
        return read()
    except OSError:
        raise
    except Exception as error:  # a damaged file can fail in any way
        raise DemoError(
            f"{path} cannot be read ({error}); allow_pickle=True is --allow-pickle, background= is "
            "--cam-background"
        ) from error


def read_arrays(path: Path, *, allow_pickle: bool = False) -> Any:
    """Content of a .npy, .npz, .pt or .pkl file."""
    content = read_safely(path, lambda: load_arrays(path, allow_pickle=allow_pickle))
    if isinstance(content, np.ndarray) and content.dtype == object and content.ndim == 0:
        content = content.item()
    return content


def find_file(folder: Path, key: str, suffixes: Sequence[str]) -> Path:
    """The file of an image in a folder of one file per image."""
    for suffix in suffixes:
        path = folder / f"{key}{suffix}"
        if path.is_file():
            return path
    raise DemoError(f"{folder} has no file of image {key}: add {key} with one of {', '.join(suffixes)}")


def select(
    keys: Iterable[str],
    images: Path,
    targets: Path,
    *,
    classes: int = 21,
    ignore_index: int = 255,
    tags: Mapping[str, tuple[int, ...]] | None = None,
    min_classes: int = 1,
    part: str | None = None,
    limit: int | None = None,
) -> list[Item]:
    """The images to work on, sorted by id: those with enough classes, of them the half, of it the first ones.

    The half to tune on is the first, third, ... of the images with enough classes.

    Tags are those of the ground truth unless given. Images without a tag are left out: they keep their base
    mask whatever the recipe.
    """
    items: list[Item] = []
    for key in sorted(set(keys)):
        if part is None and limit is not None and len(items) == limit:
            break
        target = find_file(targets, key, (".png",))
        mask = read_index_mask(target, classes, ignore_index)
        present = sorted({int(label) for label in np.unique(mask)} - {0, ignore_index})
        if tags is not None and key not in tags:
            raise DemoError(f"the tags file has no entry for image {key}: complete it, or leave out --tags")
        own = tuple(label - 1 for label in present) if tags is None else tags[key]
        if len(present) >= min_classes and own:
            items.append(Item(key, find_file(images, key, _IMAGES), target, own))
    if part is not None:
        items = items[part == "check" :: 2]
    items = items[:limit]
    if not items:
        raise DemoError("no image is left to work on: check --split, --list, --half and --min-classes")
    return items


# --------------------------------------------------------------------------------------------------
# CAMs, features and base masks, kept on disk


class Cache:
    """Arrays on disk, found by a hash of everything that they were made from: never stale."""

    def __init__(self, folder: Path):
        """Keep the arrays below a folder, which need not exist."""
        self.folder = folder

    def __call__(
        self, kind: str, key: str, made_from: Iterable[Any], make: Callable[[], dict[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        """Read the arrays, or make and write them."""
        path = self.folder / kind / f"{key}-{_digest(*made_from)[:16]}.npz"
        try:
            with path.open("rb") as file:  # np.load leaves a damaged file open
                return dict(np.load(file, allow_pickle=False))
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):  # not there, or damaged
            arrays = make()
        data = io.BytesIO()
        np.savez_compressed(data, **cast(Any, arrays))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, data.getvalue())
        except OSError as error:
            raise DemoError(
                f"{path} cannot be written ({error}): name another folder with --cache"
            ) from error
        return arrays


def _digest(*parts: Any) -> str:
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            digest.update(f"{part.dtype} {tuple(part.shape)}".encode())
            part = part.contiguous().numpy().tobytes()
        part = part if isinstance(part, bytes) else repr(part).encode()
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


@functools.cache
def _code() -> str:
    """Hash of the library's code that masks depend on."""
    folder = Path(dhr_refine.__file__).parent
    files = sorted(
        path for path in folder.rglob("*.py") if path.relative_to(folder).parts[0] not in _WITHOUT_INFLUENCE
    )
    return _digest(torch.__version__, *(path.read_bytes() for path in (*files, folder / "demo" / "run.py")))


@dataclass
class Source:
    """Where CAMs and features come from: folders of own files, or the networks of the demo.

    A network is loaded when the first image needs it. ``head`` is a file of ``torch.save`` with ``weight``
    (C - 1, 1280), a linear layer on EfficientNet-lite0's pooled features: its CAMs are
    relu(weight . features), over four scales and both flips.
    """

    cache: Cache
    classes: int = 21
    cams: Path | None = None
    uss: Path | None = None
    wss: Path | None = None
    head: Path | None = None
    vit: Path | None = None
    cam_background: str | None = None
    allow_pickle: bool = False
    _networks: dict[str, Any] = field(default_factory=dict)

    def __call__(self, item: Item, image: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """CAMs of the tags (K, h, w), USS features (D, u, v) and levels of WSS features."""
        if self.cams is None and self.head is None:
            raise DemoError("CAMs need --head FILE, a linear head for EfficientNet-lite0, or --cams DIR")
        uss = None if self.uss is None else self._read(self.uss, item.key)[0]
        wss = None if self.wss is None else self._read(self.wss, item.key)
        cams = None if self.cams is None else self._read_cams(item)
        if cams is None or wss is None:
            made = self._from_classifier(item, image)
            cams = made["cams"] if cams is None else cams
            wss = [made["stride16"], made["stride32"]] if wss is None else wss
        if uss is None:
            made = self.cache("uss", item.key, (_models_code(), image), lambda: self._uss(image))
            uss = torch.from_numpy(made["uss"])
        # Logits serve as CAMs, as they do in refine_mask.
        return cams.float().relu(), uss.float(), [level.float() for level in wss]

    def _from_classifier(self, item: Item, image: Tensor) -> dict[str, Tensor]:
        parts = (_models_code(), image, item.tags, self.head and self._head())
        arrays = self.cache("classifier", item.key, parts, lambda: self._classify(item, image))
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def _classify(self, item: Item, image: Tensor) -> dict[str, np.ndarray]:
        if "classifier" not in self._networks:
            classifier: Any = models.Classifier.load()
            if self.head is not None:
                classifier.network._fc.weight = nn.Parameter(self._head(), requires_grad=False)
            self._networks["classifier"] = classifier
        # Without a head only the features are wanted, and the CAMs come from files.
        cams, levels = self._networks["classifier"](
            image, [[tag] for tag in item.tags], scales=(0.5, 1.0, 1.5, 2.0) if self.head else (1.0,)
        )
        arrays = {"cams": cams, "stride16": levels[0][0], "stride32": levels[1][0]}
        return {name: array.half().numpy() for name, array in arrays.items()}

    def _uss(self, image: Tensor) -> dict[str, np.ndarray]:
        if "vit" not in self._networks:
            weights = models.vit_file(models.cache_dir(), self.vit)
            self._networks["vit"] = models.VisionTransformer.load(weights)
        return {"uss": self._networks["vit"](image)[0].half().numpy()}

    def _head(self) -> Tensor:
        assert self.head is not None
        if "head" not in self._networks:
            content = read_arrays(self.head, allow_pickle=self.allow_pickle)
            weight = content.get("weight") if isinstance(content, Mapping) else content
            if not isinstance(weight, Tensor) or weight.shape != (self.classes - 1, 1280):
                raise DemoError(
                    f"{self.head} must hold weight ({self.classes - 1}, 1280), a row per foreground class of "
                    f"--classes {self.classes}, got {tuple(getattr(weight, 'shape', ()))}"
                )
            self._networks["head"] = weight.float()
        return self._networks["head"]

    def _read_cams(self, item: Item) -> Tensor:
        assert self.cams is not None
        path = find_file(self.cams, item.key, _ARRAYS)
        options: Any = {"background": self.cam_background, "allow_pickle": self.allow_pickle}
        cams, keys = read_safely(path, lambda: read_cams(path, **options))
        place = {key: row for row, key in enumerate(keys.tolist())}
        missing = [tag for tag in item.tags if tag not in place]
        if missing:
            raise DemoError(
                f"{path} has no CAM of the tags {missing} (0-based, background not counted), only of "
                f"{sorted(place)}: save a map per foreground class or per tag with keys, or pass --tags"
            )
        return cams[[place[tag] for tag in item.tags]]

    def _read(self, folder: Path, key: str) -> list[Tensor]:
        path = find_file(folder, key, _ARRAYS)
        content = read_arrays(path, allow_pickle=self.allow_pickle)
        parts = list(content.values()) if isinstance(content, Mapping) else content
        levels = []
        for part in parts if isinstance(parts, (list, tuple)) else [parts]:
            level = torch.as_tensor(part)
            level = level[0] if level.ndim == 4 and level.shape[0] == 1 else level
            if level.ndim != 3:
                raise DemoError(f"{path} holds an array of shape {tuple(level.shape)}: (D, h, w) is needed")
            levels.append(level)
        return levels


@functools.cache
def _models_code() -> str:
    return _digest(torch.__version__, Path(models.__file__).read_bytes())


@dataclass(frozen=True)
class Sample:
    """One image with everything that refinement needs."""

    key: str
    image: Tensor  # (3, H, W) uint8
    target: Tensor  # (H, W) int64
    tags: tuple[int, ...]
    cams: Tensor  # (K, h, w), of the tags
    uss: Tensor  # (D, u, v)
    wss: list[Tensor]
    raw: Tensor | None  # (H, W) int64 base mask before the boundary step, None if the base mask was given
    base: Tensor  # (H, W) int64 base mask that is refined


def prepare(
    item: Item,
    source: Source,
    *,
    masks: Path | None = None,
    background: float = 0.2,
    boundary: Any = "crf",
    ignore_index: int = 255,
) -> Sample:
    """Load an image and its features and make its base mask, all from the cache where it was done before."""
    with require("PIL.Image").open(item.image) as picture:
        image = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).contiguous()
    target = torch.from_numpy(read_index_mask(item.target, source.classes, ignore_index))
    if target.shape != image.shape[1:]:
        raise DemoError(
            f"{item.target} is {tuple(target.shape)} but {item.image.name} {tuple(image.shape[1:])} (H, W): "
            "the ground truth has to be at the image's size"
        )
    cams, uss, wss = source(item, image)
    if masks is not None:
        raw, base = None, _given_mask(masks, item.key, source, ignore_index)
        if base.shape != target.shape:
            raise DemoError(
                f"the mask of {item.key} in {masks} is {tuple(base.shape)}, not {tuple(target.shape)}"
            )
    else:

        def make() -> dict[str, np.ndarray]:
            return {
                name: make_base_mask(cams, image, background=background, boundary=tool)
                .numpy()
                .astype(np.uint8)
                for name, tool in (("raw", None), ("base", boundary))
            }

        made = source.cache("base", item.key, (_code(), image, cams, background, boundary), make)
        labels = torch.tensor([0, *(tag + 1 for tag in item.tags)])
        raw, base = (labels[torch.from_numpy(made[name]).long()] for name in ("raw", "base"))
    return Sample(item.key, image, target, item.tags, cams, uss, wss, raw, base)


def _given_mask(folder: Path, key: str, source: Source, ignore_index: int) -> Tensor:
    path = find_file(folder, key, (".png", *_ARRAYS))
    if path.suffix == ".png":
        return torch.from_numpy(read_index_mask(path, source.classes, ignore_index))
    mask = np.squeeze(np.asarray(read_arrays(path, allow_pickle=source.allow_pickle)))
    return torch.from_numpy(check_labels(mask.astype(np.int64), path, source.classes, ignore_index))


# --------------------------------------------------------------------------------------------------
# Refinement


@dataclass(frozen=True)
class Variant:
    """One way to refine: what ``refine_mask`` is called with. A callable boundary is not cached."""

    recipe: Recipe = field(default_factory=Recipe)
    boundary: Any = "crf"
    tau: float = 0.8
    reg: float = 0.1
    stages: tuple[str, ...] = STAGES


def ablations() -> dict[str, Variant]:
    """The default with one choice at a time as in the released code, and without background in groups."""
    changes: dict[str, Any] = {
        choice.name: getattr(Recipe.released(), choice.name)
        for choice in fields(Recipe)
        if getattr(Recipe.released(), choice.name) != getattr(Recipe(), choice.name)
    }
    return {
        f"{name}={value}": Variant(replace(Recipe(), **{name: value}), stages=("final",))
        for name, value in {**changes, "group_background": False}.items()
    }


class Edges:
    """A boundary tool for one image: one lattice, and no probabilities worked on twice."""

    def __init__(self, tool: Any):
        """Take "crf", "pamr", None or a callable, as refine_mask does."""
        self.tool = tool
        self.done: dict[str, Tensor] = {}
        self.lattice: DenseCRFLattice | None = None

    def __call__(self, images: Tensor, probs: Tensor) -> Tensor:
        """Refine the edges of (1, K, H, W)."""
        key = _digest(probs)
        if key not in self.done:
            self.done[key] = self._apply(images, probs)
        return self.done[key]

    def _apply(self, images: Tensor, probs: Tensor) -> Tensor:
        if self.tool is None:
            return probs
        if self.tool == "crf":
            self.lattice = self.lattice or DenseCRFLattice(images)
            return dense_crf(images, probs, lattice=self.lattice)
        return pamr(images, probs) if self.tool == "pamr" else self.tool(images, probs)


def refine(sample: Sample, variant: Variant, edges: Edges, *, ignore_index: int = 255) -> dict[str, Tensor]:
    """The mask of each stage, (H, W) int64; the module's docstring says how each is made."""

    @functools.cache
    def run(tau: float, last: bool) -> Any:
        calls = 0

        def boundary(images: Tensor | None, probs: Tensor) -> Tensor:
            # An image with tags calls its boundary tool twice: for the seed, then for the result.
            nonlocal calls
            calls += 1
            return edges(cast(Tensor, images), probs) if last or calls == 1 else probs

        return refine_steps(
            sample.cams,
            sample.base,
            sample.uss,
            sample.wss,
            sample.image,
            labels=list(sample.tags),
            ignore_index=ignore_index,
            tau=tau,
            reg=variant.reg,
            boundary=boundary,
            recipe=variant.recipe,
        )

    makers = {
        "seed": lambda: run(variant.tau, "final" in variant.stages).init_mask,
        "+ USS": lambda: run(1.0, False).mask,
        "+ WSS": lambda: run(variant.tau, False).mask,
        "final without WSS": lambda: run(1.0, True).mask,
        "final": lambda: run(variant.tau, True).mask,
    }
    return {stage: makers[stage]() for stage in variant.stages}


def base_row(boundary: Any, masks: Path | None = None) -> Row:
    """Name of the row that is refined and compared with."""
    return ("", "base mask as given") if masks is not None else ("", f"base + {boundary or 'nothing'}")


def evaluate(
    samples: Iterable[Sample],
    variants: Mapping[str, Variant],
    *,
    reference: Row = ("", "base + crf"),
    classes: int = 21,
    ignore_index: int = 255,
    cache: Cache | None = None,
) -> dict[Row, ImageCounts]:
    """Refine every sample in every way; per-image counts of every row, those of the base masks first."""
    counts: dict[Row, list[ImageCounts]] = {}
    for sample in samples:
        rows: dict[Row, Tensor] = {} if sample.raw is None else {BASE: sample.raw}
        rows[reference] = sample.base
        edges: dict[Any, Edges] = {}
        for name, variant in variants.items():
            tool = edges.setdefault(variant.boundary, Edges(variant.boundary))
            rows |= {
                (name, s): mask for s, mask in _stages(sample, variant, tool, ignore_index, cache).items()
            }
        for row, mask in rows.items():
            counted = image_counts(mask, sample.target, num_classes=classes, ignore_index=ignore_index)
            counts.setdefault(row, []).append(counted)
    return {row: ImageCounts(*map(np.concatenate, zip(*parts))) for row, parts in counts.items()}


def _stages(
    sample: Sample, variant: Variant, edges: Edges, ignore_index: int, cache: Cache | None
) -> dict[str, Tensor]:
    def make() -> dict[str, np.ndarray]:
        masks = refine(sample, variant, edges, ignore_index=ignore_index)
        return {stage: mask.numpy().astype(np.int32) for stage, mask in masks.items()}

    if cache is None or callable(variant.boundary):
        made = make()
    else:
        inputs = (sample.image, sample.cams, sample.base, sample.uss, *sample.wss, sample.tags)
        made = cache("masks", sample.key, (_code(), variant, ignore_index, *inputs), make)
    return {stage: torch.from_numpy(mask).long() for stage, mask in made.items()}


# --------------------------------------------------------------------------------------------------
# Figures


def bootstrap(
    counts: Mapping[Row, ImageCounts],
    reference: Row,
    *,
    labels: Sequence[int] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> dict[Row, dict[str, np.ndarray]]:
    """Every figure of every row on resamples of the images, the same ones for all rows: (draws,) each."""
    images = len(counts[reference].true)
    rng = np.random.default_rng(seed)
    sampled: dict[Row, list[Scores]] = {row: [] for row in counts}
    for start in range(0, draws, 100):  # by blocks: 100 x 40,000 images fit in memory
        weights = rng.multinomial(images, np.full(images, 1 / images), size=min(100, draws - start))
        for row, part in counts.items():
            scores = scores_of(part, base=counts[reference], labels=labels, weights=weights)
            sampled[row].append(scores)
    return {
        row: {name: np.concatenate([getattr(part, name) for part in parts]) for name in METRICS}
        for row, parts in sampled.items()
    }


def standard_error(differences: np.ndarray) -> float:
    """Spread of a figure over the resamples; those in which it is not defined are left out."""
    defined = differences[np.isfinite(differences)]
    return float(defined.std(ddof=1)) if len(defined) > 1 else math.nan


def summarise(
    counts: Mapping[Row, ImageCounts],
    reference: Row,
    *,
    labels: Sequence[int] | None = None,
    draws: int = 1000,
) -> dict[str, Any]:
    """Figures of all rows, differences against the reference and of the first variant against the others."""
    scores = {row: scores_of(part, base=counts[reference], labels=labels) for row, part in counts.items()}
    sampled = bootstrap(counts, reference, labels=labels, draws=draws)

    def minus(one: Row, other: Row) -> dict[str, dict[str, float]]:
        return {
            name: {
                "difference": getattr(scores[one], name) - getattr(scores[other], name),
                "standard_error": standard_error(sampled[one][name] - sampled[other][name]),
            }
            for name in METRICS
        }

    variants = list(dict.fromkeys(name for name, _ in counts if name))
    finals = [(name, "final") for name in variants]
    return {
        "images": scores[reference].images,
        "pairs": scores[reference].pairs,
        "reference": list(reference),
        "rows": [
            {
                "variant": row[0],
                "stage": row[1],
                **{name: getattr(score, name) for name in METRICS},
                "iou": score.iou.tolist(),
                "minus_reference": None if row == reference else minus(row, reference),
                "per_image": image_scores(counts[row]).miou.tolist(),
            }
            for row, score in scores.items()
        ],
        "comparisons": [
            {"variant": finals[0][0], "minus": other[0], **minus(finals[0], other)} for other in finals[1:]
        ],
    }


def _cells(summary: Mapping[str, Any], changes: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Text of the table, in percent, with the changes of some figures in brackets."""
    for row in summary["rows"]:
        against = row["minus_reference"]
        cells = []
        for name in METRICS:
            text = _percent(row[name])
            if against is not None and name in changes and math.isfinite(row[name]):
                text += f" ({_change(against[name])})"
            cells.append(text)
        yield row["variant"], row["stage"], *cells
    for row in summary["comparisons"]:
        cells = [_change(row[name]) for name in METRICS]
        yield f"{row['variant']} - {row['minus']}", "final", *cells


def _percent(value: float) -> str:
    return f"{100 * value:.1f}" if math.isfinite(value) else "-"


def _change(value: Mapping[str, float]) -> str:
    if not math.isfinite(value["difference"]):
        return "-"
    return f"{100 * value['difference']:+.1f} ± {_percent(value['standard_error'])}"


def markdown(summary: Mapping[str, Any]) -> str:
    """The table as Markdown, with a line on what it shows."""
    heads = ("recipe", "stage", *TITLES)
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    changes = [name for name in METRICS if name != "recovery"]
    lines += ["| " + " | ".join(cells) + " |" for cells in _cells(summary, changes)]
    return f"{_caption(summary)}\n\n" + "\n".join(lines) + "\n"


def _caption(summary: Mapping[str, Any]) -> str:
    return (
        f"{summary['images']} images, {summary['pairs']} image-tag pairs, all figures in percent; in "
        f"brackets the difference to {summary['reference'][1]} ± its standard error (bootstrap over images)."
    )


def _without_nan(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, Mapping):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def extremes(summary: Mapping[str, Any], variant: str, count: int = 3) -> list[int]:
    """Numbers of the images whose mIoU a variant changes most, the best and the worst ones."""
    per_image = {(row["variant"], row["stage"]): row["per_image"] for row in summary["rows"]}
    change = np.subtract(per_image[variant, "final"], per_image[tuple(summary["reference"])])
    order = [int(place) for place in np.argsort(-change, kind="stable") if math.isfinite(change[place])]
    return order[:count] + order[count:][-count:]


def tau_figure(summary: Mapping[str, Any], taus: Sequence[float]) -> Any:
    """Change in two figures against the base mask over tau, with the standard error of the change."""
    rows = {row["variant"]: row["minus_reference"] for row in summary["rows"] if row["stage"] == "final"}
    ordered = sorted(set(taus))
    curves: dict[str, dict[str, list[float]]] = {}
    for name, title in (("miou", "mIoU"), ("per_image_miou", "per-image mIoU")):
        for part in ("difference", "standard_error"):
            points = [100 * rows[f"tau={tau:g}"][name][part] for tau in ordered]
            curves.setdefault(part, {})[title] = points
    label = f"change against {summary['reference'][1]} (points)"
    return viz.show_tau(ordered, curves["difference"], errors=curves["standard_error"], ylabel=label)


# --------------------------------------------------------------------------------------------------
# The command line


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    arguments = parser().parse_args(argv)
    try:
        run(arguments)
    except (DemoError, OSError) as error:
        print(f"benchmark_quality: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    result = argparse.ArgumentParser(description="Quality of refined masks on images with ground truth.")
    data = result.add_argument_group("data set")
    data.add_argument("--root", type=Path, help="VOC-like folder, or --images and --targets")
    data.add_argument("--images", type=Path, help="folder of images")
    data.add_argument("--targets", type=Path, help="folder of index PNGs of the same names")
    data.add_argument("--list", type=Path, help="text file of image ids (all targets)")
    data.add_argument("--split", default="val", help="split of --root (%(default)s)")
    data.add_argument("--classes", type=int, default=21, help="labels, background included (%(default)s)")
    data.add_argument("--ignore-index", type=int, default=255, help="label left out (%(default)s)")
    data.add_argument("--tags", type=Path, help="cls_labels.npy (default: tags of the ground truth)")
    data.add_argument("--min-classes", type=int, default=1, help="foreground classes in the ground truth")
    data.add_argument("--limit", type=int, help="only the first images")
    data.add_argument("--half", choices=("tune", "check"), help="the first, third, ... image, or the others")
    data.add_argument(
        "--miou-labels", type=_numbers, help="labels that mIoU, mFPR and mFNR average over, as 0,8,15 (all)"
    )
    made = result.add_argument_group("CAMs, features and masks")
    made.add_argument("--head", type=Path, help="linear CAM head for EfficientNet-lite0, of torch.save")
    made.add_argument("--cams", type=Path, help="folder of CAM files, in any form that read_cams takes")
    made.add_argument("--cam-background", choices=("first", "none"), help="what number 0 means in --cams")
    made.add_argument("--uss", type=Path, help="folder of features (D, h, w): .npy, .npz or .pt")
    made.add_argument("--wss", type=Path, help="folder of features, one or several levels in a file")
    made.add_argument("--masks", type=Path, help="folder of base masks (default: made of the CAMs)")
    made.add_argument("--background", type=float, default=0.2, help="background score (%(default)s)")
    made.add_argument("--vit", type=Path, help=f"the {models.VIT_REQUIREMENT} wheel or its ONNX file")
    made.add_argument(
        "--allow-pickle", action="store_true", help="unpickle files, which can run any code that they hold"
    )
    work = result.add_argument_group("refinement")
    work.add_argument(
        "--boundary", choices=("crf", "pamr", "none"), default="crf", help="boundary tool (%(default)s)"
    )
    work.add_argument(
        "--recipes", type=_recipes, default=tuple(RECIPES), help=f"of {','.join(RECIPES)} (all of them)"
    )
    work.add_argument(
        "--ablate", action="store_true", help="also the default with one choice at a time as released"
    )
    work.add_argument(
        "--taus", type=_floats, default=(), help="also the default recipe at these tau, as 0.6,0.8,1 (none)"
    )
    work.add_argument("--draws", type=int, default=1000, help="resamples of the bootstrap (%(default)s)")
    work.add_argument("--threads", type=int, help="CPU threads of PyTorch")
    work.add_argument(
        "--cache",
        type=Path,
        default=models.cache_dir() / "quality",
        help="folder of what was computed (%(default)s)",
    )
    work.add_argument("--json", type=Path, help="file for all figures")
    work.add_argument("--markdown", type=Path, help="file for the table")
    work.add_argument(
        "--figures", type=Path, metavar="DIR", help="folder for extremes.png and, with --taus, tau.png"
    )
    return result


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be numbers with commas, got {text!r}") from None


def _floats(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be numbers with commas, got {text!r}") from None


def _recipes(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if set(names) - set(RECIPES):
        raise argparse.ArgumentTypeError(f"must be of {', '.join(RECIPES)}, with commas, got {text!r}")
    return names


def items_of(arguments: argparse.Namespace) -> list[Item]:
    """The images that the command line selects."""
    if arguments.root is not None:
        images, targets = voc_folders(arguments.root)
    elif arguments.images is not None and arguments.targets is not None:
        images, targets = arguments.images, arguments.targets
    else:
        raise DemoError("the data set is missing: pass --root VOC2012, or --images DIR and --targets DIR")
    if arguments.list is not None:
        keys = read_list(arguments.list)
    elif arguments.root is not None:
        keys = voc_split(arguments.root, arguments.split)
    else:
        keys = [path.stem for path in targets.glob("*.png")]
    tags = None
    if arguments.tags is not None:
        tags = read_tags(arguments.tags, arguments.classes, allow_pickle=arguments.allow_pickle)
    return select(
        keys,
        images,
        targets,
        classes=arguments.classes,
        ignore_index=arguments.ignore_index,
        tags=tags,
        min_classes=arguments.min_classes,
        part=arguments.half,
        limit=arguments.limit,
    )


def variants(arguments: argparse.Namespace, boundary: Any) -> dict[str, Variant]:
    """What the command line asks to compare, the first against all others."""
    chosen = {name: Variant(RECIPES[name], boundary) for name in arguments.recipes}
    if arguments.ablate:
        chosen |= {name: replace(variant, boundary=boundary) for name, variant in ablations().items()}
    for tau in arguments.taus:
        chosen[f"tau={tau:g}"] = Variant(RECIPES["default"], boundary, tau=tau, stages=("final",))
    return chosen


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything that the command line asks for; returns the summary."""
    console = require("rich.console").Console()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    boundary = None if arguments.boundary == "none" else arguments.boundary
    names = {name.name for name in fields(Source)} & set(vars(arguments)) - {"cache"}
    source = Source(Cache(arguments.cache), **{name: getattr(arguments, name) for name in names})
    with console.status("reading the ground truth"):
        items = items_of(arguments)
    reference = base_row(boundary, arguments.masks)
    ignore_index = arguments.ignore_index
    compared = variants(arguments, boundary)

    def load(item: Item) -> Sample:
        return prepare(
            item,
            source,
            masks=arguments.masks,
            background=arguments.background,
            boundary=boundary,
            ignore_index=ignore_index,
        )

    with require("rich.progress").Progress(console=console) as progress:
        counts = evaluate(
            map(load, progress.track(items, description=f"{len(items)} images")),
            compared,
            reference=reference,
            classes=source.classes,
            ignore_index=ignore_index,
            cache=source.cache,
        )
    summary = summarise(counts, reference, labels=arguments.miou_labels, draws=arguments.draws)
    table = require("rich.table").Table()
    for title in ("recipe", "stage", *TITLES):
        table.add_column(title)
    for cells in _cells(summary, ("miou", "per_image_miou")):
        table.add_row(*cells)
    console.print(table)
    console.print(_caption(summary), markup=False, highlight=False)
    summary |= {
        "ids": [item.key for item in items],
        "arguments": {name: str(value) for name, value in vars(arguments).items() if value is not None},
        "versions": {
            "dhr_refine": dhr_refine.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }
    outputs = {
        arguments.json: json.dumps(_without_nan(summary), indent=1).encode(),
        arguments.markdown: markdown(summary).encode(),
    }
    if arguments.figures is not None:
        name, variant = next(iter(compared.items()))

        def after(sample: Sample) -> Tensor:
            stages = _stages(sample, variant, Edges(boundary), ignore_index, source.cache)
            return stages["final"]

        picked = [load(items[place]) for place in extremes(summary, name)]
        outputs[arguments.figures / "extremes.png"] = figure_png(
            viz.show_extremes(
                [sample.image for sample in picked],
                [sample.target for sample in picked],
                [sample.base for sample in picked],
                [after(sample) for sample in picked],
                titles=[sample.key for sample in picked],
                ignore_index=ignore_index,
            )
        )
        if arguments.taus:
            outputs[arguments.figures / "tau.png"] = figure_png(tau_figure(summary, arguments.taus))
    for path, content in outputs.items():
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, content)
    return summary


if __name__ == "__main__":
    sys.exit(main())
