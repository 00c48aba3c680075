"""Callers that torch.compile compiles get the same: it stays out of machine code and threads."""

from __future__ import annotations

import pytest
import torch
from scenes import make_scene, stack

import dhr_refine
from dhr_refine.compiled import eager

CAMS, MASKS, USS, WSS, IMAGES = stack([make_scene(0), make_scene(1)])
TAGS = [[2, 6], [2, 6]]
SCORES = torch.rand(2, 3, 200, generator=torch.Generator().manual_seed(0))
LABELS = MASKS.clamp(max=2)
PROBS = dhr_refine.probs_from_labels(LABELS, num_classes=3)

CALLS = {
    "refine_mask": (lambda cams: dhr_refine.refine_mask(cams, MASKS, USS, WSS, IMAGES, labels=TAGS), CAMS),
    "sinkhorn_ot": (lambda scores: dhr_refine.sinkhorn_ot(scores).plan, SCORES),
    "uss_rebalance": (lambda uss: dhr_refine.uss_rebalance(uss, LABELS, num_classes=3).scores, USS),
    "dense_crf": (
        lambda probs: dhr_refine.dense_crf(IMAGES, probs, lattice=dhr_refine.DenseCRFLattice(IMAGES)),
        PROBS,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.filterwarnings("ignore:Dynamo")
def test_a_compiled_caller_gets_the_same(name):
    call, given = CALLS[name]
    torch.compiler.reset()
    result = torch.compile(lambda value: 1 * call(value + 0), backend="eager")(given)
    torch.testing.assert_close(result, call(given), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute")
def test_gradients_pass_a_compiled_caller():
    def loss(scores):
        return (dhr_refine.sinkhorn_ot(scores).plan ** 2).sum()

    torch.compiler.reset()
    plain, compiled = SCORES.clone().requires_grad_(), SCORES.clone().requires_grad_()
    loss(plain).backward()
    torch.compile(loss, backend="eager")(compiled).backward()
    torch.testing.assert_close(compiled.grad, plain.grad)


def test_elsewhere_it_is_the_function_itself():
    @eager
    def double(value, *, times=2):
        """Words."""
        return value * times

    assert (double(3), double(3, times=5), double.__doc__, double.__name__) == (6, 15, "Words.", "double")
