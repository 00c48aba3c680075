"""examples/train_segmenter.py evaluate and table: masks, scores and gaps against references by hand."""

# ruff: noqa: E501  (tables of errors, one case a line)

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import train_segmenter
from second_stage import table
from second_stage.data import find_pairs
from second_stage.evaluation import load
from second_stage.networks import Network
from second_stage.prediction import KINDS, predict
from second_stage_runs import evaluate_words, make_data, start, train_words

from dhr_refine import dense_crf
from dhr_refine.files import read_mask

pytest.importorskip("PIL", reason="needs Pillow")
pytest.importorskip("rich", reason="needs rich")

pytestmark = pytest.mark.usefixtures("one_thread")
ONE = {"found": [[1]], "predicted": [[1]], "true": [[1]]}
ALL = ("--scales", "0.5,1,1.5", "--flip", "--crf")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A data set, and a run on it that has learned something."""
    root = make_data(tmp_path_factory.mktemp("scores"))
    start(train_words(root, "run", "--steps", "30", "--lr", "0.03"))
    return root


class Colours(Network):
    """Four classes by colour and place, at a quarter of the image's size."""

    def logits(self, images):
        small = F.avg_pool2d(images.float(), 4) / 40
        return torch.cat([small, torch.linspace(-2, 5, small.shape[-1]).expand_as(small[:, :1])], 1)


def options(**changes):
    return SimpleNamespace(**{"scales": (1.0,), "flip": False, "size": None, "crf": False} | changes)


def reference(image, scales, *, flip, longest, allowed=None, crf=False):
    """The same by loops: resize, softmax at the image's size, mean, the classes that may be, CRF, argmax."""
    _, height, width = image.shape
    total = []
    for scale in scales:
        sides = [
            32 * max(1, round(side * scale * longest / max(height, width) / 32)) for side in (height, width)
        ]
        scaled = F.interpolate(image[None].float(), sides, mode="bilinear", antialias=True)
        for mirrored in (False, True)[: 1 + flip]:
            logits = Colours(torch.nn.Identity()).logits(scaled.flip(3) if mirrored else scaled)
            probs = F.interpolate(logits, (height, width), mode="bilinear").softmax(1)[0]
            total.append(probs.flip(2) if mirrored else probs)
    probs = torch.stack(total).mean(0)
    labels = list(range(4)) if allowed is None else allowed
    probs = probs[labels]
    if crf:
        probs = dense_crf(image, probs / probs.sum(0), min_prob=1e-3)
    return torch.tensor(labels)[probs.argmax(0)]


def test_masks_are_those_of_a_reference():
    image = torch.randint(0, 256, (3, 9, 12), dtype=torch.uint8)
    image = F.interpolate(image[None].float(), (70, 90), mode="bilinear")[0].to(torch.uint8)
    network, before = Colours(torch.nn.Identity()), image.clone()
    for tags, allowed in ((None, None), ((2, 0), [0, 1, 3])):
        found = predict(network, image, options(scales=(0.5, 1.0, 1.5), flip=True, crf=True, size=128), tags)
        assert tuple(found) == KINDS
        wanted = [
            reference(image, (1,), flip=False, longest=128, allowed=allowed),
            reference(image, (0.5, 1, 1.5), flip=True, longest=128, allowed=allowed),
            reference(image, (0.5, 1, 1.5), flip=True, longest=128, allowed=allowed, crf=True),
        ]
        for one, other in zip(found.values(), wanted, strict=True):
            assert (one == other).float().mean() > 0.999  # sums in another order
        assert len(found[KINDS[0]].unique()) == (4 if tags is None else 3)
        assert not torch.equal(found[KINDS[0]], found[KINDS[1]])
    assert torch.equal(image, before)
    assert tuple(predict(network, image, options())) == KINDS[:1]
    single = reference(image, (1,), flip=False, longest=90)
    assert torch.equal(predict(network, image, options())[KINDS[0]], single)
    # The CRF works on what stands before it, and an image without tags is background.
    found = predict(network, image, options(crf=True))
    assert tuple(found) == (KINDS[0], KINDS[2])
    assert torch.equal(found[KINDS[2]], reference(image, (1,), flip=False, longest=90, crf=True))
    assert not any(mask.any() for mask in predict(network, image, options(crf=True), ()).values())


