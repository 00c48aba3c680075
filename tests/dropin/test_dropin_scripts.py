"""Scripts of codebases give the same on our modules as on the original."""

from __future__ import annotations

import numpy as np
import pytest
import scripts
from originals import OURS, original
from photos import photo, scores

HEIGHT, WIDTH = 150, 170
PIXELS = HEIGHT * WIDTH


@pytest.fixture(params=["astronaut", "coffee"])
def image(request):
    return np.ascontiguousarray(photo(request.param, HEIGHT, WIDTH).permute(1, 2, 0).numpy())


def probabilities(classes: int) -> np.ndarray:
    return scores(classes, HEIGHT, WIDTH, seed=3).numpy()


def assert_close(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Marginals (labels, ...), closely."""
    assert ours.dtype == theirs.dtype == np.float32
    assert np.abs(ours - theirs).max() <= 1e-3
    assert (ours.argmax(axis=0) != theirs.argmax(axis=0)).sum() <= 1e-4 * ours[0].size


def assert_equal_labels(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    assert len(np.unique(ours)) > 1
    assert (ours != theirs).sum() <= 1e-4 * ours.size


def test_irn(image):
    labels = probabilities(4).argmax(axis=0)
    assert_equal_labels(scripts.irn(OURS, image, labels, 4), scripts.irn(original(), image, labels, 4))


@pytest.mark.parametrize("alpha", [4, 16, 24])
def test_seam(image, alpha):
    cams = probabilities(3)
    maps = {5: cams[0] / cams[0].max(), 14: cams[1] / cams[1].max()}
    ours = scripts.seam(OURS, image, maps, alpha)
    theirs = scripts.seam(original(), image, maps, alpha)
    assert list(ours) == list(theirs) == [0, 6, 15]
    assert_close(np.stack(list(ours.values())), np.stack(list(theirs.values())))


@pytest.mark.parametrize(
    "options",
    [
        {"iter_max": 10, "pos_w": 3, "pos_xy_std": 1, "bi_w": 4, "bi_xy_std": 67, "bi_rgb_std": 3},
        {"iter_max": 10, "pos_w": 7, "pos_xy_std": 3, "bi_w": 10, "bi_xy_std": 50, "bi_rgb_std": 5},
    ],
    ids=["DeepLab and CLIP-ES", "wider"],
)
def test_the_class_of_deeplab(image, options):
    """uint8 images in any layout, scores that come as they are."""
    probs = probabilities(21)
    ours, theirs = (scripts.DeepLabCRF(to, **options)(image, probs) for to in (OURS, original()))
    assert_close(ours, theirs)


@pytest.mark.parametrize("script", [scripts.readme_inference, scripts.readme_features])
def test_the_examples_of_the_original(image, script):
    labels = probabilities(4).argmax(axis=0)  # 0 is unsure
    assert_equal_labels(script(OURS, image, labels, 3), script(original(), image, labels, 3))


def test_grey_images_step_by_step(image):
    grey = image.mean(axis=2, keepdims=True, dtype=np.float32) / 255
    probs = probabilities(2)
    assert_close(scripts.readme_grey(OURS, grey, probs), scripts.readme_grey(original(), grey, probs))


def test_volumes(image):
    scan = image[:36, :40, :].astype(np.float32).transpose(2, 0, 1).repeat(5, axis=0) / 255
    rng = np.random.default_rng(0)
    probs = np.stack([0.3 + 0.4 * scan, 0.7 - 0.4 * scan]) + 0.2 * rng.random((2, *scan.shape))
    probs /= probs.sum(axis=0)
    assert_close(scripts.volume(OURS, scan, probs), scripts.volume(original(), scan, probs))
