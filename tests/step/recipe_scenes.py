"""What the recipes of docs/codebases.md are run on: one synthetic image, and stand-ins for the networks.

One big object, and a small one at its edge that the base mask gave to the big one and whose CAM is weak. The
networks are stand-ins that see the colours of the image they are given, so features of a wrong crop show in
the result. The USS network takes red for blue, so it cannot tell the objects apart; the WSS networks see only
what is red, the big object. Both are needed. The image is too noisy for the boundary tools to mend what the
features got wrong.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
IGNORE = 255
NOISE = 0.2

# --- the image -----------------------------------------------------------------------------------------


class Scene(NamedTuple):
    """One image or crop; ``box`` is where the image is, the rest is padding."""

    image: Tensor  # (3, H, W) in [0, 1], black padding
    truth: Tensor  # (H, W) labels, 255 in the padding
    base: Tensor  # (H, W) labels: the small object went to the big one, 255 at edges and in the padding
    box: tuple[int, int, int, int]  # x0, y0, x1, y1
    tags: tuple[int, int]  # 0-based classes: big, small


def draw_scene(
    size: tuple[int, int],
    *,
    box: tuple[int, int, int, int] | None = None,
    tags: tuple[int, int] = (14, 7),
    seed: int = 0,
) -> Scene:
    """Draw the two objects into the box of a crop, off its middle, mirrored for odd seeds."""
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    x0, y0, x1, y1 = box or (0, 0, width, height)
    y = (torch.arange(height) - y0 + 0.5).view(-1, 1) / (y1 - y0)
    x = (torch.arange(width) - x0 + 0.5).view(1, -1) / (x1 - x0)
    if seed % 2:
        x = 1 - x
    big = ((y - 0.55) / 0.33) ** 2 + ((x - 0.38) / 0.26) ** 2 < 1
    small = ((y - 0.30) / 0.13) ** 2 + ((x - 0.60) / 0.13) ** 2 < 1
    inside = (y > 0) & (y < 1) & (x > 0) & (x < 1)
    truth = torch.zeros(size, dtype=torch.long)
    truth[big] = tags[0] + 1
    truth[small] = tags[1] + 1
    truth[~inside] = IGNORE
    colours = torch.zeros(256, 3)
    for label, colour in (
        (0, (0.25, 0.5, 0.25)),
        (tags[0] + 1, (0.8, 0.3, 0.2)),
        (tags[1] + 1, (0.3, 0.3, 0.8)),
    ):
        colours[label] = torch.tensor(colour)
    image = colours[truth].movedim(-1, 0) + NOISE * torch.randn(3, *size, generator=generator)
    return finish(image.clamp(0, 1) * inside, truth, tags, (x0, y0, x1, y1))


def finish(image: Tensor, truth: Tensor, tags: tuple[int, int], box: tuple[int, int, int, int]) -> Scene:
    """Make the base mask: no small object, unknown along the edge of the big one."""
    taken = truth.clone()
    taken[truth == tags[1] + 1] = tags[0] + 1
    fringe = torch.zeros_like(truth, dtype=torch.bool)
    fringe[:, 3:] |= taken[:, 3:] != taken[:, :-3]
    base = torch.where(fringe, IGNORE, taken)
    base[truth == IGNORE] = IGNORE
    return Scene(image, truth, base, box, tags)


def put_last(masks: Tensor, background: int) -> Tensor:
    """Labels of a codebase whose background is the last: class k is label k."""
    moved = torch.where(masks == 0, background, masks - 1)
    return moved.where(masks != IGNORE, IGNORE)


def put_first(masks: Tensor, background: int) -> Tensor:
    """What :func:`put_last` made, with the background first again."""
    moved = torch.where(masks == background, 0, masks + 1)
    return moved.where(masks != IGNORE, IGNORE)


def normalise(image: Tensor) -> Tensor:
    return (image - MEAN) / STD


def activate(scene: Scene, classes: int = 20, stride: int = 16) -> Tensor:
    """Classifier activations (classes, h, w): weak for the small object, and the big one's reach into it."""
    generator = torch.Generator().manual_seed(1)
    height, width = scene.truth.shape
    grid = (-(-height // stride), -(-width // stride))
    shares = [F.adaptive_avg_pool2d((scene.truth == tag + 1).float()[None], grid)[0] for tag in scene.tags]
    maps = 0.1 * torch.rand(classes, *grid, generator=generator)
    # A class that is not there fires all over the image, as CAMs of absent classes do once scaled.
    maps[3] += 0.8
    maps[scene.tags[0]] += shares[0] + 0.6 * shares[1]
    maps[scene.tags[1]] += 0.35 * shares[1]
    return maps


def enlarge(maps: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    return F.interpolate(maps[None], tuple(size), mode="bilinear", align_corners=False)[0]


def min_max(maps: Tensor) -> Tensor:
    low, high = maps.aminmax(dim=-1, keepdim=True)
    low, high = low.amin(-2, keepdim=True), high.amax(-2, keepdim=True)
    return (maps - low) / (high - low + 1e-5)


def multi_hot(scenes: list[Scene], classes: int = 20) -> Tensor:
    table = torch.zeros(len(scenes), classes)
    for row, scene in zip(table, scenes):
        row[list(scene.tags)] = 1
    return table


def yyxx(scenes: list[Scene]) -> Tensor:
    """Boxes as the ToCo family has them, after the default collate."""
    return torch.tensor([[s.box[1], s.box[3], s.box[0], s.box[2]] for s in scenes], dtype=torch.int16)


# --- the networks --------------------------------------------------------------------------------------


def look(images: Tensor, channels: int, grid: tuple[int, int], *, uss: bool = False) -> Tensor:
    """Features (B, channels, h, w) of normalised images: random mixtures of nearness to 27 colours."""
    red, green, blue = F.adaptive_avg_pool2d(images * STD + MEAN, (2 * grid[0], 2 * grid[1])).unbind(1)
    if uss:
        seen = torch.stack(((red + blue) / 2, green, (red + blue) / 2), dim=1)
    else:
        seen = torch.stack(((red - blue).relu() + 0.2, torch.zeros_like(red), torch.zeros_like(red)), dim=1)
    levels = torch.tensor([0.2, 0.5, 0.8])
    centres = torch.cartesian_prod(levels, levels, levels)
    distance = (seen[:, None] - centres.view(1, 27, 3, 1, 1)).square().sum(2)
    codes = F.adaptive_avg_pool2d(torch.exp(-distance / 0.03), grid)
    weights = torch.rand(channels, 27, generator=torch.Generator().manual_seed(channels))
    return torch.einsum("dk,bkhw->bdhw", (weights - 0.35).relu(), codes)


def to_tokens(maps: Tensor) -> Tensor:
    return maps.flatten(2).transpose(1, 2)


class Dino(nn.Module):
    """What torch.hub gives for DINOv2, as far as the page calls it."""

    def forward_features(self, images: Tensor) -> dict[str, Tensor]:
        height, width = images.shape[-2:]
        assert (height % 14, width % 14) == (0, 0)
        return {"x_norm_patchtokens": to_tokens(look(images, 384, (height // 14, width // 14), uss=True))}

    def cuda(self, device: Any = None) -> Dino:
        return self


class Block(nn.Module):
    """The last block of MCTformer and WeakTr: returns (tokens, attention), class tokens first."""

    def __init__(self, classes: int):
        super().__init__()
        self.classes = classes

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        grid = images.shape[-2] // 16, images.shape[-1] // 16
        # The patch embedding ignores what does not fill a patch.
        seen = images[..., : 16 * grid[0], : 16 * grid[1]]
        tokens = to_tokens(look(seen, 384, grid))
        tokens = torch.cat((10 * torch.rand(len(tokens), self.classes, 384), tokens), dim=1)
        return tokens, torch.zeros(len(tokens), 6, tokens.shape[1], tokens.shape[1])


class Vit(nn.Module):
    def __init__(self, classes: int):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Identity() for _ in range(11)] + [Block(classes)])

    def forward(self, images: Tensor) -> Tensor:
        return self.blocks[11](images)[0].mean(-1)


class Stage(nn.Module):
    """A layer that looks at the image itself."""

    def __init__(self, channels: int, stride: int = 16):
        super().__init__()
        self.channels, self.stride = channels, stride

    def forward(self, images: Tensor) -> Tensor:
        grid = -(-images.shape[-2] // self.stride), -(-images.shape[-1] // self.stride)
        return look(images, self.channels, grid)


class CamNet(nn.Module):
    """net.resnet50_cam.CAM of IRN: takes an image and its mirror image."""

    def __init__(self):
        super().__init__()
        self.stage3, self.stage4 = Stage(1024), Stage(2048)

    def forward(self, images: Tensor) -> Tensor:
        assert images.shape[0] == 2
        self.stage3(images)
        maps = self.stage4(images)[:, :20]
        return maps[0] + maps[1].flip(-1)


class TokenNorm(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels

    def forward(self, images: Tensor) -> Tensor:
        return to_tokens(Stage(self.channels)(images))


class Wetr(nn.Module):
    """WeTr of AFA with MiT-B1."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Module()
        self.encoder.norm3, self.encoder.norm4 = TokenNorm(320), TokenNorm(512)

    def forward(self, images: Tensor, seg_detach: bool = True) -> tuple[Tensor, ...]:
        self.encoder.norm3(images)
        self.encoder.norm4(images)
        count, patches = len(images), images.shape[-1] // 16
        segs = torch.zeros(count, 21, images.shape[-2] // 4, images.shape[-1] // 4)
        return torch.zeros(count, 20), segs, torch.zeros(1), torch.zeros(count, patches**2, patches**2)


class SeamNet:
    """network.resnet38_SEAM.Net."""

    def forward_as_dict(self, images: Tensor) -> dict[str, Tensor]:
        sizes = {"conv3": 256, "conv4": 512, "conv5": 1024, "conv6": 4096}
        return {name: Stage(channels, 8)(images) for name, channels in sizes.items()}


# --- what each codebase holds where its recipe goes ----------------------------------------------------


class Case(NamedTuple):
    """The variables around a recipe, those that it leaves its masks in, and the truth."""

    names: dict[str, Any]
    results: tuple[str, ...]
    scenes: list[Scene]
    array: bool = False  # (H, W) uint8 or int64 NumPy array instead of a tensor
    last: int | None = None  # label of the background where it is the last
    least: float = 0.88  # IoU of the small object


def toco_crops(size: int) -> list[Scene]:
    """Padding below and on the right of a small image; a crop out of a big one."""
    return [
        draw_scene((size, size), box=(0, 40, size - 70, size), seed=0),
        draw_scene((size, size), tags=(2, 19), seed=1),
    ]


def toco_inputs(scenes: list[Scene]) -> dict[str, Any]:
    # Black padding, then normalised.
    inputs = torch.stack([normalise(s.image) for s in scenes])
    return {"inputs": inputs, "cls_label": multi_hot(scenes), "img_box": yyxx(scenes)}


def scaled_cams(scenes: list[Scene]) -> Tensor:
    return torch.stack([min_max(enlarge(activate(s), s.truth.shape)) for s in scenes])


def toco(scenes: list[Scene] | None = None) -> Case:
    """ToCo's step, which SeCo and MoRe have as well."""
    scenes = toco_crops(448) if scenes is None else scenes
    names = toco_inputs(scenes) | {
        "cams": scaled_cams(scenes),
        "args": SimpleNamespace(high_thre=0.7, low_thre=0.25),
    }
    names["fmap"] = Stage(768)(names["inputs"]).requires_grad_()
    return Case(names, ("refined_pseudo_label",), scenes)
