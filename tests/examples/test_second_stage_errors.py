"""examples/train_segmenter.py: what its user can cause is one line that says what to do."""

# ruff: noqa: E501  (tables of errors, one case a line)

from __future__ import annotations

import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import train_segmenter
from places import ROOT
from script_processes import started, wait_for
from second_stage_runs import checkpoint, evaluate_words, make_data, train_words

Image = pytest.importorskip("PIL.Image", reason="needs Pillow")
pytest.importorskip("rich", reason="needs rich")

pytestmark = pytest.mark.usefixtures("one_thread")
HERE = Path()


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    root = make_data(tmp_path_factory.mktemp("second"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert train_segmenter.main(train_words(HERE, "out", "--steps", "2", "--save-every", "1")) == 0
    return root


@pytest.fixture
def root(original, tmp_path, monkeypatch):
    """A data set and a finished run: the working folder."""
    monkeypatch.chdir(shutil.copytree(original, tmp_path / "here"))
    return tmp_path / "here"


@pytest.fixture
def fails(one_line):
    """Run the script; the one line that it ends with."""
    return lambda words, code=1: one_line(train_segmenter.main, words, code)


def save(root, name, mask):
    Image.fromarray(np.asarray(mask, np.uint8)).save(root / name)


def rewrite(root, **changes):
    path = root / "out" / "checkpoint.pt"
    torch.save({**torch.load(path, weights_only=True), **changes}, path)


def options_of(root, **changes):
    rewrite(root, options={**checkpoint(root / "out")["options"], **changes})


NEW = ("--out", "{}/new")
TRAIN = [
    (lambda r: None, (), "checkpoint.pt exists: pass --resume to go on from it, or another --out"),
    (lambda r: None, ("--resume", "--seed", "7"), r"changed: seed \(was 0\)"),
    (lambda r: None, ("--resume", "--masks", "{}/voc"), r"changed: masks \(was masks\)"),
    (lambda r: rewrite(r, model={}), ("--resume",), "does not fit the model of this run"),
    (lambda r: None, (*NEW, "--images", "{}/nowhere"), "nowhere cannot be read as a folder"),
    (lambda r: None, (*NEW, "--masks", "{}/nowhere"), "nowhere cannot be read as a folder"),
    (lambda r: None, (*NEW, "--list", "{}/val.txt"), "none of 2 images has a mask in .*masks: masks have the names of their images, with one of .png, .npy, .npz"),
    (lambda r: None, (*NEW, "--list", "{}/none.txt"), "none.txt"),
    (lambda r: (r / "train.txt").write_text("nobody\n"), NEW, "none of 1 images has a mask"),
    (lambda r: (r / "voc/JPEGImages/image1.jpg").unlink(), NEW, "has no file of image image1"),
    (lambda r: (r / "voc/JPEGImages/image1.jpg").write_bytes(b"x"), NEW, "image1.jpg cannot be read .*: replace it, or take image1 out of the list"),
    (lambda r: (r / "masks/image1.png").write_bytes(b"x"), NEW, "image1.png cannot be read .*: replace it, or take image1 out of the list"),
    (lambda r: save(r, "masks/image1.png", np.zeros((5, 7))), NEW, r"image1.png is \(5, 7\) but image1.jpg \(73, 91\) \(H, W\): masks have to be at the size of their images"),
    (lambda r: save(r, "masks/image1.png", np.full((73, 91), 10)), NEW, "image1.png holds the label 10, but there are 10 classes and ignore 255: pass --classes"),
    (lambda r: save(r, "masks/image1.png", np.zeros((73, 91, 3))), NEW, "image1.png is a RGB picture: labels come from index or grey PNGs"),
    (lambda r: None, (*NEW, "--network", "unet"), "there is no network unet: --network is one of lite0"),
    (lambda r: None, (*NEW, "--lr", "1e30"), "is not finite at step .*: lower --lr"),
    (lambda r: None, ("--out", "{}/train.txt"), "train.txt cannot be written .*name another place with --out"),
]  # fmt: skip


@pytest.mark.parametrize(("prepare", "more", "text"), TRAIN, ids=range(len(TRAIN)))
def test_training(root, fails, prepare, more, text):
    prepare(root)
    words = train_words(HERE, "out", "--steps", "2", "--save-every", "1")
    message = fails([*words, *(part.format(root) for part in more)])
    with pytest.raises(AssertionError, match=text):
        raise AssertionError(message)
    assert not list(root.rglob("*.part"))


EVALUATE = [
    (lambda r: shutil.rmtree(r / "out"), (), "checkpoint.pt cannot be read .No such file.*: pass the --out of a training run"),
    (lambda r: (r / "out/checkpoint.pt").write_bytes(b"x"), (), "checkpoint.pt cannot be read"),
    (lambda r: rewrite(r, options={}), (), "checkpoint.pt cannot be read"),
    (lambda r: rewrite(r, model={}), (), "checkpoint.pt cannot be read .*: pass the --out"),
    (lambda r: options_of(r, network="unet"), (), "there is no network unet"),
    (lambda r: options_of(r, classes="7"), (), "checkpoint.pt cannot be read"),
    (lambda r: None, ("--labels", "0,10"), "--labels has 10, but the run has 10 labels"),
    (lambda r: (r / "tags.txt").write_text("image5 0 1\n"), ("--tags", "{}/tags.txt"), "tags.txt has no tags of image6: add them, or leave out --tags"),
    (lambda r: None, ("--tags", "{}/nowhere.txt"), "nowhere.txt"),
    (lambda r: save(r, "voc/SegmentationClassAug/image5.png", np.zeros((5, 7))), (), r"image5.png is \(5, 7\) but image5.jpg"),
    (lambda r: (r / "voc/SegmentationClassAug/image0.png").unlink(), ("--trained-on",), "has no ground truth of image0: leave out --trained-on"),
    (lambda r: save(r, "voc/SegmentationClassAug/image1.png", np.zeros((5, 7))), ("--trained-on",), r"image image1: .*\(5, 7\)"),
    (lambda r: None, ("--save-masks", "{}/train.txt"), "train.txt cannot be written .*another place with --save-masks"),
    (lambda r: None, ("--json", "{}/nowhere/a.json"), "a.json cannot be written .*another place with --json"),
    (lambda r: (r / "val.txt").write_text("nobody\n"), (), "none of 1 images has a mask"),
]  # fmt: skip


@pytest.mark.parametrize(("prepare", "more", "text"), EVALUATE, ids=range(len(EVALUATE)))
def test_evaluation(root, fails, prepare, more, text):
    prepare(root)
    message = fails(evaluate_words(HERE, "out", *(part.format(root) for part in more)))
    with pytest.raises(AssertionError, match=text):
        raise AssertionError(message)


def test_images_without_ground_truth_are_counted(root, capsys):
    (root / "voc/SegmentationClassAug/image5.png").unlink()
    assert train_segmenter.main(evaluate_words(HERE, "out")) == 0
    assert "1 images have no ground truth and are left out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "the following arguments are required: train | evaluate | table"),
        (["train"], "the following arguments are required: --images, --masks"),
        *((["train", "--images", "a", "--masks", "b", f"--longer={value}"], "--longer") for value in ("1", "2,1", "0,1", "a,b", "")),
        *((["train", "--images", "a", "--masks", "b", f"--classes={value}"], "--classes") for value in ("1", "x")),
        *((["train", "--images", "a", "--masks", "b", f"--weight-decay={value}"], "--weight-decay") for value in ("-1", "nan")),
        *((["evaluate", "a", "--images", "a", "--targets", "b", f"--scales={value}"], "--scales") for value in ("0", "1,,2", "nan", "-1")),
        *((["evaluate", "a", "--images", "a", "--targets", "b", f"--labels={value}"], "--labels") for value in ("-1", "a", "")),
    ],
)  # fmt: skip
def test_arguments_that_make_no_sense(fails, words, text):
    assert text in fails(words, code=2)


def test_a_batch_that_cannot_be_split(root, fails, monkeypatch):
    monkeypatch.setattr(train_segmenter.Run, "__enter__", lambda self: setattr(self, "world", 3) or self)
    monkeypatch.setattr(train_segmenter.Run, "__exit__", lambda *_: None)
    assert "--batch 2 cannot be split over 3 processes: pass a multiple" in fails(train_words(HERE, "new"))


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_two_runs_on_one_folder_and_ctrl_c(root, fails):
    script, out = ROOT / "examples" / "train_segmenter.py", root / "new"
    words = train_words(HERE, "new", "--steps", "100000", "--save-every", "1")
    with started(script, *words) as process:
        wait_for((out / "checkpoint.pt").is_file, process)
        assert f"another run (pid {process.pid}, started 20" in fails([*words, "--resume"])
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "train_segmenter: stopped; with --resume it goes on from the last checkpoint in new\n"
