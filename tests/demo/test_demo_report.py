"""What the demo says about a photo: shares of the pixels, classes lost and recovered."""

from __future__ import annotations

import io

import torch
from rich.console import Console

from dhr_refine.datasets.photos import PHOTOS
from dhr_refine.demo import report

NAMES = ["background", "cup", "coffee", "spoon"]


def test_a_class_that_shrinks_to_less_than_half_is_marked():
    shares = {"base": [0.6, 0.2, 0.1, 0.1], "init": [0.6, 0.2, 0.1, 0.1], "final": [0.2, 0.09, 0.06, 0.65]}
    one = report.Report(PHOTOS["coffee"], shares, [])
    assert [bool(report._verdict(one, label)) for label in range(4)] == [False, True, False, False]
    assert "shrank" in report._verdict(one, 1)


def test_lost_and_recovered_go_by_the_share_of_pixels():
    photo = PHOTOS["coffee"]
    assert report.pixel_shares(torch.tensor([[0, 1], [1, 255]]), 3) == [0.25, 0.5, 0.0]
    shares = {"base": [0.9, 0.1, 0.004, 0.0], "init": [0.9, 0.1, 0.0, 0.0], "final": [0.5, 0.004, 0.4, 0.0]}
    one = report.Report(photo, shares, [])
    assert one.lost("base") == {2, 3}
    assert one.recovered == {2}
    console = Console(file=io.StringIO(), width=100)
    console.print(report.share_table([one]))
    rows = [line for line in console.file.getvalue().splitlines() if "%" in line]
    assert [name in row for name, row in zip(NAMES, rows, strict=True)] == [True] * 4
    assert ["90.0%" in rows[0], "50.0%" in rows[0]] == [True, True]
    verdicts = [row.split("│")[-2].strip() for row in rows]
    assert verdicts == ["", "in base, lost since", "lost in base, came back", "lost in base, still lost"]
    summary = report.summary([one])
    assert "Lost by the base mask: coffee (coffee), spoon (coffee)\n" in summary
    assert "Came back: coffee (coffee)\n" in summary
    assert "Lost since: cup (coffee)\n" in summary
    assert "fine-tuned for saliency" in summary
