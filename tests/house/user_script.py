"""What users write against the library, for type checkers alone: it is never run, see test_types.py."""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import assert_type

import dhr_refine
import dhr_refine.pydensecrf.densecrf as dcrf
from dhr_refine import (
    ClassMemory,
    Recipe,
    RefineSteps,
    base_mask,
    dense_crf,
    random_walk,
    refine_mask,
    refine_steps,
    sam,
)
from dhr_refine.files import Cams, read_cams, read_image, read_mask, write_mask
from dhr_refine.folders import CheckReport, FolderReport, RunOptions, check_folder, refine_folder
from dhr_refine.metrics import MaskScores, Scores, bootstrap, image_counts, scores_of, standard_error
from dhr_refine.propagation import feature_affinity
from dhr_refine.pydensecrf.utils import create_pairwise_bilateral, unary_from_softmax
from dhr_refine.training import View, has_labels
from dhr_refine.viz import overlay_mask, show_similarity, show_steps


def tool(images: Tensor, probs: Tensor) -> Tensor:
    """A boundary tool for calls with images."""
    return dense_crf(images, probs, iterations=3)


def sparing_tool(images: Tensor | None, probs: Tensor) -> Tensor:
    """One for calls without images as well."""
    return probs if images is None else tool(images, probs)


class Tool:
    """One with a state."""

    def __call__(self, images: Tensor, probs: Tensor) -> Tensor:
        """Sharpen."""
        return probs**2


def no_tool(images: Tensor) -> Tensor:
    """Takes no probabilities."""
    return images


def refine_tensors(cams: Tensor, masks: Tensor, uss: Tensor, wss: list[Tensor], images: Tensor) -> None:
    """A batch or one image: a tensor comes back."""
    assert_type(refine_mask(cams, masks, uss, wss, images, labels=[[14], []]), Tensor)
    assert_type(refine_mask(cams, masks, uss, uss, images, labels={14: cams[0], 2: cams[1]}), Tensor)
    assert_type(refine_mask(cams, masks, uss, uss, images, labels=masks > 0, boundary=tool), Tensor)
    refine_mask(
        cams, masks, uss, uss, images, labels=np.array([14]), boundary=partial(dense_crf, iterations=5)
    )
    refine_mask(cams, masks, uss, uss, labels=[{14, 2}, {0}], boundary=sparing_tool, recipe=Recipe.paper())
    refine_mask(cams, masks, uss, uss, images, labels=[14, 2], boundary=Tool(), mean=None, tau=0.9)
    refine_mask(cams, masks, uss, uss, images, boxes=[(0, 0, 5, 5), None], box_format="xyxy")
    refine_mask(cams, masks, uss, uss, images, boxes=torch.zeros(2, 4), box_format="yyxx", boundary=None)
    assert_type(base_mask(cams, [[14], [2]], images, background=0.3, refine="par"), Tensor)
    assert_type(base_mask(cams, [14], background="power", alpha=2.0, size=(56, 56)), Tensor)
    assert_type(dhr_refine.two_threshold_mask(cams, [14], high=0.7, low=0.25, refine=tool), Tensor)
    steps = refine_steps(cams, masks, uss, uss, images)
    assert_type(steps, RefineSteps)
    assert_type(steps.mask, Tensor)
    assert_type(show_steps(steps, images[0], cams={1: cams[0]}, names={0: "background"}, index=0), Figure)


def refine_lists(
    cams: list[Tensor], masks: list[Tensor], uss: list[Tensor], images: tuple[Tensor, ...]
) -> None:
    """Images of several sizes: a list comes back."""
    assert_type(refine_mask(cams, masks, uss, uss, images, labels=[[14], [2, 3]]), list[Tensor])
    assert_type(refine_mask(cams, tuple(masks), uss, [uss, uss], images), list[Tensor])
    assert_type(
        base_mask(cams, [[14], [2]], images, background=0.3, boxes=[None, (0, 0, 4, 4)]), list[Tensor]
    )
    assert_type(dhr_refine.two_threshold_mask(cams, [[14]], high=[0.7, 0.6], low=0.2), list[Tensor])
    steps = refine_steps(cams, masks, uss, uss, images, boundary="pamr")
    assert_type(steps, RefineSteps[list[Tensor]])
    assert_type(steps.probs, list[Tensor])
    assert_type(show_similarity(steps, names=["background", "cat"], index=1), Figure)


def refuse(cams: Tensor, masks: Tensor, uss: Tensor, images: Tensor) -> None:
    """What must not pass: a checker says so where one of these comments is not needed."""
    refine_mask(cams, masks, uss, uss, images, boundary=no_tool)  # type: ignore  # takes one argument
    refine_mask(cams, masks, uss, uss, images, boundary="grabcut")  # type: ignore  # no such tool
    refine_mask(cams, masks, uss, uss, images, labels="cat")  # type: ignore  # text is no tag
    refine_mask(cams, masks, uss, uss, images, colour=1)  # type: ignore  # no such option
    base_mask(cams, [14], images)  # type: ignore  # the background has no default
    check_folder("images", cams="cams", ouput="masks")  # type: ignore  # a slip of the pen
    dhr_refine.refine_masks(cams)  # type: ignore  # no such name


