"""Any set of tags, in any form and of any values, gives the same mask."""

from __future__ import annotations

import resource

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from one_image import make_image
from scenes import multi_hot

from dhr_refine import Recipe, refine_mask, refine_steps
from dhr_refine.files import read_cams

CLASSES = 6
INTEGERS = [np.int64, np.int32, np.int16, np.int8, np.uint8, np.uint16, np.uint32, np.uint64]
KINDS = [torch.int64, torch.int32, torch.uint8]
HOT = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.bool, torch.int64, torch.uint8]

LISTS = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "dict keys": lambda tags: dict.fromkeys(tags).keys(),
    "dict of maps": lambda tags: {tag: np.zeros((2, 2)) for tag in tags},
    "numpy numbers": lambda tags: [np.int32(tag) for tag in tags],
    "0-d tensors": lambda tags: [torch.tensor(tag) for tag in tags],
    "0-d arrays": lambda tags: tuple(np.array(tag) for tag in tags),
    "objects": lambda tags: np.array([*tags, None], dtype=object)[:-1],
}
VECTORS = {f"{kind.__name__} vector": lambda tags, kind=kind: np.array(tags, dtype=kind) for kind in INTEGERS}
VECTORS |= {f"{kind} vector": lambda tags, kind=kind: torch.tensor(tags, dtype=kind) for kind in KINDS}
FORMS = {**LISTS, **VECTORS}
HOT_FORMS = {f"{kind} multi-hot": lambda tags, kind=kind: multi_hot([tags], CLASSES, kind)[0] for kind in HOT}
HOT_FORMS |= {"numpy multi-hot": lambda tags: multi_hot([tags], CLASSES)[0].numpy()}
ALL = FORMS | HOT_FORMS

tags_of_an_image = st.lists(st.integers(0, CLASSES - 1), unique=True, max_size=4).map(sorted)


@settings(max_examples=40)
@given(tags=tags_of_an_image, form=st.sampled_from(list(ALL)))
def test_one_image(tags, form):
    image = make_image(CLASSES)
    expected = refine_mask(*image, labels=tags, boundary=None)
    assert torch.equal(refine_mask(*image, labels=ALL[form](tags), boundary=None), expected)


@settings(max_examples=40)
@given(data=st.data(), tags=st.lists(tags_of_an_image, min_size=1, max_size=4), listed=st.booleans())
def test_batches_and_lists_may_mix_the_forms_of_lists(data, tags, listed):
    image = make_image(CLASSES)
    alone = [refine_mask(*image, labels=own, boundary=None) for own in tags]
    # Multi-hot tags do not mix with others.
    forms = data.draw(st.sampled_from([FORMS, HOT_FORMS]))
    labels = [forms[data.draw(st.sampled_from(list(forms)))](own) for own in tags]
    maps = [[part] * len(tags) for part in image]
    if not listed:
        maps = [torch.stack(part) for part in maps]
    masks = refine_mask(*maps, labels=labels, boundary=None)
    assert all(torch.equal(mask, one) for mask, one in zip(masks, alone, strict=True))


@settings(max_examples=25)
@given(
    tags=st.integers(1, 3).flatmap(
        lambda n: st.lists(
            st.permutations(range(CLASSES)).map(lambda p: sorted(p[:n])), min_size=1, max_size=4
        )
    ),
    kind=st.sampled_from(KINDS),
)
def test_a_tensor_of_as_many_tags_for_each_image(tags, kind):
    image = make_image(CLASSES)
    alone = [refine_mask(*image, labels=own, boundary=None) for own in tags]
    maps = [torch.stack([part] * len(tags)) for part in image]
    masks = refine_mask(*maps, labels=torch.tensor(tags, dtype=kind), boundary=None)
    assert all(torch.equal(mask, one) for mask, one in zip(masks, alone, strict=True))


@pytest.mark.parametrize("keys", [[0], [1], [0, 1], [0, 1, 2], [1, 2], [3, 5], [5]])
@pytest.mark.parametrize("form", list(FORMS))
def test_cams_of_the_tags_alone_whatever_the_keys(keys, form):
    """Untagged labels in the mask (here 5) take no part, also beside tags 0, 1, ..."""
    cams, base, uss, wss = make_image(CLASSES)
    expected = refine_mask(cams, base, uss, wss, labels=keys, boundary=None)
    few = cams[keys]
    assert torch.equal(refine_mask(few, base, uss, wss, labels=FORMS[form](keys), boundary=None), expected)
    both = refine_mask(
        [few, cams], [base, base], [uss, uss], [wss, wss], labels=[FORMS[form](keys)] * 2, boundary=None
    )
    assert all(torch.equal(mask, expected) for mask in both)


@pytest.mark.parametrize("keys", [[], [0], [1], [0, 1], [1, 2, 4]])
def test_keys_straight_from_a_file(tmp_path, keys):
    cams, base, uss, wss = make_image(CLASSES)
    np.save(tmp_path / "image.npy", {"keys": np.array(keys, int), "cam": cams[keys].numpy()})
    read = read_cams(tmp_path / "image.npy", background="none")
    expected = refine_mask(cams, base, uss, wss, labels=keys, boundary=None)
    assert torch.equal(refine_mask(read.cams, base, uss, wss, labels=read.keys, boundary=None), expected)
    stacked = [part[None] for part in (read.cams, base, uss, wss)]
    assert torch.equal(refine_mask(*stacked, labels=[read.keys], boundary=None)[0], expected)


FAR = [2**8, 2**16, 2**31, 2**40, 2**62, 2**63 - 2]


