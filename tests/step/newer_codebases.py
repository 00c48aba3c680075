"""What the codebases of later years hold where the recipes of docs/codebases.md go.

Shapes, dtypes, ranges, boxes and conventions are those of their files; the image and the networks are those
of recipe_scenes.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from recipe_scenes import (
    IGNORE,
    MEAN,
    STD,
    Case,
    Stage,
    TokenNorm,
    activate,
    draw_scene,
    enlarge,
    look,
    min_max,
    multi_hot,
    normalise,
    put_last,
    scaled_cams,
    to_tokens,
    toco,
    toco_crops,
    toco_inputs,
)
from torch import Tensor, nn


def without_padding() -> Case:
    """MoRe: RandomResizedCrop fills the crop, and img_box is None."""
    scenes = [draw_scene((448, 448), seed=0), draw_scene((448, 448), tags=(2, 19), seed=1)]
    case = toco(scenes)
    case.names["img_box"] = None
    return case


def cosa(dtype: torch.dtype = torch.float32) -> Case:
    scenes = toco_crops(448)
    names = toco_inputs(scenes)
    weak = names.pop("inputs")
    # Solarised: what is bright is turned round.
    strong = torch.stack([normalise(s.image.where(s.image < 0.5, 1 - s.image)) for s in scenes])
    cams = scaled_cams(scenes) * names["cls_label"][:, :, None, None]
    names |= {
        "wimg": weak,
        "simg": strong,
        "valid_cam_ps": cams,
        "cls_label": names["cls_label"].to(torch.uint8),
        "refine_mask_label": torch.stack([s.base for s in scenes]).to(dtype),
        "feature_map": Stage(768)(weak).requires_grad_(),
    }
    return Case(names, ("refine_mask_label",), scenes)


def padded(crop: Any) -> Tensor:
    """A base mask of a codebase that labels the padding as well, as background."""
    return crop.base.where(crop.truth != IGNORE, 0)


def excel() -> Case:
    scene, other = toco_crops(320)
    scenes = [other, scene]
    names = toco_inputs(scenes)
    i = 1
    names["img_box"][i] += torch.tensor([0, 91, 0, 0], dtype=torch.int16)  # an end beyond the crop
    cls_lst = torch.tensor(sorted(scene.tags))
    maps = activate(scene)[cls_lst]

    def refine_cams_with_bkg_weclip(
        refined: list[Tensor], image: Tensor, classes: Tensor, par: Any, size: torch.Size
    ) -> tuple[Tensor, Tensor]:
        assert image.shape[1:] == size
        assert classes.device.type == "cpu"
        cams = torch.stack([enlarge(min_max(one[None]), size)[0] for one in refined])
        return padded(scene)[None], torch.cat((1 - cams.amax(0, keepdim=True), cams))

    names |= {
        "i": i,
        "inputs_denorm": torch.stack([s.image * 255 for s in scenes]),
        "cls_lst": cls_lst,
        "par": None,
        "refined_attr_maps": list(maps),
        "fts_diver": Stage(256)(names["inputs"]),
        "refine_cams_with_bkg_weclip": refine_cams_with_bkg_weclip,
    }
    return Case(names, ("attr_aff_labels",), [scene])


class DiClip(nn.Module):
    """DiCLIP_model: the decoder fuses CLIP's tokens, the maps come as tokens."""

    def __init__(self, maps: Tensor):
        super().__init__()
        self.maps = maps  # (B, 20, 20, 20)
        self.decoder_fts_fuse = Stage(256)

    def forward(self, img: Tensor, return_dynamic: bool = False) -> tuple[Any, ...]:
        fused = self.decoder_fts_fuse(img)
        segs = torch.zeros(len(img), 21, *fused.shape[2:])
        return to_tokens(self.maps), None, None, segs, None, segs


def diclip() -> Case:
    scenes = toco_crops(320)
    names = toco_inputs(scenes)
    names["img_box"][1] += torch.tensor([0, 91, 0, 68], dtype=torch.int16)
    names |= {
        "model": DiClip(torch.stack([min_max(activate(s)) for s in scenes])),
        "return_dynamic": True,
        "cls_labels": names.pop("cls_label"),
        "aff_pseudos": torch.stack([padded(s) for s in scenes]),
    }
    return Case(names, ("aff_pseudos",), scenes)


def pot(folder: Path) -> Case:
    scene = draw_scene((375, 500))
    picture = normalise(scene.image)
    tags = torch.tensor(sorted(scene.tags))
    cams = min_max(enlarge(activate(scene), (375, 500))[tags].relu())
    maps = torch.cat((1.4 - cams.amax(0, keepdim=True), 2 * cams)).numpy()
    keys = np.pad(tags.numpy() + 1, (1, 0))  # the background is a class of its own, others from 1
    cam_dict = {"keys": keys, "IS_CAM": 0 * maps, "IS_CAM1": maps}
    np.save(folder / "x.npy", cam_dict)  # type: ignore[arg-type]
    base = scene.base.where(scene.base != IGNORE, 0).numpy()
    names = {
        "pack": {"img": torch.stack([picture, picture.flip(-1)])[None]},
        "edge": torch.zeros(1, 94, 125),
        "cam_out_dir": str(folder),
        "img_name": "x",
        "cam_dict": cam_dict,
        "keys": keys,
        "rw_pred": keys[np.searchsorted(keys, base)],
        "cam_model": SimpleNamespace(backbone=Trunk()),
    }
    return Case(names, ("rw_pred",), [scene], array=True)


