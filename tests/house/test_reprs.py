"""What a notebook shows of results: shapes, or a few figures, never pages of numbers, never an error."""

from __future__ import annotations

import warnings
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

import dhr_refine
from dhr_refine import ClassMemory, DenseCRFLattice, PermutohedralLattice
from dhr_refine.files import Cams
from dhr_refine.metrics import ImageCounts, MaskScores, bootstrap, image_counts, image_scores, scores_of
from dhr_refine.training import View, has_split_labels

TARGET = np.array([[[0, 0, 1, 1], [2, 2, 2, 255]]])
COUNTS = image_counts(np.array([[[0, 0, 1, 1], [2, 2, 1, 1]]]), TARGET, num_classes=3)
EMPTY = ImageCounts(*[np.zeros((0, 3), dtype=np.int64)] * 3)
RESULTS = {
    "Cams(cams=(2, 4, 5), keys=(2,))": Cams(torch.zeros(2, 4, 5), torch.tensor([3, 7])),
    "Cams(cams=(0, 4, 5), keys=(0,))": Cams(torch.zeros(0, 4, 5), torch.zeros(0)),
    "Cams(cams=(1, 1), keys=list)": Cams(torch.zeros(1, 1), [0]),  # pyright: ignore[reportArgumentType]
    "ImageCounts(found=(1, 3), predicted=(1, 3), true=(1, 3))": COUNTS,
    "ImageScores(miou=(0,), pairs=(0, 3), vanishing=(0, 3), vanished=(0, 3))": image_scores(EMPTY),
    "SplitLabels(background=(4,), foreground=(4,))": has_split_labels(torch.zeros(4, 8, 8)),
    "View(image_size=(9, 8), resized=(9, 8), window=(0, 0, 4, 4), flip=False)": View.of(
        (9, 8), window=(0, 0, 4, 4)
    ),
    "ClassMemory(3 classes, dim 4, 0 images, 0 classes known)": ClassMemory(3, 4),
    "ClassDiscriminant(0 of 3 classes known, dim 4, background 'first')": ClassMemory(3, 4).solve(),
    "MaskScores(num_classes=3, images=0)": MaskScores(3),
    "RegionPairs(share=nan, inter_class=0, adjacent=0)": dhr_refine.metrics.inter_class_share(
        np.zeros((2, 2), dtype=int)
    ),
    "PermutohedralLattice(1 x 2 x 6, backend='torch', device='cpu')": PermutohedralLattice(
        torch.rand(1, 2, 6), backend="torch"
    ),
    "DenseCRFLattice(2 x 4 x 5, sxy=67, srgb=3, gauss_sxy=1, backend='torch', device='cpu')": DenseCRFLattice(
        torch.zeros(2, 3, 4, 5, dtype=torch.uint8), backend="torch"
    ),
}


@pytest.mark.parametrize("text", list(RESULTS))
def test_results_say_what_they_are(text):
    assert repr(RESULTS[text]) == text


def test_scores_are_a_table():
    shown = """
in %                   masks
mIoU                    77.8
per-image mIoU          77.8
mFPR                    11.1
mFNR                    11.1
vanishing                0.0
vanished (0)             0.0
recovery                   -
lowest IoU (label 1)    66.7
highest IoU (label 0)  100.0
1 image, 2 image-tag pairs""".strip()
    scores = scores_of(COUNTS)
    assert repr(scores) == str(scores) == shown
    root = ElementTree.fromstring(f"<div>{scores._repr_html_()}</div>")
    cells = [[cell.text for cell in row] for row in root.iter("tr")]
    assert [line.rsplit(maxsplit=1) for line in shown.splitlines()[1:-1]] == cells[1:]
    assert [part.text for part in root.iter("div") if part.text] == [shown.splitlines()[-1]]


def test_scores_of_nothing_are_a_table_as_well():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for scores in (scores_of(EMPTY), MaskScores(21).compute()):
            assert repr(scores).count(" -\n") == 7
            assert repr(scores).endswith("\n0 images, 0 image-tag pairs")
            assert "IoU (label" not in repr(scores)
            ElementTree.fromstring(f"<div>{scores._repr_html_()}</div>")


def test_scores_with_a_base_count_what_vanished_there():
    base = image_counts(np.zeros((1, 2, 4), dtype=int), TARGET, num_classes=3)
    text = repr(scores_of(COUNTS, base=base))
    assert text.endswith("\n1 image, 2 image-tag pairs, 2 vanish in the base")
    assert ["recovery", "100.0"] in [line.split() for line in text.splitlines()]


def test_scores_of_resamples_say_their_shapes():
    sampled = bootstrap({"one": COUNTS}, draws=7)["one"]
    assert repr(sampled).startswith("Scores(miou=(7,), iou=(7, 3), mfpr=(7,)")
    assert sampled._repr_html_() == f"<p>{sampled!r}</p>"
    assert len(repr(sampled)) < 220