@pytest.mark.parametrize("tag", FAR)
@pytest.mark.parametrize("background", ["first", "none"])
@pytest.mark.parametrize("recipe", [Recipe(), Recipe.released()], ids=["default", "released"])
def test_tags_of_any_value_in_bounded_memory(tag, background, recipe):
    cams, base, uss, wss = make_image(CLASSES)
    offset = 1 if background == "first" else 0
    base = torch.where(base == 3, tag + offset, base)  # the label of tag 2
    base = base if background == "first" else base - (base < 255).long()
    base = base.masked_fill(base < 0, -7)
    near = {tag + offset: 2 + offset, 3 + offset: 3 + offset, -7: -7}
    options = {"boundary": None, "background": background, "ignore_index": -7, "recipe": recipe}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    steps = refine_steps(cams[[2, 3]], base, uss, wss, labels=[tag, 3], **options)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes
    small = torch.where(base == tag + offset, 2 + offset, base)
    expected = refine_steps(cams[[2, 3]], small, uss, wss, labels=[2, 3], **options)
    renamed = expected.mask.clone()
    for large, label in near.items():
        renamed[expected.mask == label] = large
    assert torch.equal(steps.mask, renamed)
    assert torch.equal(steps.uss[: len(expected.uss)], expected.uss) or recipe.classes == "mask"


def test_a_batch_with_a_huge_and_a_small_tag():
    cams, base, uss, wss = make_image(CLASSES)
    maps = [torch.stack([part] * 2) for part in (cams[[2]], base, uss, wss)]
    masks = refine_mask(*maps, labels=[[2**31], [7]], boundary=None)
    assert set(masks[0].unique().tolist()) <= {0, 2**31 + 1}
    assert set(masks[1].unique().tolist()) <= {0, 8}


@pytest.mark.parametrize("tag", [2**63 - 1, 2**63, 2**80])
def test_tags_beyond_int64_are_refused(tag):
    with pytest.raises(
        ValueError, match=rf"labels must list tag indices 0, 1, ..., got {tag}: number the classes"
    ):
        refine_mask(*make_image(CLASSES), labels=[tag], boundary=None)


@pytest.mark.parametrize("label", [300, 2**20, 2**40])
def test_untagged_labels_of_any_value_beside_cams_of_the_tags_alone(label):
    cams, base, uss, wss = make_image(CLASSES)
    expected = refine_mask(cams[[2]], base, uss, wss, labels=[2], boundary=None)
    strange = torch.where(base == 6, label, base)
    assert torch.equal(refine_mask(cams[[2]], strange, uss, wss, labels=[2], boundary=None), expected)
    released = {"recipe": Recipe.released(), "boundary": None}
    mask = refine_mask(cams[[2]], strange, uss, wss, labels=[2], **released)
    other = refine_mask(cams[[2]], base, uss, wss, labels=[2], **released)
    assert torch.equal(mask, torch.where(other == 6, label, other))


def test_far_tags_beside_far_labels_without_a_tag():
    cams, base, uss, wss = make_image(CLASSES)
    expected = refine_mask(cams[[2]], base, uss, wss, labels=[2], boundary=None)
    for tag, label in ((2**31, 2**20), (2**20, 2**31)):
        strange = torch.where(base == 6, label, torch.where(base == 3, tag + 1, base))
        mask = refine_mask(cams[[2]], strange, uss, wss, labels=[tag], boundary=None)
        assert torch.equal(mask, torch.where(expected == 3, tag + 1, expected))


@pytest.mark.parametrize(
    "nothing", [[], (), set(), {}, torch.tensor([]), torch.zeros(0).long(), np.array([])]
)
def test_no_tags_in_any_form(nothing):
    cams, base, uss, wss = make_image(CLASSES)
    assert torch.equal(refine_mask(cams, base, uss, wss, labels=nothing, boundary=None), base)
    maps = [torch.stack([part] * 2) for part in (cams, base, uss, wss)]
    expected = refine_mask(*maps, labels=[[], [2, 4]], boundary=None)
    for other in ([2, 4], torch.tensor([2, 4]), multi_hot([[2, 4]], CLASSES)[0]):
        assert torch.equal(refine_mask(*maps, labels=[nothing, other], boundary=None), expected)


def test_rows_of_a_tensor_are_of_one_kind():
    maps = [torch.stack([part] * 2) for part in make_image(CLASSES)]
    with pytest.raises(ValueError, match=r"labels mixes multi-hot tags \(labels\[0\]\) with index lists"):
        refine_mask(*maps, labels=torch.tensor([[1, 1], [2, 4]]), boundary=None)


def test_labels_that_are_no_classes_are_still_refused():
    cams, base, uss, wss = make_image(CLASSES)
    strange = base.clone()
    strange[0, 0] = -3
    with pytest.raises(ValueError, match="masks holds the label -3, which no class has"):
        refine_mask(cams[[2]], strange, uss, wss, labels=[2], boundary=None)
    many = torch.arange(300 * 300).view(300, 300) + 256
    with pytest.raises(ValueError, match="which no class has"):
        refine_mask(cams[[2]], many, uss, wss, labels=[2], boundary=None)


def test_an_ignore_index_of_any_value():
    cams, base, uss, wss = make_image(CLASSES)
    base[:4] = 255
    expected = refine_mask(cams, base, uss, wss, labels=[2, 4], boundary=None)
    for ignore in (-(2**63), 2**40, 2**63 - 1):
        given = torch.where(base == 255, ignore, base)
        for maps, labels in ((cams, [2, 4]), (cams[[2, 4]], [2, 4])):
            mask = refine_mask(maps, given, uss, wss, labels=labels, ignore_index=ignore, boundary=None)
            assert torch.equal(torch.where(mask == ignore, 255, mask), expected)
