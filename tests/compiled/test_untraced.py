"""Callers that torch.compile compiles get the same: it stays out of machine code and threads."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from places import ROOT
from pytorch_calls import CALLS as EVERY
from scenes import make_scene, stack

import dhr_refine
from dhr_refine.compiled import eager, ordinary

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


# The compiler reads these to the end; the graph stops at the door of all others.
TRACED = {"has_labels", "has_split_labels", "tokens_to_map", "View.crop"}
# What they compile with numba takes seconds, not a minute, of a process whose cache is empty.
SOON = ["base_mask", "class_avg_pool", "sinkhorn_ot"]
NO_COMPILER = shutil.which("c++") is None and shutil.which("g++") is None
NO_NUMBA = importlib.util.find_spec("numba") is None


def compile_in_a_process(folder: Path, backend: str, graph: str, names: list[str], *, cold: bool) -> dict:
    """What became of each, in a fresh process that has no code of the compiler on disk."""
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"PYTHONPATH": path, "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")}
    if cold:
        env["NUMBA_CACHE_DIR"] = str(folder / "numba")
    script = str(ROOT / "tests" / "compiled" / "compiled_callers.py")
    done = subprocess.run(
        [sys.executable, script, backend, graph, *names], env=env, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(line) for line in done.stdout.splitlines())


@pytest.mark.slow
@pytest.mark.skipif(NO_NUMBA, reason="needs numba: pip install numba")
def test_a_process_that_never_compiled_anything(tmp_path):
    assert compile_in_a_process(tmp_path, "eager", "parts", SOON, cold=True) == dict.fromkeys(SOON, "")


@pytest.mark.slow
def test_every_public_function_in_a_compiled_caller(tmp_path):
    done = compile_in_a_process(tmp_path, "eager", "parts", [*EVERY], cold=False)
    assert done == dict.fromkeys(EVERY, "")


@pytest.mark.slow
@pytest.mark.skipif(NO_COMPILER, reason="needs a C++ compiler")
def test_between_machine_code_of_inductor(tmp_path):
    names = ["refine_mask", "sinkhorn_ot"]
    assert compile_in_a_process(tmp_path, "inductor", "parts", names, cold=False) == dict.fromkeys(names, "")


@pytest.mark.slow
def test_a_full_graph_is_refused_with_the_reason(tmp_path):
    done = compile_in_a_process(tmp_path, "eager", "fullgraph", [*EVERY], cold=False)
    assert set(done) == set(EVERY)
    for name, said in done.items():
        if name in TRACED:
            assert said == "", name
        else:
            assert "call it outside the compiled function, or compile without fullgraph=True" in said, name
            assert name.partition(".")[0] in said


def test_every_public_function_is_among_them():
    functions = {name for name in dhr_refine.__all__ if name[0].islower()}
    # These take no tensor: names of layers, a file.
    assert functions - {"capture_layers", "read_cams"} <= set(EVERY)


def test_results_are_ordinary_where_it_says_so():
    @ordinary
    def double(value, *, times=2):
        """Words."""
        return value * times

    class Own(torch.Tensor):
        pass

    with torch.inference_mode():
        made = double(torch.ones(2))
    assert not made.is_inference()
    assert type(double(torch.ones(2).as_subclass(Own))) is torch.Tensor
    assert not double(torch.ones(2, requires_grad=True)).requires_grad
    assert torch.is_grad_enabled()
    assert (double.__doc__, double.__name__) == ("Words.", "double")