def remember(features: Tensor, masks: Tensor, path: Path) -> ClassMemory:
    """Statistics over a data set."""
    memory = ClassMemory(21, 384, covariance="pooled")
    memory.update(features, masks, labels=[[14]] * len(masks))
    memory.load_state_dict(memory.state_dict())
    memory.save(path)
    batches: list[dict[str, Tensor]] = [{"uss_features": features, "masks": masks}]
    assert_type(ClassMemory.fit(batches, 21, rounds=2, shrinkage=0.2), ClassMemory)
    assert_type(memory.images, Tensor)
    assert_type(memory.num_classes, int)
    return ClassMemory.load(path)


def score(pred: Tensor, target: NDArray[np.uint8]) -> float:
    """Figures of a data set, and of its resamples."""
    scores = MaskScores(21)
    scores.update(pred, target)
    assert_type(scores.compute(), Scores)
    assert_type(scores.compute().pairs, int)
    counts = image_counts(pred, target, num_classes=21)
    assert_type(scores_of(counts).miou, float)
    assert_type(scores_of(counts, weights=np.ones((5, 1))).miou, NDArray[np.float64])
    sampled = bootstrap({"refined": counts}, draws=100)
    return standard_error(sampled["refined"].miou) + round(scores_of(counts).miou, 3)


def read(path: Path) -> Tensor:
    """Files."""
    found = read_cams(path, background="none")
    assert_type(found, Cams)
    cams, keys = found
    mask = refine_mask(cams, read_mask(path), cams, cams, read_image(path), labels=keys)
    write_mask(path, mask, palette=dhr_refine.viz.palette(21))
    write_mask(path, mask.numpy())
    return mask


def whole_folders(images: Path) -> int:
    """Folders."""
    run = RunOptions(quiet=True)
    checked = check_folder(images, cams="cams", out="masks", uss="uss", run=run)
    assert_type(checked, CheckReport)
    report = refine_folder(images, cams="cams", out="masks", uss="uss", boundary=tool, run=run)
    assert_type(report, FolderReport)
    assert_type(dhr_refine.folders.refine_folder(images, cams="cams", out="masks"), FolderReport)
    return checked.exit_code


def capture(model: torch.nn.Module, batch: Tensor) -> Tensor:
    """Features and views."""
    with dhr_refine.capture_layers(model, ["layer4"]) as captured:
        model(batch)
    view = View.of((375, 500), window=(0, 0, 512, 512))
    features = dhr_refine.tokens_to_map(batch, grid=view.size)
    assert_type(view.crop(features), Tensor)
    assert_type(has_labels(batch), Tensor)
    plan = dhr_refine.sinkhorn_ot(features)
    centroids = dhr_refine.class_avg_pool(features, batch, num_classes=2)
    assert_type(dhr_refine.metrics.inter_class_share(batch[0]).share, float)
    layer: Tensor = captured["layer4"]  # what a layer returns is its own affair
    return plan.plan + centroids.vectors + layer


def drop_in(image: NDArray[np.uint8], probs: NDArray[np.float32]) -> NDArray[np.int64]:
    """pydensecrf's interface."""
    dhr_refine.pydensecrf.install()
    field = dcrf.DenseCRF2D(image.shape[1], image.shape[0], len(probs))
    field.setUnaryEnergy(unary_from_softmax(probs))
    field.addPairwiseGaussian(sxy=3, compat=3)
    field.addPairwiseBilateral(sxy=(50, 50), srgb=5, rgbim=image, compat=np.eye(len(probs)))
    features = create_pairwise_bilateral(sdims=(10, 10), schan=(5, 5, 5), img=image, chdim=2)
    field.addPairwiseEnergy(features, compat=10)
    field.addPairwiseEnergy(features, compat=10, kernel=dhr_refine.pydensecrf.densecrf.FULL_KERNEL)
    labels: NDArray[np.int64] = np.argmax(field.inference(5), axis=0)
    return labels


def segments(steps: RefineSteps, masks: Tensor, cams: Tensor, images: Tensor) -> Tensor:
    """Votes of segments, walks."""
    files = [Path("segments/a.json"), Path("segments/b.json")]
    assert_type(sam.sam_vote(steps, files), Tensor)
    assert_type(sam.sam_vote([masks[0]], [masks[0]], rule="sepl", labels=[[0]]), list[Tensor])
    assert_type(sam.as_segments(masks[0]).resize((8, 8)), sam.Segments)
    walked = random_walk(cams, feature_affinity(images))
    assert_type(walked, Tensor)
    return refine_mask(walked, masks, cams, cams, images, labels=[[0]], boundary=sam.segment_voting(files))


def look(image: NDArray[np.uint8], mask: Tensor) -> Figure:
    """Figures."""
    picture = overlay_mask(image, mask)
    dhr_refine.viz.colour_mask(mask).tobytes()
    return dhr_refine.viz.show_extremes([picture], [mask], [mask], [mask], names=["background"])
