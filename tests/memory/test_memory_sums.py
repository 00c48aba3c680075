"""The sums of a class memory: the same however the images come, and defined for every legal input."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from scenes import make_scene, multi_hot, stack

from dhr_refine import ClassMemory

pytestmark = pytest.mark.usefixtures("one_thread")

TAGS = [(2, 6), (6,), (2, 4, 6), (4, 2), (2, 6), (0, 7)]
CLASSES = 9
DIM = 12
OPTIONS = {"covariance": "pooled", "decay": 0.9, "least_images": 2, "shrinkage": 0.3}


@pytest.fixture(scope="module")
def scenes():
    return make_all()


def make_all():
    return [make_scene(seed, tags=own, ignore=seed == 2) for seed, own in enumerate(TAGS)]


def make(**options):
    return ClassMemory(CLASSES, DIM, **options)


def filled(scenes, rows=None, **options):
    """A memory that was shown the scenes one by one."""
    memory = make(**options)
    for row in range(len(scenes)) if rows is None else rows:
        memory.update(scenes[row].uss, scenes[row].mask, labels=scenes[row].tags)
    return memory


def assert_alike(one, other, tolerance=1e-6):
    """The same options; sums within a share of the largest. 0: bit for bit."""
    a, b = one.state_dict(), other.state_dict()
    assert a.keys() == b.keys()
    for name, value in a.items():
        if isinstance(value, torch.Tensor):
            assert value.dtype == b[name].dtype == torch.float64
            least = tolerance * value.abs().max().clamp_min(1.0)
            assert ((value - b[name]).abs() <= least).all(), name
        else:
            assert value == b[name]


def assert_finite(memory):
    for name, value in memory.state_dict().items():
        assert not isinstance(value, torch.Tensor) or value.isfinite().all(), name
    solved = memory.solve()
    for value in (solved.means, solved.precision, solved.directions, solved.offsets):
        assert value.isfinite().all()


@pytest.mark.parametrize("covariance", ["class", "pooled"])
def test_the_order_of_the_images_is_rounding(scenes, covariance):
    one = filled(scenes, covariance=covariance)
    assert_alike(one, filled(scenes, [3, 5, 0, 2, 4, 1], covariance=covariance), 1e-13)
    assert one.images.tolist() == [6, 1, 0, 4, 0, 2, 0, 4, 1]


@pytest.mark.parametrize("covariance", ["class", "pooled"])
@pytest.mark.parametrize("decay", [1.0, 0.8])
def test_batches_lists_and_single_images_are_the_same(scenes, covariance, decay):
    options = {"covariance": covariance, "decay": decay}
    single = filled(scenes, **options)
    _, masks, uss, _, _ = stack(scenes)
    tags = [scene.tags for scene in scenes]
    batch, parts, lists = (make(**options) for _ in range(3))
    batch.update(uss, masks, labels=tags)
    parts.update(uss[:4], masks[:4], labels=tags[:4])
    parts.update(uss[4:], masks[4:], labels=tags[4:])
    lists.update(list(uss), list(masks), labels=tags)
    for other in (batch, parts, lists):
        assert_alike(single, other)
    expected = sum(decay**age for age in range(6))
    assert float(single.state_dict()["seen"]) == pytest.approx(expected)
    assert float(single.images[0]) == pytest.approx(expected)


def test_decay_forgets_the_first_images(scenes):
    memory = filled(scenes, [1, 5], decay=0.5)
    assert memory.images[[7, 1, 8, 0]].tolist() == [0.5, 1.0, 1.0, 1.5]
    weights = [filled(scenes, [row]).state_dict()["first"] for row in (1, 5)]
    torch.testing.assert_close(memory.state_dict()["first"], 0.5 * weights[0] + weights[1])


@pytest.mark.parametrize("covariance", ["class", "pooled"])
def test_merged_parts_are_the_whole(scenes, covariance):
    left, right = (filled(scenes, rows, covariance=covariance) for rows in ([0, 1, 4], [2, 3, 5]))
    before = right.state_dict()
    solved = left.solve()
    left.merge(right)
    assert_alike(left, filled(scenes, covariance=covariance), 1e-13)
    assert left.solve() is not solved
    assert all(torch.equal(right.state_dict()[n], before[n]) for n in ("seen", "images", "first", "second"))


def test_lists_of_images_of_other_sizes(scenes):
    other = make_scene(9, size=(30, 31), uss_grid=(6, 7), tags=(2,))
    one, two = filled([scenes[0], other]), make()
    two.update([scenes[0].uss, other.uss], [scenes[0].mask, other.mask], labels=[scenes[0].tags, other.tags])
    assert_alike(one, two, 0.0)


def test_state_dict_is_a_copy_and_comes_back(scenes):
    memory = filled(scenes, **OPTIONS)
    state = memory.state_dict()
    fresh = make(**OPTIONS)
    fresh.load_state_dict(state)
    assert_alike(memory, fresh, 0.0)
    assert torch.equal(memory.solve().precision, fresh.solve().precision)
    state["first"].zero_()
    assert memory.state_dict()["first"].abs().sum() > 0
    assert fresh.state_dict()["first"].abs().sum() > 0
    solved = fresh.solve()
    fresh.load_state_dict(make(**OPTIONS).state_dict())
    assert fresh.solve() is not solved
    assert not fresh.solve().known.any()


@pytest.mark.parametrize("background", ["first", "last", "none"])
def test_files_are_bit_equal(scenes, tmp_path, background):
    memory = make(background=background, **OPTIONS)
    memory.update(scenes[0].uss, scenes[0].mask.clamp_max(7))
    memory.save(tmp_path / "memory.npz")
    loaded = ClassMemory.load(tmp_path / "memory.npz")
    assert_alike(memory, loaded, 0.0)
    assert repr(memory) == repr(loaded)
    loaded.update(scenes[1].uss, scenes[1].mask)  # and goes on
    memory.update(scenes[1].uss, scenes[1].mask)
    assert_alike(memory, loaded, 0.0)


def test_files_are_written_in_one_piece(scenes, tmp_path, monkeypatch):
    path = tmp_path / "memory"  # the name that was asked for, without an ending of its own
    filled(scenes, [0]).save(str(path))
    before = path.read_bytes()

    def fail(*args):
        raise OSError("no room")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no room"):
        filled(scenes).save(path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["memory"]
    filled(scenes).save(path)
    assert_alike(ClassMemory.load(path), filled(scenes), 0.0)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def rank_main(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    try:
        scenes = make_all()[rank::2]
        own = filled(scenes)
        before = own.state_dict()
        shared = own.all_reduced()
        assert torch.equal(own.state_dict()["first"], before["first"])
        samples = [{"uss_features": s.uss, "masks": s.mask, "labels": s.tags} for s in scenes]
        fitted = ClassMemory.fit(samples, CLASSES, rounds=1, distributed=True, least_images=2)
        torch.save((shared.state_dict(), fitted.state_dict()), Path(folder, f"{rank}.pt"))
    finally:
        dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available(), reason="this torch has no torch.distributed")
def test_two_processes_share_what_they_saw(scenes, tmp_path):
    mp.spawn(rank_main, args=(free_port(), str(tmp_path)), nprocs=2)
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    samples = [{"uss_features": s.uss, "masks": s.mask, "labels": s.tags} for s in scenes]
    whole = filled(scenes), ClassMemory.fit(samples, CLASSES, rounds=1, least_images=2)
    for number, expected in enumerate(whole):
        for part in parts:
            memory = make(least_images=expected.least_images)
            memory.load_state_dict(part[number])
            assert_alike(memory, expected, 1e-5)
        assert torch.equal(parts[0][number]["second"], parts[1][number]["second"])


def test_one_process_shares_with_itself(scenes):
    memory = filled(scenes)
    copy = memory.all_reduced()
    assert_alike(memory, copy, 0.0)
    copy.update(scenes[0].uss, scenes[0].mask)
    assert memory.state_dict()["seen"] == 6


def test_a_copy_on_a_device_is_its_own(scenes):
    memory = filled(scenes)
    copy = memory.to("cpu")
    copy.update(scenes[0].uss, scenes[0].mask)
    assert memory.state_dict()["seen"] == 6
    assert memory.nbytes == 8 * (CLASSES * DIM**2 + CLASSES * (DIM + 2) + 1)


def test_inputs_stay_as_they_are(scenes):
    _, masks, uss, _, _ = stack(scenes)
    hot = multi_hot([scene.tags for scene in scenes], 8)
    boxes = torch.tensor([[3, 2, 40, 30]] * 6)
    before = [tensor.clone() for tensor in (uss, masks, hot, boxes)]
    known = filled(scenes, least_images=2)
    state = known.state_dict()
    make().update(uss, masks, labels=hot, boxes=boxes, box_format="xyxy", known=known)
    assert all(torch.equal(one, other) for one, other in zip(before, (uss, masks, hot, boxes)))
    assert all(torch.equal(state[n], known.state_dict()[n]) for n in ("first", "second", "weight"))


@pytest.mark.parametrize(
    "form",
    [
        lambda tags: tags,
        lambda tags: [tuple(own) for own in tags],
        lambda tags: [np.array(own) for own in tags],
        lambda tags: [torch.tensor(own) for own in tags],
        lambda tags: multi_hot(tags, 8),
        lambda tags: multi_hot(tags, 8, torch.bool),
        lambda tags: multi_hot(tags, 8, torch.int64).numpy(),
        lambda tags: list(multi_hot(tags, 8)),
    ],
    ids=["lists", "tuples", "arrays", "tensors", "multi-hot", "bool", "numpy", "rows"],
)
def test_tags_in_every_form(scenes, form):
    _, masks, uss, _, _ = stack(scenes)
    tags = [scene.tags for scene in scenes]
    memory, lists = make(), make()
    memory.update(uss, masks, labels=form(tags))
    lists.update(list(uss), list(masks), labels=form(tags))
    expected = make()
    expected.update(uss, masks)  # all classes of these masks are tags
    assert_alike(memory, expected, 0.0)
    assert_alike(lists, filled(scenes), 0.0)


def test_labels_that_are_no_tag_are_left_out(scenes):
    memory = make()
    memory.update(scenes[0].uss, scenes[0].mask, labels=[6])
    assert memory.images.nonzero()[:, 0].tolist() == [0, 7]
    whole = filled(scenes, [0]).state_dict()
    assert torch.equal(memory.state_dict()["first"][[0, 7]], whole["first"][[0, 7]])


@pytest.mark.parametrize("covariance", ["class", "pooled"])
def test_pixels_outside_the_box_say_nothing(scenes, covariance):
    scene = scenes[0]
    box = (10, 5, 45, 35)  # whole rows of cells: the features have 8 x 11 for 40 x 56 pixels
    inside = torch.zeros_like(scene.mask, dtype=torch.bool)
    inside[5:35, 10:45] = True
    boxed, blanked, changed, flipped = (make(covariance=covariance) for _ in range(4))
    boxed.update(scene.uss, scene.mask, labels=scene.tags, boxes=box, box_format="xyxy")
    blanked.update(scene.uss, torch.where(inside, scene.mask, 255), labels=scene.tags)
    outside = torch.where(inside, scene.mask, 7)
    features = scene.uss.clone()
    features[:, 0] = 100.0
    features[:, -1] = -3.0
    changed.update(features, outside, labels=scene.tags, boxes=box, box_format="xyxy")
    flipped.update(scene.uss, scene.mask, labels=scene.tags, boxes=(5, 35, 10, 45), box_format="yyxx")
    for other in (blanked, changed, flipped):
        assert_alike(boxed, other, 1e-6)
    assert boxed.state_dict()["weight"][0] < filled(scenes, [0]).state_dict()["weight"][0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_features_of_other_types(scenes, dtype):
    memory, expected = make(), make()
    features = scenes[0].uss.to(dtype)
    memory.update(features, scenes[0].mask)
    expected.update(features.float(), scenes[0].mask)
    assert_alike(memory, expected, 0.0)
    assert_alike(memory, filled(scenes, [0]), 1e-2)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.float32])
def test_masks_of_other_types(scenes, dtype):
    memory = make()
    memory.update(scenes[0].uss, scenes[0].mask.to(dtype), labels=scenes[0].tags)
    assert_alike(memory, filled(scenes, [0]), 0.0)


def test_scale_and_offset_of_a_token_do_not_matter(scenes):
    scene = scenes[0]
    scale = 0.01 + 1000 * torch.rand(1, *scene.uss.shape[1:])
    offset = 5 * scale * torch.randn(1, *scene.uss.shape[1:])
    memory = make()
    memory.update(scale * scene.uss + offset, scene.mask, labels=scene.tags)
    assert_alike(memory, filled(scenes, [0]), 1e-5)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_tiny_and_huge_features(scenes, scale):
    memory = make()
    memory.update(scale * scenes[0].uss, scenes[0].mask, labels=scenes[0].tags)
    assert_alike(memory, filled(scenes, [0]), 1e-5)


@pytest.mark.parametrize("covariance", ["class", "pooled"])
@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        lambda uss: torch.zeros_like(uss),
        lambda uss: torch.full_like(uss, 0.1),
        lambda uss: torch.full_like(uss, 1e15),
        lambda uss: uss[:, :1, :1],
        lambda uss: uss[:, :1, :1].expand(-1, 8, 11),
        lambda uss: torch.where(torch.rand(8, 11) < 0.5, uss, 0.3),
    ],
    ids=["zero", "constant", "huge", "one cell", "all alike", "half constant"],
)
def test_degenerate_features(scenes, change, known, covariance):
    first = make(covariance=covariance, least_images=1)
    for scene in scenes:
        first.update(change(scene.uss), scene.mask, labels=scene.tags)
    assert_finite(first)
    if known:
        memory = make(covariance=covariance, least_images=1)
        for scene in scenes:
            memory.update(change(scene.uss), scene.mask, labels=scene.tags, known=first)
        assert_finite(memory)


def test_constant_tokens_become_zero(scenes):
    memory = make()
    memory.update(torch.full_like(scenes[0].uss, 0.1), scenes[0].mask, labels=scenes[0].tags)
    state = memory.state_dict()
    assert state["weight"][0] > 0
    assert not state["first"].any()
    assert not state["second"].any()


@pytest.mark.parametrize("tags", [None, [2, 6], []])
def test_a_mask_without_a_label(scenes, tags):
    memory = make(least_images=1)
    memory.update(scenes[0].uss, torch.full_like(scenes[0].mask, 255), labels=tags)
    state = memory.state_dict()
    assert state["seen"] == 1
    assert not any(state[name].any() for name in ("images", "weight", "first", "second"))
    assert_finite(memory)
    memory.update(scenes[0].uss, scenes[0].mask, known=memory)  # of which it knows no class
    assert_finite(memory)
    assert_alike(memory, merged(filled(scenes, [0], least_images=1), memory_of_nothing(scenes)), 1e-13)


def memory_of_nothing(scenes):
    memory = make(least_images=1)
    memory.update(scenes[0].uss, torch.full_like(scenes[0].mask, 255))
    return memory


def merged(one, other):
    one.merge(other)
    return one


def test_a_class_of_less_than_two_cells_is_left_out(scenes):
    mask = torch.zeros(8, 11, dtype=torch.long)
    mask[0, :2], mask[1, :1] = 3, 7
    memory = make()
    memory.update(scenes[0].uss, mask, labels=[2, 6])
    assert memory.images.nonzero()[:, 0].tolist() == [0, 3]
    assert float(memory.state_dict()["weight"][3]) == pytest.approx(2**0.5)


def test_an_empty_memory():
    memory = make()
    assert_finite(memory)
    assert not memory.solve().known.any()
    assert repr(memory) == "ClassMemory(9 classes, dim 12, 0 images, 0 classes known)"
    assert repr(memory.solve()) == "ClassDiscriminant(0 of 9 classes known, dim 12, background 'first')"


def test_a_solution_is_kept_until_the_next_image(scenes):
    memory = filled(scenes)
    solved = memory.solve()
    assert memory.solve() is solved
    memory.update(scenes[0].uss, scenes[0].mask)
    assert memory.solve() is not solved


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_memories_of_one_mode_go_on_in_another(scenes, mode):
    with mode():
        memory = filled(scenes, [0, 1, 2])
    features = scenes[3].uss.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        memory.update(features, scenes[3].mask, labels=scenes[3].tags)
    assert_alike(memory, filled(scenes, [0, 1, 2, 3]), 1e-13)
    assert not memory.state_dict()["first"].requires_grad


@pytest.mark.parametrize("covariance", ["class", "pooled"])
def test_merged_images_count_as_later_ones(scenes, covariance):
    """A memory that fades and is merged has seen its own images first and the others after them."""
    options = {"decay": 0.8, "covariance": covariance, "least_images": 1}
    first, second, whole = (ClassMemory(9, 12, **options) for _ in range(3))
    for i, scene in enumerate(scenes):
        for memory in (whole, first if i < 2 else second):
            memory.update(scene.uss, scene.mask, labels=scene.tags)
    first.merge(second)
    for name, value in whole.state_dict().items():
        if torch.is_tensor(value):
            torch.testing.assert_close(first.state_dict()[name], value, rtol=1e-12, atol=1e-12)


def test_merged_with_itself_it_is_twice_the_memory(scenes):
    memory = ClassMemory(9, 12)
    memory.update(scenes[0].uss, scenes[0].mask, labels=scenes[0].tags)
    before = memory.images
    memory.merge(memory)
    assert torch.equal(memory.images, 2 * before)
