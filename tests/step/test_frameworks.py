"""docs/lightning.md and docs/mmsegmentation.md: their blocks run, with light stand-ins for the frameworks."""

from __future__ import annotations

import re
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from places import ROOT
from torch import Tensor, nn

from dhr_refine import refine_mask

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
SIZE = (48, 64)


def run_page(name: str, modules: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The names that the block of a page makes, where these modules can be imported."""
    page = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```", page, flags=re.M | re.S)
    with pytest.MonkeyPatch.context() as patch:
        for module, content in modules.items():
            stand_in = ModuleType(module)
            vars(stand_in).update(content)
            patch.setitem(sys.modules, module, stand_in)
        namespace: dict[str, Any] = {}
        exec(block, namespace)
    return namespace


def draw() -> tuple[Tensor, Tensor]:
    """Images (2, 3, H, W) in [0, 1] with a class in the middle of each, and their labels."""
    truth = torch.zeros(2, *SIZE, dtype=torch.long)
    truth[0, 12:36, 16:48], truth[1, 12:36, 16:48] = 3, 6
    colours = torch.rand(7, 3, generator=torch.Generator().manual_seed(3))
    return colours[truth].movedim(-1, 1).contiguous(), truth


def see(images: Tensor) -> Tensor:
    """Features of images: their colours, and the difference to a mean grey."""
    small = F.adaptive_avg_pool2d(images, (12, 16))
    return torch.cat((small, small.square(), small.roll(1, 1) * small), 1)


class Dino(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return see(images)


class Network(nn.Module):
    """Logits (B, 21, H, W), CAMs (B, 20, h, w) and features."""

    def __init__(self, truth: Tensor):
        super().__init__()
        self.head = nn.Conv2d(3, 21, 1)
        shares = F.adaptive_avg_pool2d(F.one_hot(truth, 21)[..., 1:].movedim(-1, 1).float(), (12, 16))
        self.cams = nn.Parameter(shares)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.head(images), self.cams * 1, see(images)


def tags_of(truth: Tensor) -> Tensor:
    return torch.stack([torch.bincount(one.flatten(), minlength=21)[1:].gt(0).float() for one in truth])


class LightningModule(nn.Module):
    """lightning.LightningModule, as far as the page uses it."""

    def __init__(self):
        super().__init__()
        self.logged: dict[str, float] = {}

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def log(self, name: str, value: Tensor, *, sync_dist: bool = False) -> None:
        self.logged[name] = float(value)


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_lightning(precision):
    real = run_page("lightning", {"lightning": {"LightningModule": LightningModule}})
    images, truth = draw()
    images = (images - MEAN) / STD
    made = real["Segmenter"](Network(truth), Dino(), uss_dim=9)
    batch = {"images": images, "tags": tags_of(truth)}
    with torch.autocast("cpu", dtype=precision, enabled=precision is not None):
        loss = made.training_step(batch, 0)
    loss.backward()
    assert loss.isfinite()
    assert made.network.head.weight.grad.abs().sum() > 0
    assert made.network.cams.grad is None  # no gradient through the masks
    assert made.logged == {"unlabelled": 0.0}
    # The masks of the step are those of the scene.
    logits = torch.full((2, 21, *SIZE), -20.0).scatter_(1, truth[:, None], 20.0)
    made.network.forward = lambda images: (logits, made.network.cams, see(images))
    assert made.training_step(batch, 1) < 2
    checkpoint: dict[str, Any] = {}
    made.on_save_checkpoint(checkpoint)
    other = real["Segmenter"](Network(truth), Dino(), uss_dim=9)
    other.on_load_checkpoint(checkpoint)
    assert torch.equal(other.memory.images, made.memory.images)
    assert other.memory.images.sum() > 0


class EncoderDecoder(nn.Module):
    """mmseg.models.EncoderDecoder: a loss over what the samples hold."""

    def __init__(self, truth: Tensor):
        super().__init__()
        self.data_preprocessor = SimpleNamespace(
            mean=torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1),
            std=torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1),
        )
        self.network, self.dino = Network(truth), Dino()

    def cam(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        return self.network(inputs)[1:]

    def loss(self, inputs: Tensor, data_samples: list[Any]) -> dict[str, Tensor]:
        target = torch.stack([sample.gt_sem_seg.data for sample in data_samples]).squeeze(1)
        return {"loss_ce": F.cross_entropy(self.network(inputs)[0], target, ignore_index=255)}


class Registry:
    def register_module(self):
        return lambda made: made


def test_mmsegmentation():
    modules = {
        "mmengine": {},
        "mmengine.structures": {"PixelData": lambda data: SimpleNamespace(data=data)},
        "mmseg": {},
        "mmseg.models": {"EncoderDecoder": EncoderDecoder},
        "mmseg.registry": {"MODELS": Registry()},
    }
    images, truth = draw()
    samples = [
        SimpleNamespace(img_shape=shape, gt_tags=tags, gt_sem_seg=None)
        for shape, tags in zip(((48, 64), (40, 56)), tags_of(truth))
    ]
    inputs = (images - MEAN) / STD
    inputs[1, :, 40:] = inputs[1, :, :, 56:] = 0  # pad_val, after normalisation
    model = run_page("mmsegmentation", modules)["WeakEncoderDecoder"](truth)
    losses = model.loss(inputs, samples)
    losses["loss_ce"].backward()
    assert losses["loss_ce"].isfinite()
    for sample, wanted, (height, width) in zip(samples, truth, ((48, 64), (40, 56))):
        mask = sample.gt_sem_seg.data
        assert (mask.shape, mask.dtype) == ((1, *SIZE), torch.long)
        inside = torch.zeros(SIZE, dtype=torch.bool)
        inside[:height, :width] = True
        assert (mask[0][~inside] == 255).all()
        assert (mask[0] == wanted)[inside].float().mean() > 0.9
        assert set(mask[0][inside].unique().tolist()) == {0, int(wanted.max())}


def test_pages_call_the_public_function():
    assert refine_mask.__name__ == "refine_mask"
    for page in ("lightning", "mmsegmentation"):
        assert "refine_mask(" in (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
