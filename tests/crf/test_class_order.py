"""No class is treated unlike another: classes that change places keep their results, ties included.

Mean field can amplify the least difference: that of 1e-7 between two unsure classes becomes one of 0.5 in ten
iterations. What is not the same to the last bit is not the same.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import BACKENDS, assert_parity
from photos import PRESETS, photo, scores, voc_images

from dhr_refine import dense_crf

pytestmark = pytest.mark.usefixtures("one_thread")

# Those that fill vectors, and one more or less; the classes of VOC, COCO and ADE20K with background.
NUMBERS = (*range(2, 25), 41, 81, 171)


def unsure(classes: int, height: int, width: int, seed: int) -> torch.Tensor:
    return torch.full((classes, height, width), 1 / classes)


def nearly_unsure(classes: int, height: int, width: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 1 / classes + 1e-7 * torch.rand(classes, height, width, generator=generator)


def noise(classes: int, height: int, width: int, seed: int) -> torch.Tensor:
    return torch.rand(classes, height, width, generator=torch.Generator().manual_seed(seed))


def smooth(classes: int, height: int, width: int, seed: int) -> torch.Tensor:
    return scores(classes, height, width, seed=seed)


def tied(classes: int, height: int, width: int, seed: int) -> torch.Tensor:
    """Each class of the first half has a twin."""
    return smooth(classes // 2 + 1, height, width, seed).repeat(2, 1, 1)[:classes] / 2


def islands(classes: int, height: int, width: int, seed: int) -> torch.Tensor:
    """Unsure but for a few pixels."""
    probs = unsure(classes, height, width, seed)
    sure = noise(1, height, width, seed)[0] < 0.01
    return torch.where(sure, smooth(classes, height, width, seed), probs)


def labels(classes: int, height: int, width: int, seed: int) -> torch.Tensor:
    best = smooth(classes, height, width, seed).argmax(dim=0)
    return torch.nn.functional.one_hot(best, classes).permute(2, 0, 1).float()


KINDS = (unsure, nearly_unsure, noise, smooth, tied, islands, labels)


@settings(max_examples=40)
@given(
    kind=st.sampled_from(KINDS),
    classes=st.sampled_from(NUMBERS),
    preset=st.sampled_from(sorted(PRESETS)),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    batch=st.integers(1, 3),
    threads=st.integers(1, 3),
    seed=st.integers(0, 1000),
    data=st.data(),
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_classes_may_change_places(backend, kind, classes, preset, size, batch, threads, seed, data):
    from dhr_refine.crf.backends.numba import solve

    order = torch.tensor(data.draw(st.permutations(range(classes))))
    images = torch.stack([photo(name, *size) for name in ("coffee", "astronaut", "chelsea")])[:batch]
    probs = torch.stack([kind(classes, *size, seed + index) for index in range(batch)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(solve, "_PIXELS_PER_THREAD", 100)
        torch.set_num_threads(threads)
        result = dense_crf(images, probs, backend=backend, **PRESETS[preset])
        moved = dense_crf(images, probs[:, order], backend=backend, **PRESETS[preset])
    if backend == "numba":
        assert torch.equal(moved, result[:, order])
    else:  # as far as torch's own operations treat all numbers alike
        torch.testing.assert_close(moved, result[:, order], atol=1e-5, rtol=0)


@pytest.mark.parametrize("classes", [2, 4, 5, 9, 21])
@pytest.mark.parametrize("kind", [nearly_unsure, noise])
def test_reversed_classes(backend, kind, classes):
    # What is amplified most: sums of the classes that are rounded in their order move these by up to 1e-3.
    image, probs = photo("coffee", 90, 123), kind(classes, 90, 123, classes)
    for preset in ("A", "B"):
        result = dense_crf(image, probs, backend=backend, **PRESETS[preset])
        moved = dense_crf(image, probs.flip(0), backend=backend, **PRESETS[preset])
        torch.testing.assert_close(moved.flip(0), result, atol=1e-6, rtol=0)


@pytest.mark.parametrize("classes", NUMBERS)
def test_unsure_stays_unsure(backend, classes):
    image = photo("coffee", 40, 53)
    for preset in ("A", "B"):
        result = dense_crf(image, unsure(classes, 40, 53, 0), backend=backend, **PRESETS[preset])
        assert torch.equal(result, result[:1].expand_as(result))
        torch.testing.assert_close(result, torch.full_like(result, 1 / classes), atol=1e-6, rtol=0)


@pytest.mark.parametrize("classes", [2, 3, 4, 5, 8, 9, 16, 17, 24, 41])
def test_twins_stay_twins(backend, classes):
    image, probs = photo("astronaut", 60, 71), tied(classes, 60, 71, 0)
    result = dense_crf(image, probs, backend=backend, **PRESETS["B"])
    twins = classes // 2 + 1
    assert torch.equal(result[twins:], result[: classes - twins])


# Not tied: of five classes, pydensecrf itself does not treat the last like its twin.
@pytest.mark.parametrize("kind", [smooth, islands, labels])
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_few_classes_equal_pydensecrf(backend, classes, kind):
    for preset in ("A", "B", "C"):
        image, probs = photo("coffee", 120, 143), kind(classes, 120, 143, 1)
        expected = dense_crf(image, probs, backend="pydensecrf", **PRESETS[preset])
        result = dense_crf(image, probs, backend=backend, **PRESETS[preset])
        torch.testing.assert_close(result, expected, atol=1e-3, rtol=0)


@pytest.mark.skipif(not voc_images(), reason="needs the PASCAL VOC photos in ../shared/data")
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_few_classes_equal_pydensecrf_on_voc(backend, classes):
    import numpy as np
    from PIL import Image

    for path in voc_images()[::200]:
        array = np.asarray(Image.open(path).convert("RGB"))
        image = torch.from_numpy(array.transpose(2, 0, 1).copy())
        probs = smooth(classes, *array.shape[:2], seed=3)
        expected = dense_crf(image, probs, backend="pydensecrf", **PRESETS["B"])
        assert_parity(dense_crf(image, probs, backend=backend, **PRESETS["B"]), expected)


@pytest.mark.parametrize("classes", [2, 3, 5, 9, 17, 25, 171])
def test_no_lane_left_over_takes_a_share(backend, classes):
    probs = torch.zeros(classes, 9, 11)  # no class is probable
    result = dense_crf(photo("coffee", 9, 11), probs, iterations=0, backend=backend)
    torch.testing.assert_close(result, torch.full_like(result, 1 / classes), atol=0, rtol=1e-6)


@pytest.mark.parametrize("classes", [2, 21, 171, 1000])
def test_many_improbable_classes_add_up(backend, classes):
    probs = torch.full((classes, 9, 11), 1e-5)
    probs[classes // 2] = 0.6
    result = dense_crf(photo("coffee", 9, 11), probs, iterations=0, backend=backend)
    expected = probs.double() / probs.double().sum(dim=0)
    # The compiled sum is of whole numbers (passes.py); classes fill up groups of lanes.
    rounding = (classes + 16) ** 2 / 2**31 if backend == "numba" else 0.0
    torch.testing.assert_close(result.double(), expected, atol=0, rtol=2e-6 + rounding)
