"""A memory under the modes and defaults of a process, on a pretended device, and where the host waits."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from data_set import CLASSES, DIM, draw, scenes, stacked
from host_waits import watch_tensors
from one_scene import every_recipe, run
from scenes import multi_hot, stack

from dhr_refine import ClassMemory, refine_mask, refine_steps

pytestmark = pytest.mark.usefixtures("one_thread")
ITEMS = draw(0, 10)
SCENES = scenes(6, tags=(2, 6), lost=(6,))


@pytest.fixture(scope="module")
def memory():
    made = ClassMemory(CLASSES + 1, DIM)
    for scene in SCENES:
        made.update(scene.uss, scene.mask, labels=scene.tags)
    return made


def everything(memory):
    """Two updates, a solution and the step, as tensors."""
    other = copy.deepcopy(memory)
    features, masks, tags = stacked(ITEMS[:2])
    other.update(features, masks, labels=tags, known=memory)
    other.update(features[0], masks[0], labels=tags[0], boxes=(1, 2, 20, 20), box_format="xyxy")
    solved = other.solve()
    steps = run(SCENES[0], labels=SCENES[0].tags, memory=other)
    tensors = [value for value in other.state_dict().values() if isinstance(value, torch.Tensor)]
    parts = (solved.means, solved.precision, solved.directions, solved.offsets, solved.known)
    return [*tensors, *parts, *(getattr(steps, name) for name in ("mask", "probs", "uss", "wss", "purity"))]


@every_recipe
def test_fewer_than_two_known_classes_change_nothing(memory, recipe):
    """The background alone is known, or a class alone, or classes that the image does not have."""
    cases = [((3,), [0]), ((3, 5), [0]), ((2, 4), []), ((2, 4), [2])]
    for tags, known in cases:
        scene = scenes(1, tags=tags)[0]
        plain = run(scene, recipe=recipe)
        solved = memory.solve()
        for extra in ([], [1]):  # label 1 is no class of the image
            marks = torch.zeros(9, dtype=torch.bool)
            marks[known] = True
            if 0 not in known:
                marks[[tag + 1 for tag in tags][:1]] = True
            marks[extra] = True
            one = copy.copy(solved)
            object.__setattr__(one, "known", marks)
            steps = run(scene, recipe=recipe, memory=one)
            for name in ("mask", "probs", "seed", "init_mask", "uss", "wss", "uss_centroids", "groups"):
                assert torch.equal(getattr(plain, name), getattr(steps, name)), name


@every_recipe
def test_with_two_known_classes_it_has_a_say(memory, recipe):
    assert not torch.equal(
        run(SCENES[0], recipe=recipe).uss, run(SCENES[0], recipe=recipe, memory=memory).uss
    )


def test_batches_lists_and_single_images_with_boxes(memory):
    """Different numbers of tags and different boxes; an image does not see the others."""
    drawn = [
        scene
        for number, tags in enumerate(((2, 6), (6,), (1, 2, 6), (3,)))
        for scene in scenes(number + 1, tags=tags)[-1:]
    ]
    boxes = [None, (2, 3, 50, 38), (0, 0, 56, 40), (10, 10, 30, 30)]
    tags = multi_hot([scene.tags for scene in drawn], CLASSES)
    options = {"boundary": None, "box_format": "xyxy", "memory": memory}
    batch = refine_steps(*stack(drawn), labels=tags, boxes=boxes, **options)
    lists = refine_steps(
        [s.cams for s in drawn], [s.mask for s in drawn], [s.uss for s in drawn], [s.wss for s in drawn],
        [s.image for s in drawn], labels=tags, boxes=boxes, **options,
    )  # fmt: skip
    for row, (scene, box) in enumerate(zip(drawn, boxes, strict=True)):
        alone = run(scene, boxes=box, box_format="xyxy", memory=memory)
        count = len(scene.tags) + 1
        assert torch.equal(batch.mask[row], alone.mask)
        assert torch.equal(lists.mask[row], alone.mask)
        for name in ("probs", "uss", "posterior", "purity"):
            torch.testing.assert_close(
                getattr(batch, name)[row][:count], getattr(alone, name), atol=1e-4, rtol=0
            )
            torch.testing.assert_close(getattr(lists, name)[row], getattr(alone, name), atol=1e-4, rtol=0)
        assert not batch.posterior[row][count:].any()
        assert not batch.purity[row][count:].any()
        assert (alone.posterior >= 0).all()
        assert (alone.posterior <= 1).all()


def test_features_outside_the_boxes_do_not_matter(memory):
    scene = SCENES[0]
    box = (7, 5, 49, 35)
    uss = scene.uss.clone()
    uss[:, 0] = 3.0 * torch.randn(DIM, 11)
    uss[:, :, 0] = 3.0 * torch.randn(DIM, 8)
    one, other = (
        run(one, boxes=box, box_format="xyxy", memory=memory) for one in (scene, scene._replace(uss=uss))
    )
    assert torch.equal(one.uss_centroids, other.uss_centroids)
    assert torch.equal(one.purity, other.purity)


MODES = {
    "float64": lambda: default_dtype(torch.float64),
    "float16": lambda: default_dtype(torch.float16),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "device": lambda: torch.device("meta"),
    "inference": torch.inference_mode,
    "no_grad": torch.no_grad,
}


class default_dtype:
    def __init__(self, dtype):
        self.dtype = dtype

    def __enter__(self):
        self.before = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)

    def __exit__(self, *error):
        torch.set_default_dtype(self.before)


@pytest.mark.parametrize("mode", list(MODES))
def test_the_same_bits_whatever_the_process_is_set_to(memory, mode):
    expected = everything(memory)
    with MODES[mode]():
        found = everything(memory)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


def test_made_in_inference_mode_and_used_outside(memory):
    features, masks, tags = stacked(ITEMS)
    with torch.inference_mode():
        made = ClassMemory.fit([{"uss_features": features, "masks": masks, "labels": tags}], CLASSES + 1)
        copies = [made, made.to("cpu"), made.all_reduced()]
        for one in copies:
            one.solve()
    for one in copies:
        one.update(features, masks, labels=tags)
        one.merge(made)
        one.load_state_dict(made.state_dict())
        run(SCENES[0], memory=one)
    with torch.inference_mode():
        memory.to("cpu").update(features, masks, labels=tags)


def test_features_with_a_gradient(memory):
    features, masks, tags = stacked(ITEMS)
    own, plain = ClassMemory(CLASSES + 1, DIM), ClassMemory(CLASSES + 1, DIM)
    own.update((1.0 * features).requires_grad_(), masks, labels=tags, known=memory)
    plain.update(features, masks, labels=tags, known=memory)
    for name, value in own.state_dict().items():
        if isinstance(value, torch.Tensor):
            assert not value.requires_grad
            assert torch.equal(value, plain.state_dict()[name])
    scene = SCENES[0]
    steps = run(scene._replace(uss=scene.uss.clone().requires_grad_()), memory=own)
    assert not steps.probs.requires_grad


def test_half_features_in_the_step(memory, dtype):
    scene = SCENES[0]._replace(uss=SCENES[0].uss.half().float())
    expected = run(scene, memory=memory)
    steps = run(scene._replace(uss=scene.uss.to(dtype)), memory=memory)
    assert (steps.mask != expected.mask).double().mean() < (0.02 if dtype == torch.bfloat16 else 1e-3)
    assert steps.posterior.dtype == steps.purity.dtype == torch.float32


def test_scales_of_the_features_do_not_matter_in_the_step(memory):
    scene = SCENES[0]
    expected = run(scene, memory=memory)
    steps = run(scene._replace(uss=1000 * scene.uss), memory=memory)
    assert torch.equal(steps.mask, expected.mask)
    torch.testing.assert_close(steps.posterior, expected.posterior, atol=1e-4, rtol=0)


def test_on_a_pretended_device(memory):
    pretend_device = pytest.importorskip("pretend_device", exc_type=ImportError)
    features, masks, tags = stacked(ITEMS)
    with pretend_device.PretendDevice():
        far = memory.to(pretend_device.DEVICE)
        assert far.device == pretend_device.DEVICE
        there = [value.to(pretend_device.DEVICE) for value in (features, masks)]
        far.update(*there, labels=tags, boxes=[(1, 2, 20, 20)] * 10, box_format="xyxy", known=memory)
        far.update(*there, known=far)
        fitted = ClassMemory.fit([{"uss_features": there[0], "masks": there[1], "labels": tags}], CLASSES + 1)
        assert fitted.device == pretend_device.DEVICE
        far.merge(memory)  # from the host
        back = far.to("cpu")
        inputs = [
            [level.to(pretend_device.DEVICE) for level in part]
            if isinstance(part, list)
            else part.to(pretend_device.DEVICE)
            for part in stack(SCENES[:2])
        ]
        labels = [scene.tags for scene in SCENES[:2]]
        solved = memory.solve()
        moved = solved.to(pretend_device.DEVICE)
        assert solved.to(pretend_device.DEVICE) is moved  # kept
        masks_there = [
            refine_mask(*inputs, labels=labels, boundary=None, memory=one).host.clone()
            for one in (memory, memory.to(pretend_device.DEVICE), moved)
        ]
        with pytest.raises(ValueError, match=r"uss_features is on pretend:0 but the memory on cpu") as error:
            memory.update(*there, labels=tags)
        assert "memory.to(" in str(error.value)
        fixed = memory.to("pretend:0")
        fixed.update(*there, labels=tags)
        made = ClassMemory(CLASSES + 1, DIM, device="pretend:0")
        made.update(*there, labels=tags)
    kept = pickle.loads(pickle.dumps(memory))  # without what it has on the device
    assert torch.equal(kept.solve().means, solved.means)
    near = copy.deepcopy(memory)
    near.update(features, masks, labels=tags, boxes=[(1, 2, 20, 20)] * 10, box_format="xyxy", known=memory)
    near.update(features, masks, known=near)
    near.merge(memory)
    for name, value in near.state_dict().items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(back.state_dict()[name], value, rtol=1e-5, atol=1e-5)
    here = refine_mask(*stack(SCENES[:2]), labels=labels, boundary=None, memory=memory)
    for mask in masks_there:
        assert (mask != here).double().mean() < 1e-3


@pytest.fixture
def waits(monkeypatch):
    mode = watch_tensors(monkeypatch)

    # Looks for the tokens of a class on a CPU alone.
    second = torch.Tensor.nonzero
    monkeypatch.setattr(torch.Tensor, "nonzero", lambda self, **kind: quietly(mode, second, self, **kind))
    return mode


def quietly(mode, function, *args, **options):
    mode.muted, before = True, mode.muted
    try:
        return function(*args, **options)
    finally:
        mode.muted = before


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("batch", [1, 5])
def test_an_update_waits_twice(waits, memory, batch, known):
    features, masks, tags = stacked(ITEMS[:batch])
    other = ClassMemory(CLASSES + 1, DIM)
    solved = memory.solve() if known else None
    for labels, most in ((tags, 2), (multi_hot(tags, CLASSES).numpy(), 2), (None, 3)):
        waits.seen.clear()
        with waits:
            other.update(features, masks, labels=labels, known=solved)
        assert len(waits.seen) == most, waits.seen
    waits.seen.clear()
    with waits:
        other.update(features, masks, labels=tags, boxes=[(1, 2, 20, 20)] * batch, box_format="xyxy")
        other.update(list(features), list(masks), labels=tags)
    assert len(waits.seen) == 2 + 2 * batch


def test_a_solution_waits_twice_and_a_kept_one_never(waits, memory):
    other = memory.to("cpu")
    with waits:
        other.solve()
    assert len(waits.seen) == 2
    waits.seen.clear()
    with waits:
        other.solve()
    assert not waits.seen


@pytest.mark.parametrize("batch", [1, 3])
def test_the_step_waits_no_more_often_than_without(waits, memory, batch):
    counts = []
    solved = memory.solve()
    for given in (None, solved):
        waits.seen.clear()
        with waits:
            refine_mask(
                *stack(SCENES[:batch]),
                labels=multi_hot([s.tags for s in SCENES[:batch]], CLASSES),
                boundary=None,
                memory=given,
                recipe=None,
                tau=1.0,
            )
        counts.append([name for name in waits.seen if name in ("cpu", "tolist")])
    assert counts[0] == counts[1]
