"""What the demo says about a photo: shares of the pixels, classes lost and recovered."""

from __future__ import annotations

import io

import torch
from rich.console import Console

from dhr_refine.datasets.photos import PHOTOS
from dhr_refine.demo import report

NAMES = ["background", "cup", "coffee", "spoon"]


def make_shares(base, final):
    """Shares after each step: every step but the last leaves the base mask as it is."""
    return {stage: final if stage == "final" else base for stage in report.STAGES}


def test_a_class_that_shrinks_to_less_than_half_is_marked():
    one = report.Report(PHOTOS["coffee"], make_shares([0.6, 0.2, 0.1, 0.1], [0.2, 0.09, 0.06, 0.65]), [], {})
    assert [bool(report._verdict(one, label)) for label in range(4)] == [False, True, False, False]
    assert "halved" in report._verdict(one, 1)


def test_lost_and_recovered_go_by_the_share_of_pixels():
    photo = PHOTOS["coffee"]
    assert report.pixel_shares(torch.tensor([[0, 1], [1, 255]]), 3) == [0.25, 0.5, 0.0]
    shares = make_shares([0.9, 0.1, 0.004, 0.0], [0.5, 0.004, 0.4, 0.0])
    one = report.Report(photo, shares, [], {})
    assert one.lost("base") == {2, 3}
    assert one.recovered == {2}
    console = Console(file=io.StringIO(), width=100)
    console.print(report.share_table([one]))
    rows = [line for line in console.file.getvalue().splitlines() if "%" in line]
    assert [name in row for name, row in zip(NAMES, rows, strict=True)] == [True] * 4
    assert ["90.0%" in rows[0], "50.0%" in rows[0]] == [True, True]
    verdicts = [row.split("│")[-2].strip() for row in rows]
    assert verdicts == ["", "lost since", "came back", "still lost"]
    summary = report.summary([one])
    assert "Vanished from the base mask: coffee (coffee), spoon (coffee)\n" in summary
    assert "Came back: coffee (coffee)\n" in summary
    assert "Lost since: cup (coffee)\n" in summary
    assert "Steps that did nothing: none\n" in summary
    assert "fine-tuned for saliency" in summary


def test_steps_that_did_nothing_are_named_and_marked():
    shares = {stage: [0.1 * i, 0.2, 0.3, 0.4] for i, stage in enumerate(report.STAGES, start=1)}
    one = report.Report(PHOTOS["coffee"], shares, [], {"WSS step": "no two classes are alike"})
    console = Console(file=io.StringIO(), width=100)
    console.print(report.share_table([one]))
    (row,) = (line for line in console.file.getvalue().splitlines() if "background" in line)
    cells = [cell.strip() for cell in row.split("│")[3:8]]
    assert cells == ["10.0%", "20.0%", "30.0%", "=", "50.0%"]
    assert "Steps that did nothing:\ncoffee, WSS step: no two classes are alike.\n" in report.summary([one])


def test_the_winner_is_the_label_of_the_highest_score():
    scores = torch.tensor([[[0.1, 0.5]], [[0.3, 0.2]]])
    assert report.winners(scores, torch.tensor([0, 4])).tolist() == [[4, 0]]
