"""The classifier with its real weights: features, CAMs, and what they lie on."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from photos import photo

from dhr_refine.datasets.photos import PHOTOS
from dhr_refine.errors import UserError
from dhr_refine.pretrained import Classifier
from dhr_refine.pretrained.classifier import read_head

CAT_CLASSES = {281, 282, 285}  # tabby, tiger cat, Egyptian cat


@pytest.fixture(scope="session")
def classifier():
    """The classifier with its weights."""
    return Classifier.load()


def test_levels_have_the_strides_and_end_as_the_package_does(classifier):
    images = torch.rand(1, 3, 128, 192) * 255
    with torch.no_grad():
        fine, deep = classifier.levels(images)
        expected = classifier.network.extract_features((images - 127) / 128)
    assert fine.shape == (1, 112, 8, 12)
    assert deep.shape == (1, 1280, 4, 6)
    torch.testing.assert_close(deep, expected)


def test_classifier_knows_a_cat_and_its_cam_lies_on_it(classifier):
    image = photo("chelsea", 300, 451)
    with torch.no_grad():
        deep = classifier.levels(F.interpolate(image[None].float(), (224, 224), mode="bilinear"))[-1]
        best = int(classifier.network._fc(deep.mean((2, 3))).argmax())
    assert best in CAT_CLASSES
    cams, features = classifier(image, [list(CAT_CLASSES), [812]])
    assert cams.shape == (2, 19, 29)
    assert [level.shape[1] for level in features] == [112, 1280]
    assert cams.min() >= 0
    assert cams[0].max() > 3 * cams[1].max()  # a cat, no space shuttle
    assert cams[0, :, 8:20].mean() > 2 * cams[0, :, -4:].mean()  # the face, not the blurred right edge


def test_cams_turn_with_the_photo_and_groups_take_the_largest_class(classifier):
    image = PHOTOS["coffee"].load()[:, :384, :576]
    scales = (0.5, 1.0)
    cams, features = classifier(image, [[504], [968], [504, 968]], scales=scales)
    turned, _ = classifier(image.flip(-1), [[504], [968], [504, 968]], scales=scales)
    torch.testing.assert_close(turned.flip(-1), cams, rtol=1e-3, atol=1e-3)
    assert (cams[2] >= cams[:2].amax(0) - 1e-4).all()
    without, same = classifier(image, [[504]], scales=(0.5,))  # features are those of scale 1 anyway
    assert without.shape == cams[:1].shape
    torch.testing.assert_close(same[1], features[1], rtol=1e-3, atol=1e-3)


def test_cams_of_a_head_are_its_rows(classifier, tmp_path):
    image = PHOTOS["coffee"].load()[:, :128, :192]
    weight = torch.randn(3, 1280, generator=torch.Generator().manual_seed(0))
    torch.save({"weight": weight.double(), "bias": torch.ones(3)}, tmp_path / "head.pt")
    head = read_head(tmp_path / "head.pt", 3)
    assert torch.equal(head, weight)
    cams, features = Classifier.load(head)(image, [[2], [0]], scales=(1.0,))
    _, same = classifier(image, [[0]], scales=(1.0,))
    assert all(map(torch.equal, features, same))
    maps = []
    for flipped in (image, image.flip(-1)):
        deep = classifier.levels(flipped[None].float())[-1][0]
        rows = torch.einsum("kd,dhw->khw", weight[[2, 0]], deep).relu()
        maps.append(F.interpolate(rows[None], (8, 12), mode="bilinear")[0])
    torch.testing.assert_close(cams, (maps[0] + maps[1].flip(-1)) / 2, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (
            torch.ones(3, 4),
            r"head\.pt must hold weight \(2, 1280\), a row per .* --classes 3, got \(3, 4\): pass",
        ),
        ({"weight": torch.full((2, 1280), torch.nan)}, "head.pt holds NaN or infinity .*: make it anew"),
        ({"weights": torch.ones(2, 1280)}, r"head\.pt must hold weight \(2, 1280\), .*, got weights: pass"),
        (torch.ones(2, 1280, dtype=torch.complex64), "head.pt holds complex numbers"),
    ],
)
def test_heads_that_do_not_fit(tmp_path, content, text):
    torch.save(content, tmp_path / "head.pt")
    with pytest.raises(UserError, match=text):
        read_head(tmp_path / "head.pt", 2)
