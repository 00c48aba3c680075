"""Benchmarks of the transport, the pooling and the whole step: ``pytest tests/benchmarks --benchmark-only``.

The tables of docs/benchmarks.md come from ``python tests/benchmarks/report.py``, which interleaves the peers.
"""

from __future__ import annotations

import pytest
import report_gpu
import torch
import transport_peers
from harness import publish, threads
from workloads import cam_scores, voc_like

from dhr_refine import Recipe, class_avg_pool, refine_mask, sinkhorn_ot

CASES = {"B16 N4096 K3": (16, 3, 4096), "B16 N4096 K10": (16, 10, 4096), "B1 N262144 K5": (1, 5, 262144)}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("peer", transport_peers.PEERS)
def test_transport(benchmark, case, peer):
    scores = cam_scores(*CASES[case])
    with threads(1):
        plan = benchmark(transport_peers.PEERS[peer], scores)
    assert transport_peers.marginal_error(plan) <= 1.001e-3


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("peer", transport_peers.RELAXED_PEERS)
def test_relaxed_transport(benchmark, case, peer):
    scores = cam_scores(*CASES[case])
    with threads(1):
        plan = benchmark(transport_peers.RELAXED_PEERS[peer], scores)
    exact = sinkhorn_ot(scores, class_penalty=transport_peers.PENALTY, tol=1e-6).class_mass
    assert (plan.sum(-1) / exact - 1).abs().max() <= 1.5e-3


@pytest.mark.parametrize("classes", [3, 21])
def test_pooling(benchmark, classes):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(4, 384, 37, 37, generator=generator)
    mask = torch.randint(0, classes, (4, 512, 512), generator=generator)
    with threads(1):
        pooled = benchmark(class_avg_pool, features, mask, num_classes=classes)
    assert bool((pooled.counts > 0).all())


@pytest.mark.parametrize("boundary", [None, "crf"])
def test_step(benchmark, boundary):
    scene = voc_like(2, tags=3)
    with threads(1):
        mask = benchmark.pedantic(
            lambda: scene.call(refine_mask, boundary=boundary), rounds=3, warmup_rounds=1
        )
    assert mask.shape == scene.masks.shape


def test_peers_compute_the_same_masks(benchmark):
    released = pytest.importorskip("released", reason="the straightforward peer")
    pytest.importorskip("pydensecrf", reason="the peer's CRF")
    scene = voc_like(1, size=128, tags=3, wss=((64, 16), (128, 16)))
    expected = benchmark.pedantic(lambda: scene.call(released.refine), rounds=1)
    mask = scene.call(refine_mask, recipe=Recipe.released())
    assert float((mask == expected).float().mean()) >= 0.999


def test_sinkhorn_and_newton_agree_here(benchmark):
    scores = cam_scores(2, 4, 1369)
    plan = benchmark.pedantic(lambda: sinkhorn_ot(scores, tol=1e-5), rounds=1).plan
    assert torch.allclose(plan, sinkhorn_ot(scores, tol=1e-5, method="sinkhorn").plan, atol=1e-8)


def test_the_gpu_report_runs_without_one_and_writes_its_tables_into_a_page(capsys, tmp_path):
    page = tmp_path / "page.md"
    places = [f"<!-- table: {name} -->\nold\n<!-- end -->\nafter {name}\n" for name in report_gpu.TABLES]
    page.write_text("# Title\n" + "".join(places), encoding="utf-8")
    small = ["--device", "cpu", "--size", "32", "--batch", "2", "--rounds", "1"]
    report_gpu.main([*small, "--strict", "--write", str(page)])
    printed, written = capsys.readouterr().out, page.read_text(encoding="utf-8")
    assert written.startswith("# Title\n<!-- table: ")
    assert "old" not in written
    for name in report_gpu.TABLES:
        assert f"### {name}" in printed
        after = written.split(f"<!-- table: {name} -->\n")[1]
        assert "|---|" in after.split("<!-- end -->\n")[0]
        assert f"<!-- end -->\nafter {name}\n" in after


def test_a_page_without_a_place_for_a_table_says_so(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- table: step -->\n", encoding="utf-8")
    with pytest.raises(ValueError, match="has no lines <!-- table: step --> and <!-- end -->"):
        publish("step", ["| a |"], "today", page)
    assert page.read_text(encoding="utf-8") == "<!-- table: step -->\n"
