"""Several processes: refine_mask and the training script give every rank what one process would get."""

from __future__ import annotations

import csv
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from places import ROOT
from scenes import make_scene, stack
from voc_folder import TINY, make_folder

from dhr_refine import refine_mask

pytestmark = [
    pytest.mark.skipif(not dist.is_available(), reason="this torch has no torch.distributed"),
    pytest.mark.usefixtures("one_thread"),
]
SCRIPT = ROOT / "examples" / "train_wss.py"
WORLD = 2


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def refine(rows: slice) -> torch.Tensor:
    """Some images of a fixed batch with different tags, boxes and alike classes."""
    scenes = [make_scene(seed, tags=(2, 6, 4)[: 1 + seed % 3], lost=(2,), alike=(2, 6)) for seed in range(6)]
    cams, masks, uss, wss, images = (
        [level[rows] for level in part] if isinstance(part, list) else part[rows] for part in stack(scenes)
    )
    labels = [scene.tags for scene in scenes][rows]
    boxes = [(seed, 2, 56 - seed, 40) for seed in range(6)][rows]
    return refine_mask(cams, masks, uss, wss, images, labels=labels, boxes=boxes, box_format="xyxy")


def rank_main(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=WORLD)
    try:
        # The ranks are out of step on purpose: a hidden collective would hang or mix them up.
        if rank == 0:
            refine(slice(0, 1))
        torch.save(refine(slice(rank * 3, rank * 3 + 3)), Path(folder, f"{rank}.pt"))
        dist.barrier()
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_ranks_give_the_masks_of_one_process(tmp_path):
    whole = refine(slice(None))
    assert len(whole.unique()) > 3
    mp.spawn(rank_main, args=(free_port(), str(tmp_path)), nprocs=WORLD)
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.slow
def test_the_training_script_under_torchrun(tmp_path):
    """Two steps: the masks of step 0 are bit-equal to one process's, losses and weights equal to rounding."""
    pytest.importorskip("PIL", reason="needs Pillow")
    pytest.importorskip("rich", reason="needs rich")
    root = make_folder(tmp_path / "voc")
    arguments = [*TINY, "--batch", "4", "--steps", "2", "--save-masks", "--root", str(root)]
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(WORLD), "--master-port"]
    launcher += [str(free_port()), str(SCRIPT)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for name, command in (("one", [str(SCRIPT)]), ("two", launcher)):
        paths = ["--out", str(tmp_path / name), "--cache", str(tmp_path / f"cache-{name}")]
        process = subprocess.run(
            [sys.executable, *command, *arguments, *paths],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert process.returncode == 0, process.stderr[-3000:]
        assert process.stdout.count("5 images to train on") == 1  # only the first process speaks

    def masks(name):
        return {path.name: path.read_bytes() for path in (tmp_path / name / "masks").iterdir()}

    one, two = masks("one"), masks("two")
    assert one.keys() == two.keys() == {f"{i:07d}.png" for i in range(8)}
    first = [f"{i:07d}.png" for i in range(4)]
    assert [one[name] for name in first] == [two[name] for name in first]
    assert len({one[name] for name in first}) == 4

    rows = []
    for name in ("one", "two"):
        with (tmp_path / name / "log.csv").open(newline="") as file:
            rows.append([[float(r["loss_cls"]), float(r["loss_seg"])] for r in csv.DictReader(file)])
    assert len(rows[0]) == 2
    torch.testing.assert_close(torch.tensor(rows[0][0]), torch.tensor(rows[1][0]), rtol=1e-5, atol=0)
    torch.testing.assert_close(torch.tensor(rows[0]), torch.tensor(rows[1]), rtol=1e-2, atol=0)
    weights = [torch.load(tmp_path / n / "checkpoint.pt", weights_only=True)["model"] for n in ("one", "two")]
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], rtol=0, atol=3e-3)
    # Every held-out image is scored once, whatever the number of processes.
    evaluations = [(tmp_path / name / "evaluation.csv").read_text().splitlines() for name in ("one", "two")]
    assert evaluations[0][:5] == evaluations[1][:5]
