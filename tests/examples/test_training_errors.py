"""examples/train_wss.py: what its user can cause is one line that says what to do, and leaves a state to resume."""

# ruff: noqa: E501  (tables of errors, one case a line)

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
import signal
import sys

import numpy as np
import pytest
import torch
import train_wss
import wss.run
from places import ROOT
from script_processes import started, wait_for
from torch._utils import ExceptionWrapper
from voc_folder import TINY, make_folder
from wss.lock import locked

from dhr_refine.errors import UserError, run_command

Image = pytest.importorskip("PIL.Image", reason="needs Pillow")
pytest.importorskip("rich", reason="needs rich")

pytestmark = pytest.mark.usefixtures("one_thread")
SCRIPT = ROOT / "examples" / "train_wss.py"


def command(root, *more):
    """The command line for a folder like ``finished``; later arguments win."""
    paths = ["--root", "voc", "--out", root / "out", "--cache", root / "cache"]
    return [str(part) for part in (*TINY, "--steps", "2", "--save-every", "1", *paths, *more)]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    root = tmp_path_factory.mktemp("training")
    make_folder(root / "voc")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert train_wss.main(command(root)) == 0
    return root


@pytest.fixture
def finished(original, tmp_path, monkeypatch):
    """A data set, and a run on it that has come to its end: the working folder."""
    monkeypatch.chdir(shutil.copytree(original, tmp_path / "here"))
    return tmp_path / "here"


@pytest.fixture
def fails(one_line):
    """Run the script; the one line that it ends with."""
    return lambda *arguments, code=1: one_line(train_wss.main, arguments, code)