def confusion(pred, target):
    """mIoU over the classes that there are, from a confusion matrix of all pixels that count."""
    both = np.zeros((11, 11))
    np.add.at(both, (np.minimum(target, 10), np.minimum(pred, 10)), 1)
    both = both[:10, :10]
    union = both.sum(0) + both.sum(1) - both.diagonal()
    present = both.sum(1) > 0
    return (both.diagonal()[present] / union[present]).mean(), both.sum(1)


def test_scores_and_files(root, capsys):
    out = root / "masks-out"
    words = [*ALL, "--json", f"{root}/e.json", "--save-masks", str(out), "--trained-on"]
    start(evaluate_words(root, "run", *words))
    printed = capsys.readouterr().out
    told = json.loads((root / "e.json").read_text())
    assert told["images"] == ["image5", "image6"]
    assert list(told["scores"]) == ["masks trained on", *KINDS]
    pairs, _ = find_pairs(root / "voc", root / "voc", root / "val.txt", 10)
    network, _ = load(root / "run", torch.device("cpu"))
    asked = options(scales=(0.5, 1.0, 1.5), flip=True, crf=True)
    masks = [predict(network, pair.load()[0], asked) for pair in pairs]
    truth = np.concatenate([pair.load()[1].numpy().ravel() for pair in pairs])
    for kind in KINDS:
        wanted, true = confusion(np.concatenate([mask[kind].numpy().ravel() for mask in masks]), truth)
        row = told["scores"][kind]
        assert row["miou"] == pytest.approx(wanted, rel=1e-9)
        assert np.sum(row["counts"]["true"], 0).tolist() == true.tolist()
        assert f"{kind:16s} mIoU {wanted:6.1%}" in printed
    assert told["scores"][KINDS[0]]["miou"] > 0.2
    # What it was trained on is a part of the ground truth: of four images, not of those without a mask.
    row = told["scores"]["masks trained on"]
    assert (row["miou"], len(row["counts"]["true"])) == (1.0, 4)
    for pair, mask in zip(pairs, masks):
        assert torch.equal(read_mask(out / f"{pair.key}.png"), mask[KINDS[2]])
    assert told["run"]["network"] == "tiny"
    assert told["run"]["step"] == "30"


def test_choices(root):
    (root / "tags.txt").write_text("image5 2\nimage6 0 7\n")
    words = ["--limit", "1", "--size", "64", "--labels", "0,3", "--tags", f"{root}/tags.txt"]
    start(evaluate_words(root, "run", *words, "--json", f"{root}/c.json", "--save-masks", f"{root}/c"))
    row = json.loads((root / "c.json").read_text())["scores"][KINDS[0]]
    assert row["miou"] == pytest.approx(np.mean([row["iou"][label] for label in (0, 3)]))
    assert set(read_mask(root / "c" / "image5.png").unique().tolist()) <= {0, 3}
    assert len(row["counts"]["true"]) == 1


def write_counts(path, found, **kinds):
    """An evaluation of three images with 10 pixels of each of two labels, so many of them found."""
    found = np.array(found)
    counts = {
        "found": found,
        "predicted": np.stack([found[:, 0] + 10 - found[:, 1], found[:, 1] + 10 - found[:, 0]], 1),
    }
    counts = {name: array.tolist() for name, array in {**counts, "true": np.full((3, 2), 10)}.items()}
    path.write_text(json.dumps({"scores": {KINDS[0]: {"counts": counts}} | kinds}))
    return path


def miou(found):
    found = np.array(found).sum(0)
    return 100 * np.mean(found / (60 - found[::-1]))


