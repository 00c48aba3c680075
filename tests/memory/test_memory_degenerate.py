"""Legal input with nothing in it to learn: a defined result, never NaN."""

from __future__ import annotations

import pytest
import torch

from dhr_refine import ClassMemory, refine_steps

pytestmark = pytest.mark.usefixtures("one_thread")


def assert_finite(solved):
    for name in ("means", "precision", "directions", "offsets"):
        assert torch.isfinite(getattr(solved, name)).all(), name


def use(memory, features):
    """The step with a memory, on features (D, h, w) of an image of two classes; its result is finite."""
    mask = torch.zeros(24, 30, dtype=torch.long)
    mask[8:16, 10:20] = 1
    cams = torch.rand(memory.num_classes - 1, 6, 5)
    steps = refine_steps(cams, mask, features, features, labels=[0], boundary=None, memory=memory)
    for value in (steps.probs, steps.uss, steps.wss, steps.uss_centroids, steps.posterior, steps.purity):
        assert torch.isfinite(value).all()
    return steps


def fill(features, *, count=6, **options):
    memory = ClassMemory(3, len(features), **options)
    mask = torch.zeros(24, 30, dtype=torch.long)
    mask[8:16, 10:20] = 1
    for _ in range(count):
        memory.update(features, mask, labels=[0])
    return memory


@pytest.mark.parametrize("covariance", ["class", "pooled"])
@pytest.mark.parametrize("shrinkage", [0.1, 1e-12, 1e-300, 1e6])
@pytest.mark.parametrize("dim", [2, 3, 7, 64, 384])
def test_tokens_that_are_all_equal(dim, shrinkage, covariance):
    """Their covariance is rounding, of either sign: no direction tells anything."""
    features = torch.randn(dim, 1, 1).expand(dim, 6, 5)
    memory = fill(features, shrinkage=shrinkage, covariance=covariance)
    solved = memory.solve()
    assert solved.known.tolist() == [True, True, False]
    assert_finite(solved)
    if shrinkage == 0.1:
        torch.testing.assert_close(solved.precision, 10 * torch.eye(dim), rtol=0, atol=0.01)
    torch.testing.assert_close(solved.means[0], solved.means[1])
    steps = use(memory, features)
    torch.testing.assert_close(steps.posterior, torch.full_like(steps.posterior, 0.5), atol=0.1, rtol=0)


@pytest.mark.parametrize("dim", [2, 5, 40])
@pytest.mark.parametrize("shrinkage", [1e-12, 0.1, 10.0])
def test_fewer_tokens_than_directions(dim, shrinkage):
    memory = ClassMemory(3, dim, least_images=1, shrinkage=shrinkage)
    memory.update(torch.randn(dim, 2, 2), torch.tensor([[0, 0], [1, 1]]), labels=[0])
    assert memory.images.tolist() == [1, 1, 0]
    assert_finite(memory.solve())
    use(memory, torch.randn(dim, 6, 5))


def test_a_memory_of_nothing():
    solved = ClassMemory(3, 4).solve()
    assert not solved.known.any()
    assert torch.equal(solved.precision, (10 * torch.eye(4)))
    assert not solved.means.any()
    for update in (
        lambda m: m.update([], []),
        lambda m: m.update(torch.zeros(0, 4, 2, 2), torch.zeros(0, 4, 4, dtype=torch.long)),
        lambda m: m.update(torch.zeros(0, 4, 2, 2), torch.zeros(0, 4, 4, dtype=torch.long), labels=[]),
    ):
        memory = ClassMemory(3, 4)
        update(memory)
        assert float(memory.state_dict()["seen"]) == 0.0
    memory.update(torch.rand(4, 2, 2), torch.full((4, 4), 255), labels=[0, 1])
    memory.update(torch.rand(4, 2, 2), torch.full((4, 4), 255), labels=[])
    memory.update(torch.rand(4, 2, 2), torch.full((4, 4), 255))
    memory.update(
        torch.rand(4, 2, 2), torch.zeros(4, 4, dtype=torch.long), boxes=(1, 1, 1, 1), box_format="xyxy"
    )
    assert float(memory.state_dict()["seen"]) == 4.0
    assert not memory.images.any()
    assert_finite(memory.solve())


@pytest.mark.parametrize("covariance", ["class", "pooled"])
def test_no_background_and_no_tags(covariance):
    memory = ClassMemory(2, 4, background="none", covariance=covariance, least_images=1)
    known = memory.solve()
    for given in (None, known):
        memory.update(torch.rand(2, 4, 3, 3), torch.full((2, 6, 6), 255), labels=[[], []], known=given)
        memory.update(torch.rand(2, 4, 3, 3), torch.ones(2, 6, 6).long(), labels=[[], [1]], known=given)
    assert memory.images.tolist() == [0, 2]
    assert_finite(memory.solve())


def test_one_class():
    memory = ClassMemory(1, 2, background="none", least_images=1)
    memory.update(torch.rand(2, 3, 3), torch.zeros(6, 6).long(), labels=[0], known=memory)
    assert memory.solve().known.tolist() == [True]
    assert_finite(memory.solve())
    features = torch.rand(1, 2, 3, 3)
    steps = refine_steps(
        torch.rand(1, 1, 3, 3), torch.zeros(1, 6, 6).long(), features, features, labels=[[0]],
        background="none", boundary=None, memory=memory,
    )  # fmt: skip
    assert (steps.mask == 0).all()
    assert (steps.posterior == 1).all()


def test_maps_of_one_cell():
    memory = fill(torch.randn(5, 6, 5), count=5)
    memory.update(torch.randn(5, 1, 1), torch.zeros(9, 9).long())
    assert memory.images.tolist() == [5, 5, 0]  # a cell is not enough
    use(memory, torch.randn(5, 1, 1))


def test_a_class_that_the_posterior_excludes_keeps_its_average():
    """Every token of it is certainly of another class: the average must be one of something."""
    memory = ClassMemory(3, 6, least_images=1, shrinkage=1e-3)
    generator = torch.Generator().manual_seed(0)
    low, high = torch.randn(6, generator=generator), torch.randn(6, generator=generator)
    mask = torch.zeros(24, 30, dtype=torch.long)
    mask[:, 12:] = 1
    features = torch.where(torch.arange(5) < 2, low[:, None, None], high[:, None, None]).expand(6, 6, 5)
    memory.update(features + 0.01 * torch.randn(6, 6, 5, generator=generator), mask, labels=[0])
    background = low[:, None, None].expand(6, 6, 5) + 0.01 * torch.randn(6, 6, 5, generator=generator)
    steps = use(memory, background)
    assert steps.purity[1] < 1e-3
    assert torch.nn.functional.cosine_similarity(*steps.uss_centroids, dim=0) > 0.99