def log(root, name="log"):
    with (root / "out" / f"{name}.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if "seconds" not in k} for row in csv.DictReader(file)]


# --------------------------------------------------------------------------------------------------
# Arguments


COUNTS = ("--steps", "--batch", "--save-every", "--eval-size", "--crop")
ARGUMENTS = [
    *((option, value) for option in COUNTS for value in ("0", "-1", "1.5", "nan", "x", "", "9" * 5000, "1e3")),
    *((option, value) for option in ("--warmup", "--seed", "--eval-images", "--workers") for value in ("-1", "nan", "0.5")),
    *((option, value) for option in ("--feedback", "--background") for value in ("-0.1", "1.1", "nan", "inf", "x")),
    *(("--lr", value) for value in ("0", "-1", "nan", "inf", "x")),
    ("--background", "0"),
    ("--crop", "40"),
    ("--workers", "100000"),
    *(("--device", value) for value in ("cuda:99", "gpu", "cuda:", "cpu:1", "mps", "")),
    ("--boundary", "best"),
    ("--networks", "huge"),
]  # fmt: skip


@pytest.mark.parametrize(("option", "value"), ARGUMENTS, ids=lambda text: text[:12])
def test_arguments_that_make_no_sense(fails, tmp_path, option, value):
    message = fails("--out", str(tmp_path / "out"), f"{option}={value}", code=2)
    assert f"argument {option}: " in message
    assert len(message) < 400
    assert not (tmp_path / "out").exists()


def test_a_device_that_is_not_there(fails, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert "cuda is not among the 0 GPUs that this torch sees: leave it out" in fails(
        "--device", "cuda", code=2
    )


@pytest.mark.parametrize(
    ("variables", "text"),
    [
        ({"RANK": "0"}, "start the script alone or by torchrun"),
        ({"RANK": "x", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}, "RANK is set, but not all of"),
        ({"RANK": "2", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "RANK 2 is not below WORLD_SIZE 2"),
        ({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}, "the processes do not find each other .*MASTER_ADDR"),
    ],
)  # fmt: skip
def test_variables_of_torchrun(fails, monkeypatch, tmp_path, variables, text):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(AssertionError, match=text):
        raise AssertionError(fails("--out", str(tmp_path)))


# --------------------------------------------------------------------------------------------------
# Files


def rewrite(root, **changes):
    """Change a checkpoint."""
    path = root / "out" / "checkpoint.pt"
    torch.save({**torch.load(path, weights_only=True), **changes}, path)


def other_network(root, networks):
    rewrite(root, model=train_wss.Segmenter(networks, "tiny", None).state_dict())


def other_averages(root):
    state = torch.load(root / "out" / "checkpoint.pt", weights_only=True)["optimiser"]
    state["state"][0]["exp_avg"] = torch.zeros(3)
    rewrite(root, optimiser=state)


def replace(path, content=b"no such thing"):
    path.unlink()
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-400])


def index(root, **changes):
    path = root / "voc" / "index.json"
    path.write_text(json.dumps([{**entry, **changes} for entry in json.loads(path.read_text())]))


def listed(root, text, annotation=None):
    """Lists and annotations instead of the index."""
    (root / "voc" / "index.json").unlink()
    (root / "voc" / "ImageSets" / "Segmentation").mkdir(parents=True)
    (root / "voc" / "Annotations").mkdir()
    (root / "voc" / "ImageSets" / "Segmentation" / "train.txt").write_bytes(text)
    if annotation is not None:
        (root / "voc" / "Annotations" / "image0.xml").write_bytes(annotation)


def without(root, name):
    shutil.rmtree(root / "voc" / name)


def folder_instead(path):
    path.unlink()
    path.mkdir()


def evaluations(root, change):
    """Change the arrays of an evaluation."""
    path = root / "out" / "evaluation-000002.npz"
    with np.load(path) as file:
        np.savez(path, **change(dict(file)))


RESUME = ("--resume",)
NEW = ("--out", "{}/new")
FAULTS = [
    # What stands in --out
    (lambda r: None, (), "checkpoint.pt exists: pass --resume to go on from it, or another --out"),
    (lambda r: None, ("--out", "{}/voc/index.json"), "index.json cannot be written .*name another place with --out"),
    (lambda r: None, ("--out", "{}/voc/index.json/out"), "cannot be written .*name another place with --out"),
    (lambda r: None, ("--out", "/proc/out"), "cannot be written .*name another place with --out"),
    (lambda r: (r / "new/run.lock").mkdir(parents=True), NEW, "run.lock cannot be written"),
    (lambda r: (r / "new/log.csv").mkdir(parents=True), NEW, "log.csv is no file: move it away"),
    (lambda r: (r / "new/masks").mkdir(parents=True) or (r / "new/masks/0000000.png").mkdir(), (*NEW, "--save-masks"), "masks cannot be written"),
    (lambda r: replace(r / "out/checkpoint.pt", b""), RESUME, "checkpoint.pt cannot be read .*: delete it to start anew, or choose another --out"),
    (lambda r: replace(r / "out/checkpoint.pt"), RESUME, "checkpoint.pt cannot be read"),
    (lambda r: cut(r / "out/checkpoint.pt"), RESUME, "checkpoint.pt cannot be read"),
    (lambda r: torch.save([1], r / "out/checkpoint.pt"), RESUME, "checkpoint.pt cannot be read"),
    (lambda r: folder_instead(r / "out/checkpoint.pt"), RESUME, "checkpoint.pt is no file"),
    (lambda r: rewrite(r, step=None), RESUME, "it says step None"),
    (lambda r: rewrite(r, step=-1), RESUME, "it says step -1"),
    (lambda r: rewrite(r, options=3), RESUME, "checkpoint.pt cannot be read"),
    (lambda r: rewrite(r, model={}), RESUME, "does not fit the model of this run"),
    (lambda r: other_network(r, 7), RESUME, "does not fit the model of this run .*size mismatch for head.weight"),
    (lambda r: rewrite(r, optimiser={}), RESUME, "does not fit the optimiser of this run"),
    (other_averages, RESUME, r"does not fit the optimiser of this run \(exp_avg is \(3,\) for a parameter"),
    (lambda r: None, (*RESUME, "--seed", "7"), r"changed: seed \(was 0\)"),
    (lambda r: None, (*RESUME, "--steps", "1"), r"changed: steps \(was 2\)"),
    (lambda r: None, (*RESUME, "--no-dhr"), r"changed: no_dhr \(was False\)"),
    (lambda r: replace(r / "out/log.csv", b"time,loss\n1,2\n"), RESUME, "log.csv cannot be read .*: delete it"),
    (lambda r: replace(r / "out/log.csv", b"step,loss\n0,2\n1\n"), RESUME, "log.csv cannot be read .*lines are damaged"),
    (lambda r: replace(r / "out/log.csv", b"step,loss\nx,2\n"), RESUME, "log.csv cannot be read"),
    (lambda r: replace(r / "out/evaluation.csv", b"\xff\xfe\n"), RESUME, "evaluation.csv cannot be read"),
    # Data
    (lambda r: None, (*NEW, "--root", "{}/nowhere"), "has neither index.json nor"),
    (lambda r: None, (*NEW, "--root", "{}/voc/index.json"), "index.json"),
    (lambda r: None, (*NEW, "--split", "unknown"), "--split unknown of .* has no image"),
    (lambda r: (r / "voc/index.json").write_text("{"), NEW, "index.json must be a list of images with id, split and image_tags each"),
    (lambda r: (r / "voc/index.json").write_text("[1]"), NEW, "index.json must be a list of images"),
    (lambda r: index(r, image_tags=[21]), NEW, "index.json .*image_tags of image0 must be labels from 1 to 20, got"),
    (lambda r: index(r, image_tags=[0]), NEW, "index.json .*image_tags of image0 must be labels from 1 to 20, got"),
    (lambda r: index(r, image_tags=["cat"]), NEW, "index.json .*image_tags of image0 must be labels from 1 to 20, got"),
    (lambda r: index(r, id="../image0"), NEW, "index.json has the image id '../image0': an id is the name of a file"),
    (lambda r: (r / "voc/index.json").write_bytes(b""), NEW, "index.json must be a list of images"),
    (lambda r: listed(r, b"\x89PNG"), NEW, "train.txt is no text"),
    (lambda r: listed(r, b"..\n"), NEW, "train.txt has the image id '..'"),
    (lambda r: listed(r, b"image0\n"), NEW, "image0.xml cannot be read .No such file or directory.: replace it"),
    (lambda r: listed(r, b"image0\r\n", b"<a>"), NEW, "image0.xml is no annotation of VOC"),
    (lambda r: listed(r, b"image0\n", b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>"), NEW, "image0.xml is no annotation of VOC .it has a document type"),
    (lambda r: listed(r, b"image0\n", b"<a><object><name>unicorn</name></object></a>"), NEW, "image0.xml names the class 'unicorn': VOC's are aeroplane"),
    (lambda r: without(r, "SegmentationClassAug"), NEW, "has no folder SegmentationClassAug .*--eval-images 0"),
    (lambda r: without(r, "JPEGImages"), NEW, "image0.jpg cannot be read .*take image0 out of the split"),
    (lambda r: replace(r / "voc/JPEGImages/image1.jpg"), NEW, "image1.jpg cannot be read"),
    (lambda r: replace(r / "voc/JPEGImages/image1.jpg", b""), NEW, "image1.jpg cannot be read .*: replace it, or take image1 out"),
    (lambda r: folder_instead(r / "voc/JPEGImages/image1.jpg"), NEW, "image1.jpg cannot be read .Is a directory.: replace it, or take image1 out"),
    (lambda r: cut(r / "voc/JPEGImages/image1.jpg"), NEW, "image1.jpg cannot be read .*truncated"),
    (lambda r: replace(r / "voc/SegmentationClassAug/image5.png"), NEW, "image5.png cannot be read"),
    (lambda r: Image.new("L", (4, 4)).save(r / "voc/SegmentationClassAug/image5.png"), NEW, r"image5.png is \(4, 4\) but the image \(85, 71\)"),
    (lambda r: None, (*NEW, "--cache", "{}/voc/index.json"), "cannot be written .*name another place with --cache"),
    (lambda r: None, (*NEW, "--lr", "1e30", "--steps", "4"), "is not finite at step .*: lower --lr"),
    # Comparisons
    (lambda r: None, ("--compare", "{}/out", "{}/nowhere"), "nowhere is no folder"),
    (lambda r: None, ("--compare", "{0}/out,{0}/out", "{}/out"), "2 runs against 1: pass as many of each"),
    (lambda r: None, ("--compare", "{}/out", "{}/voc"), "have no evaluation of the same step"),
    (lambda r: replace(r / "out/evaluation-000002.npz"), ("--compare", "{}/out", "{}/out"), "evaluation-000002.npz cannot be read"),
    (lambda r: cut(r / "out/evaluation-000002.npz"), ("--compare", "{}/out", "{}/out"), "evaluation-000002.npz cannot be read"),
    (lambda r: evaluations(r, lambda a: {}), ("--compare", "{}/out", "{}/out"), "evaluation-000002.npz cannot be read"),
    (lambda r: evaluations(r, lambda a: {k: -v for k, v in a.items()}), ("--compare", "{}/out", "{}/out"), "no numbers of pixels"),
    (lambda r: evaluations(r, lambda a: {k: v[:0] for k, v in a.items()}), ("--compare", "{}/out", "{}/out"), "not of one shape"),
    (lambda r: shutil.copytree(r / "out", r / "two") and evaluations(r, lambda a: {k: v[:1] for k, v in a.items()}), ("--compare", "{}/out", "{}/two"), "were evaluated on other images at step 2"),
]  # fmt: skip


@pytest.mark.parametrize(("prepare", "more", "text"), FAULTS, ids=range(len(FAULTS)))
def test_faults_are_one_line_that_says_what_to_do(finished, fails, prepare, more, text):
    prepare(finished)
    message = fails(*command(finished, *(part.format(finished) for part in more)))
    with pytest.raises(AssertionError, match=text):
        raise AssertionError(message)
    assert not list(finished.rglob("*.part"))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "head.pt cannot be read"),
        ({"weight": torch.zeros(3, 1280), "bias": torch.zeros(3)}, r"has weight \(3, 1280\), not \(20, 1280\)"),
        ({"weight": torch.zeros(20, 1280), "bias": torch.zeros(3)}, r"has bias \(3,\), not \(20,\)"),
        ({"weight": torch.full((20, 1280), torch.nan), "bias": torch.zeros(20)}, "has NaN or infinity in weight"),
        ({"weight": torch.zeros(20, 1280)}, "cannot be read .*bias.*: pass a torch file with the tensors"),
        ([1], "cannot be read"),
    ],
)  # fmt: skip
def test_heads(tmp_path, content, text):
    if content is not None:
        torch.save(content, tmp_path / "head.pt")
    with pytest.raises(UserError, match=text):
        train_wss.load_head(tmp_path / "head.pt", 20, None)