def test_the_gap_closed(tmp_path, capsys):
    base, refined, truth = [[4, 5], [5, 6], [6, 6]], [[7, 5], [8, 7], [6, 8]], [[9, 9], [8, 9], [10, 9]]
    other = [[7, 6], [8, 8], [6, 7]]
    paths = {
        name: write_counts(tmp_path / f"{name}.json", found)
        for name, found in {"base": base, "refined": refined, "other": other, "truth": truth}.items()
    }
    words = [
        f"a={paths['base']},{paths['base']}",
        f"b={paths['refined']},{paths['other']}",
        f"c={paths['truth']}",
    ]
    start(["table", *words])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| trained on | single scale | gap closed |"
    middle = (miou(refined) + miou(other)) / 2
    closed = 100 * (middle - miou(base)) / (miou(truth) - miou(base))
    assert lines[2] == f"| a | {miou(base):.1f} | 0 |"
    assert lines[3].startswith(f"| b | {middle:.1f} ({middle - miou(base):+.1f} ± ")
    assert f" | {closed:.0f} ± " in lines[3]
    assert lines[4].startswith(f"| c | {miou(truth):.1f} (")
    assert lines[4].endswith("| 100 |")
    # Errors by the same draws, by hand.
    weights = np.concatenate([np.random.default_rng(0).multinomial(3, np.full(3, 1 / 3), size=100)])
    drawn = [np.einsum("rn,nk->rk", weights, np.array(found)) for found in (base, refined, other, truth)]

    def means(found):
        return 100 * np.mean(found / (60 - found[:, ::-1]), axis=1)

    gain = (means(drawn[1]) + means(drawn[2])) / 2 - means(drawn[0])
    share = gain / (means(drawn[3]) - means(drawn[0]))
    start(["table", *words, "--draws", "100"])
    line = capsys.readouterr().out.splitlines()[3]
    assert f"± {np.std(gain, ddof=1):.1f})" in line
    assert f"± {100 * np.std(share, ddof=1):.0f} |" in line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base", "must be NAME=FILE"),
        ("=a.json", "must be NAME=FILE"),
        ("base=", "must be NAME=FILE"),
        ("base=a,,b", "must be NAME=FILE"),
    ],
)
def test_arms_that_make_no_sense(capsys, text, message):
    with pytest.raises(SystemExit) as stopped:
        train_segmenter.main(["table", text])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "words", "message"),
    [
        (None, "a={0} b={0}", "2 arms leave no gap to close"),
        (None, "a={0} a={0} b={0}", "two arms have one name"),
        (None, "a={0} b={0} c=nowhere.json", "nowhere.json cannot be read .*: write it with"),
        ("{", "a={0} b={0} c={1}", "cannot be read .*: write it with"),
        (json.dumps({"scores": {KINDS[0]: {"counts": {"found": [[1]]}}}}), "a={0} b={0} c={1}", "cannot be read"),
        (json.dumps({"scores": {KINDS[0]: {"counts": ONE}}}), "a={0} b={0} c={1}", "do not go together: counts hold different images"),
        (None, "a={0} b={0} c={0} --labels 5", "do not go together: labels"),
    ],
)  # fmt: skip
def test_evaluations_that_do_not_go_together(tmp_path, capsys, content, words, message):
    good = write_counts(tmp_path / "good.json", [[4, 5]] * 3)
    (tmp_path / "bad.json").write_text(content or "")
    assert train_segmenter.main(["table", *words.format(good, tmp_path / "bad.json").split()]) == 1
    error = capsys.readouterr().err
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(error)
    assert error.count("\n") == 1


def test_a_gap_of_nothing_is_no_number(tmp_path):
    good = write_counts(tmp_path / "good.json", [[4, 5]] * 3)
    text = table.table([(name, [good]) for name in "abc"], None, 10)
    assert text.splitlines()[3] == f"| b | {miou([[4, 5]] * 3):.1f} (+0.0 ± 0.0) | - |"
