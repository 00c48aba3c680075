"""Masks of a folder against ground truth: :func:`evaluate_folder`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..checks import check_choice, check_count
from ..datasets.classes import Background, ClassSet, class_set
from ..metrics import ImageCounts, MaskScores, bootstrap, scores_of, standard_error
from ..metrics.counts import count_pixels
from ..metrics.data_set import FIGURES
from ..metrics.per_image import Absent
from .review.scores import Change, FolderScores
from .review.selection import Folder, Ids, ImageFailed, MaskFolders, as_folder, choose
from .runs.outcomes import Outcome
from .runs.progress import Progress


def evaluate_folder(
    masks: Folder,
    targets: Folder,
    *,
    base: Folder | None = None,
    classes: str | int | ClassSet = "voc",
    background: Background | None = None,
    ignore_index: int = 255,
    absent: Absent = "skip",
    ids: Ids = None,
    limit: int | None = None,
    draws: int = 1000,
    quiet: bool = True,
) -> FolderScores:
    """Score a folder of masks against ground truth, and against the masks that they were refined from.

    Masks are index PNGs, or arrays (H, W) in .npy, .npz, .pt, .pth or .pkl files, named by the ids of their
    images. An image whose file is missing or damaged, or whose masks differ in size, is left out and told of
    in ``failures``. Of each image only the counts of its pixels are kept.

    Parameters
    ----------
    masks, targets : str or path
        Folders of the masks and of the ground truth.
    base : str or path, optional
        Folder of the masks that ``masks`` were refined from: adds their figures, the differences to them and
        the recovery rate.
    classes : str, int or ClassSet
        ``"voc"``, ``"coco"``, ``"context"``, ``"ade"``, ``"stuff"``, or the number of labels, the background
        counted.
    background : {"first", "last", "none"}, optional
        Where the background is among the labels. Default: where the data set has it, ``"first"`` for a
        number.
    ignore_index : int
        Left out in the ground truth, a miss in a mask.
    absent : {"skip", "zero"}
        What a class is worth that is predicted, but not in the ground truth, as in
        :class:`dhr_refine.metrics.MaskScores`.
    ids : sequence of str, or path, optional
        The images, or a file with one at the start of each line. Default: all that both folders have; how
        many are in one alone is told in ``unmatched``.
    limit : int, optional
        At most so many images, the first ones.
    draws : int
        Resamples of the bootstrap over images. 0: no standard errors.
    quiet : bool
        False: tell on standard error how far it is.

    Returns
    -------
    FolderScores

    Raises
    ------
    ValueError, TypeError
        An option out of range, a data set that is not known, paths that are none.
    UserError
        A folder that cannot be read, no image that the folders share.

    Warns
    -----
    UserWarning
        Two classes, and ground truth that was surely meant as {0, 1}, but has the foreground as 255.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from dhr_refine.folders import evaluate_folder
    >>> with tempfile.TemporaryDirectory() as root:
    ...     for name, mask in (("masks", [[0, 1], [1, 1]]), ("targets", [[0, 0], [1, 1]])):
    ...         folder = Path(root, name)
    ...         folder.mkdir()
    ...         np.save(folder / "photo.npy", np.array(mask))
    ...     report = evaluate_folder(Path(root, "masks"), Path(root, "targets"), classes=2)
    >>> round(report.scores.miou, 3), report.ids, report.failures
    (0.583, ('photo',), ())
    """
    check_count(draws, "draws", 0)
    check_choice(absent, "absent", ("skip", "zero"))
    labels = class_set(classes, background=background)
    given = {"masks": masks, "targets": targets} | ({} if base is None else {"base": base})
    folders = MaskFolders(
        {stage: as_folder(path, stage) for stage, path in given.items()}, labels, ignore_index
    )
    own, truth = folders.files["masks"], folders.files["targets"]
    chosen = choose((own, truth), ids, limit)
    done, counts, failures = _count(folders, chosen, quiet)
    unmatched = {
        "masks": sum(key not in truth for key in own.keys()),  # noqa: SIM118
        "targets": sum(key not in own for key in truth.keys()),  # noqa: SIM118
    }
    return FolderScores(
        folders=dict(folders.folders),
        classes=labels,
        ignore_index=ignore_index,
        absent=absent,
        ids=tuple(done),
        counts=counts["masks"],
        base_counts=counts.get("base"),
        draws=draws,
        failures=tuple(failures),
        unmatched=unmatched if ids is None else dict.fromkeys(unmatched, 0),
        **_score(counts, {"background": labels.background, "absent": absent}, draws),
    )


def _count(
    folders: MaskFolders, keys: Sequence[str], quiet: bool
) -> tuple[list[str], dict[str, ImageCounts], list[Outcome]]:
    """Ids that could be counted, the counts of the masks and of the base, and what failed."""
    options: Any = {"num_classes": folders.classes.num_classes, "ignore_index": folders.ignore_index}
    # Room for all at once: small arrays that stay, between large ones of masks that go, hold on to memory.
    size = (len(keys), options["num_classes"])
    stages = [stage for stage in folders.folders if stage != "targets"]
    counts = {stage: ImageCounts(*(np.zeros(size, dtype=np.int64) for _ in range(3))) for stage in stages}
    slips = MaskScores(**options)
    done, failures = [], []
    with Progress(len(keys), "masks", quiet=quiet) as progress:
        for key in keys:
            try:
                found = folders.read(key)
            except ImageFailed as error:
                failures.append(error.outcome)
                progress.advance("failed")
                continue
            for stage, several in counts.items():
                own = count_pixels(found[stage], found["targets"], stage, **options)
                for part, row in zip(several, own):
                    part[len(done)] = row[0]
            done.append(key)
            if options["num_classes"] == 2:
                slips.update(found["masks"], found["targets"])
            progress.advance("done")
    slips.compute()  # warns of ground truth in {0, 255}
    filled = {stage: ImageCounts(*(part[: len(done)] for part in all_)) for stage, all_ in counts.items()}
    return done, filled, failures


def _score(counts: Mapping[str, ImageCounts], options: Mapping[str, Any], draws: int) -> dict[str, Any]:
    """The fields of a report that are made of counts."""
    base = counts.get("base")
    scores = {stage: scores_of(part, base=base, **options) for stage, part in counts.items()}
    # One image is the same in each resample: it says nothing of the spread. Nor does a class in one image.
    many = draws > 0 and len(counts["masks"].true) > 1
    sampled = bootstrap(counts, base=base, draws=draws, **options) if many else None

    def spread(one: str, minus: str | None = None) -> dict[str, Any]:
        if sampled is None:
            return dict.fromkeys(FIGURES, np.nan) | {"iou": np.full_like(scores[one].iou, np.nan)}
        parts = {name: getattr(sampled[one], name) for name in (*FIGURES, "iou")}
        if minus is not None:
            parts = {name: part - getattr(sampled[minus], name) for name, part in parts.items()}
        classes = np.array([standard_error(part) for part in parts.pop("iou").T])
        classes[(counts[one].true > 0).sum(axis=0) < 2] = np.nan
        return {name: standard_error(part) for name, part in parts.items()} | {"iou": classes}

    fields = {"scores": scores["masks"], "standard_errors": spread("masks")}
    if base is None:
        return fields | {"base_scores": None, "base_standard_errors": None, "changes": None}
    errors = spread("masks", "base")
    changes = {
        name: Change(getattr(scores["masks"], name) - getattr(scores["base"], name), errors[name])
        for name in errors
        if name != "recovery"
    }
    return fields | {
        "base_scores": scores["base"],
        "base_standard_errors": spread("base"),
        "changes": changes,
    }
