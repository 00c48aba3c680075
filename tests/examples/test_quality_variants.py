"""Samples and ways to refine them: base masks, stages, variants, files of every form."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from quality.evaluation import BASE, STAGES, Edges, Variant, ablations, base_row, evaluate, refine
from quality_runs import samples
from scene_folder import CLASSES

from dhr_refine import Recipe, dense_crf, refine_steps
from dhr_refine.datasets.cache import Cache

pytest.importorskip("PIL.Image", reason="needs Pillow")
pytest.importorskip("rich", reason="needs rich")


def test_stages_and_how_often_the_boundary_tool_runs(folder):
    sample = samples(folder, masks=folder / "masks")[3]
    calls = []

    def soften(images, probs):
        calls.append(probs)
        return torch.nn.functional.avg_pool2d(probs, 3, 1, 1, count_include_pad=False)

    stages = refine(sample, Variant(boundary=soften, tau=0.3), Edges(soften))
    assert list(stages) == list(STAGES)
    assert len(calls) == 3  # the seed once, and the two results
    inputs = sample.cams, sample.base, sample.uss, sample.wss, sample.image

    def steps(tau, boundary=soften):
        return refine_steps(*inputs, labels=list(sample.tags), tau=tau, boundary=boundary)

    full, single = steps(0.3), steps(1.0)
    assert full.groups.sum() > single.groups.sum() == len(full.classes)
    assert torch.equal(stages["final"], full.mask)
    assert torch.equal(stages["seed"], full.init_mask)
    assert torch.equal(stages["final without WSS"], single.mask)
    for name, tau in (("+ USS", 1.0), ("+ WSS", 0.3)):
        first = iter([soften])  # the tool for the seed, none for the result
        expected = steps(tau, lambda images, probs: next(first, lambda _, same: same)(images, probs))  # noqa: B023
        assert torch.equal(stages[name], expected.mask), name
    assert len({mask.numpy().tobytes() for mask in stages.values()}) == 5


def test_edges_are_those_of_the_boundary_tool(scenes):
    image = scenes["a"].image[None]
    probs = torch.rand(1, 3, *image.shape[2:]).softmax(1)
    edges = Edges("crf")
    result = edges(image, probs)
    torch.testing.assert_close(result, dense_crf(image, probs))
    assert edges(image, probs.clone()) is result
    lattice = edges.lattice
    edges(image, probs.flip(1))
    assert edges.lattice is lattice
    assert Edges(None)(image, probs) is probs


def test_a_new_variant_is_an_entry_of_a_dictionary(folder):
    variants = {
        "mine": Variant(replace(Recipe(), prior=1.0), None),
        "callable": Variant(boundary=lambda images, probs: probs),
        "plain": Variant(boundary=None),
    }
    reference = base_row(None)
    cache = Cache(folder / "cache")
    counts = evaluate(
        samples(folder, boundary=None), variants, reference=reference, classes=CLASSES, cache=cache
    )
    assert list(counts)[:3] == [BASE, reference, ("mine", "seed")]
    assert {part.true.shape for part in counts.values()} == {(4, CLASSES)}
    for one, other in zip(counts["callable", "final"], counts["plain", "final"], strict=True):
        assert np.array_equal(one, other)
    assert not np.array_equal(counts["mine", "final"].found, counts["plain", "final"].found)
    assert len(list((folder / "cache" / "masks").iterdir())) == 2 * 4  # nothing of the callable


def test_base_masks_are_the_cams_over_their_maximum(folder, scenes):
    for sample in samples(folder, boundary=None, background=0.4):
        cams = torch.nn.functional.interpolate(sample.cams[None], sample.target.shape, mode="bilinear")[0]
        cams = cams / cams.amax((1, 2), keepdim=True)
        labels = torch.tensor([0, *(tag + 1 for tag in sample.tags)])
        expected = labels[torch.cat((torch.full_like(cams[:1], 0.4), cams)).argmax(0)]
        assert torch.equal(sample.raw, expected)
        assert torch.equal(sample.base, expected)
        assert torch.equal(sample.cams, scenes[sample.key].cams[list(sample.tags)].relu())


def test_ablations_change_one_choice_at_a_time():
    default, released = asdict(Recipe()), asdict(Recipe.released())
    changed = {}
    for name, variant in ablations().items():
        own = asdict(variant.recipe)
        (choice,) = [key for key in own if own[key] != default[key]]
        assert name == f"{choice}={own[choice]}"
        assert variant.stages == ("final",)
        changed[choice] = own[choice]
    assert changed.pop("group_background") is False
    assert changed == {key: value for key, value in released.items() if value != default[key]}


def test_base_masks_are_made_anew_of_other_cams(folder):
    before = samples(folder, boundary=None)
    np.save(folder / "cams" / "c.npy", np.random.default_rng(5).random((CLASSES - 1, 10, 14)))
    after = samples(folder, boundary=None)
    same = [torch.equal(one.base, other.base) for one, other in zip(before, after, strict=True)]
    assert same == [True, True, False, True]


def test_files_of_other_forms(folder, scenes):
    scene = scenes["a"]
    keys = np.array([6, 2])
    np.save(folder / "cams" / "a.npy", {"keys": keys, "high_res": scene.cams.numpy()[keys]})  # type: ignore[arg-type]
    torch.save([level[None] for level in scenes["b"].wss], folder / "wss" / "b.pt")
    (folder / "wss" / "b.npz").unlink()
    (folder / "masks" / "a.png").unlink()
    np.save(folder / "masks" / "a.npy", scene.mask.numpy()[None].astype(np.float32))
    made = {sample.key: sample for sample in samples(folder, masks=folder / "masks")}
    assert torch.equal(made["a"].cams, scene.cams[[2, 6]].relu())
    assert torch.equal(made["a"].base, scene.mask)
    assert made["a"].raw is None
    assert torch.equal(made["a"].uss, scene.uss)
    for key in ("a", "b"):
        assert all(map(torch.equal, made[key].wss, scenes[key].wss))