# --------------------------------------------------------------------------------------------------
# What goes on all the same


def test_damaged_features_are_made_anew(finished):
    before = log(finished)
    files = sorted((finished / "cache").rglob("*.pt"))
    good = [torch.load(path, weights_only=True) for path in files]
    replace(files[0])
    replace(files[1], b"")
    torch.save(good[2][:2], files[2])
    torch.save(good[3] * torch.nan, files[3])
    torch.save({"features": good[4]}, files[4])
    assert train_wss.main(command(finished, "--out", finished / "new")) == 0
    assert all(torch.equal(torch.load(p, weights_only=True), t) for p, t in zip(files, good, strict=True))
    (finished / "out").rename(finished / "old")
    (finished / "new").rename(finished / "out")
    assert log(finished) == before


def test_a_deleted_log_is_told_and_a_torn_line_is_dropped(finished, capsys):
    rewrite(finished, step=1)
    path = finished / "out" / "log.csv"
    before = log(finished)
    path.write_bytes(path.read_bytes() + b"1,0.5")  # the disk was full
    capsys.readouterr()
    assert train_wss.main(command(finished, "--resume")) == 0
    assert capsys.readouterr().err == ""
    assert [row["step"] for row in log(finished)] == ["0", "1"]
    assert log(finished)[0] == before[0]

    rewrite(finished, step=1)
    path.unlink()
    assert train_wss.main(command(finished, "--resume")) == 0
    assert "log.csv does not hold steps 0 to 0 once each" in capsys.readouterr().err
    assert [row["step"] for row in log(finished)] == ["1"]
    assert log(finished, "evaluation")[-1]["step"] == "2"


