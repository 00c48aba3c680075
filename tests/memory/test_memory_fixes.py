"""What an error about a memory proposes stands in its text, and works."""

from __future__ import annotations

import pytest
import torch
from data_set import DIM, draw, stacked
from one_scene import run
from scenes import make_scene

from dhr_refine import ClassMemory, refine_mask

pytestmark = pytest.mark.usefixtures("one_thread")
FEATURES, MASKS, TAGS = stacked(draw(0, 6))
SAMPLE = {"uss_features": FEATURES, "masks": MASKS, "labels": TAGS}
SCENE = make_scene(0)


def memory(classes=9, dim=DIM, **options):
    return ClassMemory(classes, dim, **options)


def few(given, mask=SCENE.mask, background="first"):
    """The step with CAMs of the tags alone, so that nothing but a label tells of the classes."""
    cams = SCENE.cams[SCENE.tags]
    options = {"labels": SCENE.tags, "background": background, "boundary": None, "memory": given}
    return refine_mask(cams, mask, SCENE.uss, SCENE.wss, **options)


def bare(classes):
    """The same without a background."""
    mask = torch.where(SCENE.mask == 0, 255, SCENE.mask - 1)
    return few(memory(classes, background="none"), mask, "none")


CASES = {
    "other features": (
        lambda: memory(dim=4).update(FEATURES, MASKS),
        "ClassMemory(9, 12)",
        lambda: ClassMemory(9, 12).update(FEATURES, MASKS),
    ),
    "channels last": (
        lambda: memory().update(FEATURES.movedim(-3, -1), MASKS),
        "uss_features.movedim(-1, -3)",
        lambda: memory().update(FEATURES.movedim(-3, -1).movedim(-1, -3), MASKS),
    ),
    "channels last in a list": (
        lambda: memory().update([FEATURES[0].movedim(0, -1)], [MASKS[0]]),
        "uss_features[0].movedim(-1, -3)",
        lambda: memory().update([FEATURES[0].movedim(0, -1).movedim(-1, -3)], [MASKS[0]]),
    ),
    "no samples": (
        lambda: ClassMemory.fit(None, 9),
        "samples must give dicts, got NoneType None: pass a list or a DataLoader",
        lambda: ClassMemory.fit([SAMPLE], 9),
    ),
    "a generator": (
        lambda: ClassMemory.fit(iter([SAMPLE]), 9),
        "rounds=0",
        lambda: ClassMemory.fit(iter([SAMPLE]), 9, rounds=0),
    ),
    "a method": (
        lambda: run(SCENE, memory=memory().solve),
        "pass the memory itself, or call its solve()",
        lambda: [run(SCENE, memory=memory().solve()), run(SCENE, memory=memory())],
    ),
    "known of other classes": (
        lambda: memory().update(FEATURES, MASKS, known=memory(11)),
        "made with num_classes=9",
        lambda: memory().update(FEATURES, MASKS, known=memory(9)),
    ),
    "merged with another background": (
        lambda: memory().merge(memory(background="none")),
        "made with background='first'",
        lambda: memory().merge(memory(background="first")),
    ),
    "multi-hot tags of another data set": (
        lambda: run(SCENE, memory=memory(21)),
        "memory has 20 foreground classes but there are 8: pass the memory of this data set, "
        "ClassMemory(num_classes=9, ...)",
        lambda: run(SCENE, memory=memory(9)),
    ),
    "labels beyond": (
        lambda: few(memory(5)),
        "memory has 4 foreground classes but a class has the label 7: pass the memory of this data set, "
        "ClassMemory(num_classes=8, ...)",
        lambda: few(memory(8)),
    ),
    "labels beyond, without a background": (
        lambda: bare(5),
        "memory has 5 foreground classes but a class has the label 6: pass the memory of this data set, "
        "ClassMemory(num_classes=7, ...)",
        lambda: bare(7),
    ),
    "a state of other options": (
        lambda: memory().load_state_dict(memory(decay=0.5).state_dict()),
        "make the memory with decay=0.5",
        lambda: memory(decay=0.5).load_state_dict(memory(decay=0.5).state_dict()),
    ),
}


@pytest.mark.parametrize("case", list(CASES))
def test_the_fix_works(case):
    wrong, text, right = CASES[case]
    with pytest.raises((TypeError, ValueError)) as error:
        wrong()
    assert text in str(error.value)
    assert "\n" not in str(error.value)
    right()


@pytest.mark.parametrize("samples", [3, None, lambda: None])
def test_samples_that_are_none(samples):
    with pytest.raises(TypeError, match="samples must give dicts, got"):
        ClassMemory.fit(samples, 9)


def test_an_old_sequence_gives_samples_by_its_numbers():
    class Old:
        def __getitem__(self, place):
            return [SAMPLE][place]

    assert ClassMemory.fit(Old(), 9, rounds=1).state_dict()["seen"] == 6
