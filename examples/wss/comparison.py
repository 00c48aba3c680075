"""What runs of examples/train_wss.py say of each other: differences over the same images, with errors."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from dhr_refine.errors import UserError, reading
from dhr_refine.metrics import ImageCounts, scores_of

KINDS = ("CAM mask", "base mask", "target mask", "network")
_PATTERN = re.compile(r"evaluation-(\d+)\.npz")


def run_folders(text: str) -> list[Path]:
    """Folders of runs that are alike but for their seeds, separated by commas."""
    return [Path(part) for part in text.split(",")]


def compare(first: list[Path], second: list[Path]) -> None:
    """Print mIoU and vanishing rate of two runs and the differences with their standard errors.

    Several runs each, with other seeds, are paired in their order and averaged. The standard error is that of
    a bootstrap over the images, which are the same in all runs.
    """
    if len(first) != len(second):
        raise UserError(f"--compare: {len(first)} runs against {len(second)}: pass as many of each")
    pairs = [(_evaluations(a), _evaluations(b)) for a, b in zip(first, second, strict=True)]
    steps = sorted(set.intersection(*(set(files) for pair in pairs for files in pair)))
    if not steps:
        raise UserError(
            f"--compare: {_names(first)} and {_names(second)} have no evaluation of the same step: compare "
            "runs with as many --steps, on a --root with ground truth"
        )
    for step in steps:
        counts = [[read_evaluation(files[step]) for files in pair] for pair in pairs]
        true = counts[0][0]
        if any(
            not np.array_equal(true[kind].true, one[kind].true)
            for pair in counts
            for one in pair
            for kind in KINDS
        ):
            raise UserError(
                f"--compare: {_names(first)} and {_names(second)} were evaluated on other images at step "
                f"{step}: run both with the same --root and --eval-images"
            )
        print(f"step {step}")
        for kind in KINDS:
            print(f"  {kind:12s} {_difference([(a[kind], b[kind]) for a, b in counts])}")


def _difference(pairs: list[tuple[ImageCounts, ImageCounts]]) -> str:
    """Means over the pairs, and of the differences, which are drawn for all pairs alike."""
    images = len(pairs[0][0].true)
    weights = np.random.default_rng(0).multinomial(images, np.full(images, 1 / images), 1000)
    texts = []
    for name, title in (("miou", "mIoU"), ("vanishing", "vanishing")):

        def mean(which: int, name: str = name, **options: np.ndarray) -> np.ndarray:
            return 100 * np.mean([getattr(scores_of(pair[which], **options), name) for pair in pairs], axis=0)

        before, after = mean(0), mean(1)
        error = np.std(mean(1, weights=weights) - mean(0, weights=weights))
        texts.append(f"{title} {before:5.1f} % -> {after:5.1f} % ({after - before:+.1f} ± {error:.1f})")
    return "  ".join(texts)


def _evaluations(folder: Path) -> dict[int, Path]:
    """Files of a run's evaluations by step."""
    if not folder.is_dir():
        raise UserError(f"--compare: {folder} is no folder: pass the --out of two runs")
    return {int(match[1]): path for path in folder.iterdir() if (match := _PATTERN.fullmatch(path.name))}


def _names(folders: list[Path]) -> str:
    return ", ".join(map(str, folders))


def read_evaluation(path: Path) -> dict[str, ImageCounts]:
    """The counts that a run has written, per kind of mask."""
    with reading(path, "run that training again, or delete the file"):
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            counts = {
                kind: ImageCounts(*(arrays[f"{kind}/{name}"] for name in ImageCounts._fields))
                for kind in KINDS
            }
        parts = [part for one in counts.values() for part in one]
        shape = parts[0].shape
        if len(shape) != 2 or 0 in shape or any(part.shape != shape for part in parts):
            raise ValueError("its counts are not of one shape (images, labels)")
        if any(part.dtype.kind not in "iu" or (part < 0).any() for part in parts):
            raise ValueError("its counts are no numbers of pixels")
    return counts
