"""How often refine_mask would wait for a GPU: counted on a CPU wherever a value reaches the host."""

from __future__ import annotations

import pytest
import torch
from host_waits import watch_tensors
from scenes import make_scene, stack

import dhr_refine
from dhr_refine import Recipe, refine_mask, transport


@pytest.fixture
def waits(monkeypatch, without_numba):
    """Counter of the waits outside the transport, whose calls are counted instead."""
    mode = watch_tensors(monkeypatch)
    solve = transport.solver.solve

    def solved(*rest, **options):
        mode.note("transport")
        mode.muted = True
        try:
            return solve(*rest, **options)
        finally:
            mode.muted = False

    keep = dhr_refine.keep.give_back

    def given(*rest, **options):
        # Asks whether a class is missing on a CPU alone (test_keep.py).
        mode.muted = True
        try:
            return keep(*rest, **options)
        finally:
            mode.muted = False

    monkeypatch.setattr(dhr_refine.keep, "give_back", given)
    for module in (dhr_refine.seed, dhr_refine.rebalance):
        monkeypatch.setattr(module, "solve", solved)
    return mode


def count(waits, scenes, **options):
    tags = torch.zeros(len(scenes), 8)
    for row, scene in enumerate(scenes):
        tags[row, scene.tags] = 1
    waits.seen.clear()
    with waits:
        refine_mask(*stack(scenes), labels=tags, boundary=None, **options)
    return sorted(waits.seen)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_call_waits_a_handful_of_times(waits, batch):
    """Checks, tags, the table of labels, the groups; a transport of CAMs, of USS and of WSS scores."""
    outside = ["cpu", "cpu", "nonzero", "tolist"]
    alike = [make_scene(s, tags=(2, 6), alike=(2, 6)) for s in range(batch)]
    assert count(waits, alike) == sorted([*outside, "transport", "transport", "transport"])
    apart = [make_scene(s, tags=(2, 6)) for s in range(batch)]
    assert count(waits, apart, tau=1.0) == sorted([*outside, "transport", "transport"])


def test_the_counter_counts(waits):
    values = torch.arange(3.0)
    with waits:
        bool((values > 0).any())
        values[values > 0].tolist()
        values.nonzero()
    assert sorted(waits.seen) == ["_local_scalar_dense", "index", "nonzero", "tolist"]


def test_without_alike_classes_no_wss_feature_is_read(monkeypatch):
    seen = []
    compare = dhr_refine.rebalance.compare
    monkeypatch.setattr(
        dhr_refine.rebalance,
        "compare",
        lambda features, *rest: seen.append(features.shape[1]) or compare(features, *rest),
    )
    scene = make_scene(0, tags=(2, 6), alike=(2, 6))
    for tau, maps in ((1.0, 1), (0.8, 3)):
        for recipe in (Recipe(), Recipe.released()):
            seen.clear()
            refine_mask(*stack([scene]), labels=[scene.tags], boundary=None, tau=tau, recipe=recipe)
            assert len(seen) == maps


@pytest.mark.parametrize(("size", "most"), [(300, 2), (4096, 2), (20000, 2)])
def test_a_transport_waits_once_or_twice(waits, monkeypatch, size, most):
    """As on an accelerator, where the host asks late; its result is that of a host that asks at once."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(4, 3, size, generator=generator) ** 3
    scores[0, 1] *= 0.3
    masses = torch.full((4, 3), 1 / 3)
    expected = transport.solver.solve(scores, None, masses, reg=0.1, tol=1e-3)
    monkeypatch.setattr(transport.lean, "blind_passes", lambda scores, passes: passes)
    waits.seen.clear()
    with waits:
        result = transport.solver.solve(scores, None, masses, reg=0.1, tol=1e-3)
    assert 1 <= len(waits.seen) <= most
    assert torch.equal(result.iterations, expected.iterations)
    torch.testing.assert_close(result.shares, expected.shares, rtol=1e-5, atol=1e-6)
    assert bool((result.residual <= 1e-3).all())


def test_what_refine_mask_has_checked_the_crf_does_not_check_again(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("checked twice")

    scene = make_scene(0, tags=(2, 6))
    monkeypatch.setattr(dhr_refine.crf.inference, "check_pair", refuse)
    monkeypatch.setattr(dhr_refine.crf.lattice, "_equal", refuse)
    mask = refine_mask(*stack([scene]), labels=[scene.tags], boundary="crf")
    monkeypatch.undo()
    assert torch.equal(mask, refine_mask(*stack([scene]), labels=[scene.tags], boundary=dhr_refine.dense_crf))