class Part(Stage):
    """A stage of a trunk; the first see little but edges, so only the last ones know classes."""

    def __init__(self, channels: int, stride: int, trunk: list[Tensor]):
        super().__init__(channels, stride)
        self.trunk = trunk

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[1] == 3:
            self.trunk[:] = [images]
        features = super().forward(self.trunk[0])
        noise = torch.rand(features.shape, generator=torch.Generator().manual_seed(0))
        return features if self.channels >= 1024 else noise


class Trunk(list[Part]):
    """The stages of a ResNet50, each fed with what the one before gave."""

    def __init__(self):
        seen: list[Tensor] = []
        sizes = [(64, 4), (256, 4), (512, 8), (1024, 16), (2048, 16)]
        super().__init__(Part(channels, stride, seen) for channels, stride in sizes)


def clip_es(folder: Path) -> Case:
    scene = draw_scene((366, 500), tags=(14, 7))
    rgb = (scene.image * 255).byte()
    order = list(scene.tags)  # the big object comes first in the XML file, with the larger number
    maps = min_max(enlarge(activate(scene), (366, 500)))[order]
    cam_dict = {"keys": np.array(order), "attn_highres": maps.numpy().astype(np.float16)}
    np.save(folder / "x.npy", cam_dict)  # type: ignore[arg-type]

    def encode_image(view: Tensor, height: int, width: int) -> tuple[Tensor, list[Tensor]]:
        assert view.shape == (1, 3, height, width)
        tokens = to_tokens(look(view, 768, (height // 16, width // 16)))
        tokens = torch.cat((10 * torch.rand(1, 1, 768), tokens), dim=1)
        return tokens.transpose(0, 1).half(), []

    names = {
        "cv2": SimpleNamespace(imread=lambda path: rgb.movedim(0, -1).flip(-1).numpy()),
        "Image": SimpleNamespace(open=lambda path: rgb),
        "_transform_resize": lambda h, w: lambda image: enlarge(normalise(image / 255), (h, w)),
        "clip_model": SimpleNamespace(encode_image=encode_image),
        "device": torch.device("cpu"),
        "image_path": "x.jpg",
        "filename": str(folder / "x.npy"),
        "cam_dict": cam_dict,
        "label": scene.base.numpy(),
    }
    return Case(names, ("label",), [scene], array=True)


def s2c() -> Case:
    scenes = toco_crops(384)
    # 0 after normalisation, and no box.
    images = torch.stack([normalise(s.image) * (s.truth != IGNORE) for s in scenes])
    cams = [enlarge(activate(s, stride=8), s.truth.shape).relu() for s in scenes]
    tags = multi_hot(scenes)
    cam_ms = torch.stack([one / (one.amax((1, 2), keepdim=True) + 1e-5) for one in cams])
    names = {
        "self": SimpleNamespace(img=images, label=tags),
        "use_cpm": True,
        "cam_ms": cam_ms * tags[:, :, None, None],
        "pgt_sam": put_last(torch.stack([padded(s) for s in scenes]), 20),
        "feat_main": Stage(256, 8)(images).requires_grad_(),
    }
    return Case(names, ("pgt_sam",), scenes, last=20)


class TissueNet(nn.Module):
    """ClsNetwork of TPRO: images in BGR, normalised with the data set's own mean and std."""

    mean = torch.tensor([0.66791496, 0.47791372, 0.70623304]).view(3, 1, 1)
    std = torch.tensor([0.1736589, 0.22564577, 0.19820057]).view(3, 1, 1)

    def __init__(self):
        super().__init__()
        self.encoder = nn.Module()
        self.encoder.norm3, self.encoder.norm4 = TokenNorm(320), TokenNorm(512)

    def forward(self, images: Tensor) -> None:
        rgb = (images * self.std + self.mean).flip(1)
        self.encoder.norm3((rgb - MEAN) / STD)
        self.encoder.norm4((rgb - MEAN) / STD)


def histology() -> Case:
    scene = draw_scene((224, 224), tags=(0, 2))
    img = (scene.image * 255).byte().movedim(0, -1).flip(-1).numpy()  # OpenCV's BGR
    inputs = torch.from_numpy(img / 255).movedim(-1, 0).float()[None]
    cls_label = multi_hot([scene], 4)
    cams = min_max(enlarge(activate(scene, 4), (224, 224)))[None] * cls_label[:, :, None, None]
    base = scene.base.where(scene.base != IGNORE, 0)
    names = {
        "img": img,
        "inputs": (inputs - TissueNet.mean) / TissueNet.std,
        "model": TissueNet().eval(),
        "cls_label": cls_label.numpy().astype(np.int64),
        "fuse234": torch.cat((cams, (1 - cams.amax(1, keepdim=True)) ** 10), dim=1),
        "output_fuse234": put_last(base, 4)[None, None],
    }
    # Features of 14 x 14 cells, of which the small object fills about ten.
    return Case(names, ("output_fuse234",), [scene], last=4, least=0.85)


NEWER: dict[str, Callable[..., Case]] = {
    "SeCo": toco,
    "MoRe": without_padding,
    "CoSA": cosa,
    "ExCEL": excel,
    "DiCLIP": diclip,
    "POT": pot,
    "CLIP-ES": clip_es,
    "S2C": s2c,
    "TPRO, PBIP and ConStruct": histology,
}
# Their CAMs are read from a file, so their cases need a folder.
FROM_FILES = ("POT", "CLIP-ES")