@pytest.mark.parametrize("end", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_a_stopped_run_can_be_resumed(finished, fails, monkeypatch, end):
    """Ctrl-C and a full disk: one line, and --resume comes to the same end."""
    before = log(finished), log(finished, "evaluation")
    shutil.rmtree(finished / "out")

    def stop(*_):
        raise end

    with monkeypatch.context() as patch:
        if isinstance(end, KeyboardInterrupt):
            save = train_wss.Run.save
            patch.setattr(train_wss.Run, "save", lambda *a, **k: (save(*a, **k), stop()))
            message = fails(*command(finished), code=130)
            assert "stopped; with --resume it goes on from the last checkpoint in" in message
        else:
            patch.setattr(wss.run, "write_atomic", stop)
            message = fails(*command(finished))
            assert "checkpoint.pt cannot be written (No space left on device): make room" in message
    assert train_wss.main(command(finished, "--resume")) == 0
    assert (log(finished), log(finished, "evaluation")) == before


def test_no_ground_truth_is_needed_without_an_evaluation(finished):
    without(finished, "SegmentationClassAug")
    assert train_wss.main(command(finished, "--out", finished / "new", "--eval-images", "0")) == 0
    assert not list((finished / "new").glob("evaluation*"))


def test_errors_of_the_program_keep_their_traceback(finished, monkeypatch):
    for error in (ValueError("shape"), RuntimeError("shape"), KeyError("name"), NotImplementedError()):
        monkeypatch.setattr(train_wss, "target_masks", lambda *_, e=error: (_ for _ in ()).throw(e))
        with pytest.raises(type(error)):
            train_wss.main(command(finished, "--out", finished / "new"))
    with locked(finished / "new"):  # is free again
        pass


# --------------------------------------------------------------------------------------------------
# Several processes


def test_errors_of_loader_processes_and_of_memory(capsys):
    """The loader puts the worker's traceback into the text of the error."""

    def worker():
        try:
            raise UserError("a.jpg cannot be read: replace it")
        except UserError:
            ExceptionWrapper(where="in DataLoader worker process 0").reraise()

    def raising(error):
        raise error

    host = "[enforce fail at alloc_cpu.cpp:1] . DefaultCPUAllocator: can't allocate memory"
    for job, text in (
        (worker, "x: a.jpg cannot be read: replace it\n"),
        (lambda: raising(RuntimeError(host)), "x: out of memory ("),
        (lambda: raising(torch.cuda.OutOfMemoryError("CUDA out of memory. Tried")), "x: out of memory (CUDA out"),
        (lambda: raising(MemoryError()), "x: out of memory (MemoryError)"),
        (lambda: raising(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")), "x: DataLoader worker (pid 7) is killed"),
    ):  # fmt: skip
        assert run_command("x", job, stopped="stopped") == 1
        message = capsys.readouterr().err
        assert message.startswith(text)
        assert message.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_two_runs_on_one_folder_and_ctrl_c(finished, fails):
    """The second is told who is first; after Ctrl-C, which the loader's process hears too, --resume goes on."""
    out, more = finished / "new", ("--out", finished / "new", "--steps", "5000", "--workers", "1")
    with started(SCRIPT, *command(finished, *more)) as process:
        wait_for((out / "checkpoint.pt").is_file, process)
        for extra in ((), RESUME):
            message = fails(*command(finished, *more, *extra))
            assert f"another run (pid {process.pid}, started 20" in message
            assert f"writes to {out}: wait for it or choose another --out" in message
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 130
        assert errors == f"train_wss: stopped; with --resume it goes on from the last checkpoint in {out}\n"
    assert "pass --resume to go on" in fails(*command(finished, *more))
    with (out / "log.csv").open(newline="") as file:
        steps = [int(row["step"]) for row in csv.DictReader(file)]
    assert steps == list(range(len(steps)))


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_killed_run_leaves_no_lock(tmp_path):
    code = "import sys, time, pathlib; from wss.lock import locked\nwith locked(pathlib.Path(sys.argv[1])): print('locked', flush=True); time.sleep(600)"
    with started("-c", code, tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(UserError, match=rf"pid {process.pid}, "), locked(tmp_path):
            pass
        process.kill()
        process.wait()
        with locked(tmp_path), pytest.raises(UserError, match=f"pid {os.getpid()}, "), locked(tmp_path):
            pass
