"""docs/codebases.md: every recipe runs on what its codebase holds there, and gives a mask near the truth.

Shapes, dtypes, ranges and boxes are those of the files of the codebases; the image and the networks are those
of recipe_scenes.py.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from newer_codebases import FROM_FILES, NEWER
from places import ROOT
from recipe_scenes import (
    IGNORE,
    MEAN,
    STD,
    CamNet,
    Case,
    Dino,
    Scene,
    SeamNet,
    Stage,
    Vit,
    Wetr,
    activate,
    draw_scene,
    enlarge,
    finish,
    look,
    min_max,
    multi_hot,
    normalise,
    put_first,
    scaled_cams,
    toco,
    toco_crops,
    toco_inputs,
    yyxx,
)
from torch import Tensor

from dhr_refine import ClassMemory, Recipe, refine_mask, two_threshold_mask

PAGE = (ROOT / "docs" / "codebases.md").read_text(encoding="utf-8")


def read_blocks() -> dict[str, str]:
    """The code block of each section."""
    blocks = {}
    for section in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]:
        found = re.findall(r"^```python\n(.*?)^```", section, flags=re.MULTILINE | re.DOTALL)
        assert len(found) == 1, section.splitlines()[0]
        blocks[section.splitlines()[0]] = found[0]
    return blocks


BLOCKS = read_blocks()
SHARED = BLOCKS.pop("USS features, once for all")


def afa() -> Case:
    scenes = toco_crops(320)
    names = toco_inputs(scenes)
    names["cls_labels"] = names.pop("cls_label")
    # Ends in the scaled image, which was larger than the second crop.
    names["img_box"][1] += torch.tensor([0, 91, 0, 68], dtype=torch.int16)
    names |= {
        "cams": scaled_cams(scenes),
        "refined_aff_label": torch.stack([s.base for s in scenes]),
        "wetr": Wetr(),
        "args": SimpleNamespace(seg_detach=False),
    }
    return Case(names, ("refined_aff_label",), scenes)


def dupl() -> Case:
    scenes = toco_crops(448)
    names = toco_inputs(scenes)
    for i, noise in ((1, 0.0), (2, 0.2)):
        names[f"cams_{i}"] = (scaled_cams(scenes) + noise * torch.rand(2, 20, 448, 448)).clamp(0, 1)
        names[f"refined_pseudo_label_{i}"] = torch.stack([s.base for s in scenes]).float()
        names[f"fmap_{i}"] = Stage(768)(names["inputs"]).requires_grad_()
    return Case(names, ("refined_pseudo_label_1", "refined_pseudo_label_2"), scenes)


def weclip(*, plus: bool = False) -> Case:
    scene = draw_scene((320, 320), box=(30, 0, 320, 300), tags=(14, 17))
    other = draw_scene((320, 320), tags=(1, 2), seed=1)
    img = torch.stack([normalise(other.image), normalise(scene.image)])
    i, keys = 1, np.array(sorted(scene.tags))
    maps = min_max(enlarge(activate(scene)[keys], (320, 320)))
    tokens = torch.zeros(1 if plus else 11, 2, 768, 20, 20, dtype=torch.half)
    tokens[-1] = Stage(768)(img)
    box = yyxx([other, scene])
    # The end of a crop that starts in the middle of a larger image, in that image.
    box[0] += torch.tensor([0, 111, 0, 0], dtype=torch.int16)
    names = {
        "img": img,
        "img_i": img[i],
        "i": i,
        "h": 320,
        "w": 320,
        "img_box": box,
        "cams": torch.cat((1 - maps.amax(0, keepdim=True), maps)),
        "cam_dict": {"keys": keys, "refined_cam": maps},
        "cam_labels": scene.base,
        "all_img_tokens": tokens,
    }
    if plus:
        names |= {"dino_img_h": 308, "dino_img_w": 308}
        names["dino_ftses"] = Dino().forward_features(F.interpolate(img, (308, 308), mode="bilinear"))
    return Case(names, ("cam_labels",), [scene])


def walked(scene: Scene, **extra: Any) -> Case:
    """infer_aff.py of SEAM and MCTformer: an image padded to multiples of 8, CAMs by class."""
    height, width = scene.truth.shape
    img = F.pad(normalise(scene.image)[None], (0, -width % 8, 0, -height % 8))
    maps = min_max(enlarge(activate(scene), scene.truth.shape))
    base = scene.base.where(scene.base != IGNORE, 0)  # an argmax knows no 255
    names = {
        "img": img,
        "orig_shape": torch.Size((1, 3, height, width)),
        "cam": {tag: maps[tag].numpy() for tag in sorted(scene.tags)},
        "cam_rw": torch.zeros(1, 21, *img.shape[-2:]),
        "res": F.pad(base, (0, -width % 8, 0, -height % 8)).byte().numpy()[:height, :width],
    }
    return Case(names | extra, ("res",), [scene], array=True)


def irn() -> Case:
    scene = draw_scene((375, 500))
    picture = normalise(scene.image)
    tags = torch.tensor(sorted(scene.tags))
    maps = enlarge(activate(scene), (375, 500))[tags].relu()
    keys = np.pad(tags + 1, (1, 0), mode="constant")
    base = scene.base.where(scene.base != IGNORE, 0).numpy()
    names = {
        "pack": {"img": torch.stack([picture, picture.flip(-1)])[None]},
        "edge": torch.zeros(1, 94, 125),
        "cam_dict": {"keys": tags, "high_res": (maps / (maps.amax((1, 2), keepdim=True) + 1e-5)).numpy()},
        "keys": keys,
        "rw_pred": keys[np.searchsorted(keys, base)],
        "cam_model": CamNet().eval(),
    }
    return Case(names, ("rw_pred",), [scene], array=True)


def weaktr(classes: int, tags: tuple[int, int], size: tuple[int, int]) -> Case:
    scene = draw_scene(size, tags=tags)
    maps = min_max(enlarge(activate(scene, classes), size))
    cam = {tag: maps[tag].numpy() for tag in sorted(tags)}
    names = {
        "orig_image": (scene.image.movedim(0, -1) * 255).byte().numpy(),
        "predict_dict": cam,
        "predict": scene.base.where(scene.base != IGNORE, 0).byte().numpy(),
        "num_cls": classes + 1,
        "weaktr": Vit(classes).eval(),
        "transform": lambda image: normalise(torch.from_numpy(image).movedim(-1, 0).float() / 255),
        "device": torch.device("cpu"),
    }
    return Case(names, ("predict",), [scene], array=True)


def one_stage() -> Case:
    scenes = [draw_scene((321, 321), seed=0), draw_scene((321, 321), tags=(2, 19), seed=1)]
    labels = multi_hot(scenes)
    y = torch.stack([normalise(s.image) for s in scenes])
    logits = torch.stack([6 * enlarge(activate(s, stride=4), (321, 321)) for s in scenes])
    masks = torch.cat((torch.ones(2, 1, 321, 321), logits), dim=1).softmax(1)
    masks[:, 1:] *= labels[:, :, None, None]
    base = torch.stack([s.base for s in scenes])
    one_hot = F.one_hot(base.where(base != IGNORE, 21), 22)[..., :21].movedim(-1, 1)
    backbone = {"conv3": Stage(256, 4)(y), "conv6": Stage(4096, 8)(y)}
    names = {
        "self": SimpleNamespace(_backbone=backbone),
        "y": y,
        "y_raw": y * STD + MEAN,
        "labels": labels,
        "masks_dec": masks,
        "pseudo_gt": one_hot.float().contiguous(),
    }
    return Case(names, ("refined",), scenes)


def rsepm() -> Case:
    scene = draw_scene((375, 500))
    image = normalise(scene.image)
    class_mask = multi_hot([scene])[0].numpy()
    # The decoder's softmax has lost the small object to the big one.
    probs = torch.stack([(scene.base == tag + 1).float() for tag in sorted(scene.tags)])
    probs = F.avg_pool2d(probs, 5, stride=1, padding=2)
    seed = probs / (probs.amax((1, 2), keepdim=True) + 1e-5)
    grid = (47, 63)  # C3, stride 8
    views = [10 * enlarge(activate(scene), grid) - 2 for _ in range(8)]
    channels = (64, 256, 512, 1024, 2048)
    names = {
        "image": image,
        "denorm_fn": lambda array: (
            (array.transpose(1, 2, 0) * STD.flatten().numpy() + MEAN.flatten().numpy()) * 255
        ).astype(np.uint8),
        "seed": seed.numpy(),
        "class_mask": class_mask,
        "class_keys": np.pad(np.nonzero(class_mask)[0] + 1, (1, 0), "constant"),
        "output_dict": {"pred_cams": views, "features": [8 * look(image[None], d, grid) for d in channels]},
    }
    return Case(names, ("mask",), [scene])


class Augmented(NamedTuple):
    """DHR's transforms on one image: the long side to 600, mirrored, a window of 512."""

    full: Scene
    crop: Scene
    names: dict[str, Any]  # around the block in RandomCrop.__call__


def augment(*, flip: bool = True) -> Augmented:
    full = draw_scene((375, 500))
    size, shift, down = (450, 600), 60, 21  # 62 rows of padding, 88 columns cut off
    image = enlarge(full.image, size)
    truth = F.interpolate(full.truth[None, None].float(), size, mode="nearest")[0, 0].long()
    if flip:
        image, truth = image.flip(-1), truth.flip(-1)
    padding = (-shift, shift - 88, down, 62 - down)
    crop = finish(
        F.pad(image, padding), F.pad(truth, padding, value=IGNORE), full.tags, (0, down, 512, down + 450)
    )
    names = {
        "output_dict": {"image": normalise(image).numpy(), "full": (375, 500)}
        | ({"flip": True} if flip else {}),
        "self": SimpleNamespace(w_size=512, h_size=512),
        "sxmin": shift,
        "symin": 0,
        "dxmin": 0,
        "dymin": down,
    }
    if flip:
        names["output_dict"]["flip"] = True
    return Augmented(full, crop, names)


def dhr(flip: bool = True) -> Case:
    """The step; its USS features went through the block for the data set."""
    full, crop, names = augment(flip=flip)
    run("DHR: the data set", names)
    # Saved at twice the size, a multiple of 14, in half precision, 90 channels (CAUSE).
    saved = look(normalise(full.image)[None], 90, (54, 72), uss=True)[0].half()
    f_us = names["output_dict"]["view"].crop(saved.float(), (73, 73))
    # 0 after normalisation.
    inside = (crop.truth != IGNORE).float()
    images = (normalise(crop.image) * inside)[None]
    features = {"C4": Stage(1024, 8)(images), "C5": Stage(2048, 8)(images)}
    step = {
        "images": images,
        "pseudo_masks": crop.base[None],
        "uss_features": f_us[None],
        "labels": multi_hot([crop]),
        "crop_bboxes": np.array([crop.box]),
        "cams": 12 * activate(crop)[None] - 3,
        "output_dict": {"features": features},
        "args": SimpleNamespace(tau=0.8),
    }
    return Case(step, ("pseudo_masks",), [crop])


CASES = {
    "ToCo": toco,
    "AFA": afa,
    "DuPL": dupl,
    "WeCLIP": weclip,
    "WeCLIP+": lambda: weclip(plus=True),
    "SEAM": lambda: walked(draw_scene((333, 500)), seam=SeamNet()),
    "IRN and AdvCAM": irn,
    "MCTformer": lambda: walked(draw_scene((331, 495)), mct=Vit(20).eval()),
    "WeakTr": lambda: weaktr(20, (14, 7), (366, 500)),
    "1-stage-wseg": one_stage,
    "RSEPM": rsepm,
    "DHR: the step": dhr,
} | NEWER
# No place in one codebase: they have tests of their own.
SHARED_BLOCKS = (
    "Class memory in a training loop",
    "Class memory, offline",
    "Losses over background and foreground",
)


def make(section: str, folder: Path) -> Case:
    """What the codebase of a section holds; some read their CAMs from a file."""
    return CASES[section](folder) if section in FROM_FILES else CASES[section]()


# --- running and checking ------------------------------------------------------------------------------


def run(section: str, names: dict[str, Any], old: str = "", new: str = "") -> dict[str, Any]:
    """Execute the page's shared block and a section's block, with a text replaced if asked to."""
    code = BLOCKS[section]
    if old:
        assert old in code
        code = code.replace(old, new)
    namespace: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.hub, "load", lambda *_: Dino())
        exec(SHARED, namespace)
    namespace.update(names)
    exec(code, namespace)
    return namespace


def overlap(mask: Tensor, truth: Tensor, label: int) -> float:
    """IoU of a label inside the image."""
    inside = truth != IGNORE
    found, there = (mask == label) & inside, (truth == label) & inside
    return float((found & there).sum() / (found | there).sum())


def check(case: Case, result: Any) -> None:
    """The mask has the form that the code after the recipe wants, and is near the truth."""
    if case.array:
        assert isinstance(result, np.ndarray)
        assert result.dtype in (np.uint8, np.int64)
        result = torch.from_numpy(result)
    else:
        assert result.dtype == torch.long
        assert not result.is_inference()
    if case.last is not None:
        result = put_first(result, case.last)
    masks = result if result.ndim == 3 else result[None]
    assert masks.shape == (len(case.scenes), *case.scenes[0].truth.shape)
    for mask, scene in zip(masks, case.scenes):
        outside = scene.truth == IGNORE
        assert (mask[outside] == IGNORE).all()
        big, small = (tag + 1 for tag in scene.tags)
        assert set(mask[~outside].unique().tolist()) == {0, big, small}
        assert overlap(scene.base, scene.truth, small) == 0
        assert overlap(mask, scene.truth, small) > case.least
        assert overlap(mask, scene.truth, big) > max(0.9, overlap(scene.base, scene.truth, big))
        assert overlap(mask, scene.truth, 0) > 0.95
    # What follows in the codebases: a loss, and edits in place.
    logits = torch.zeros(len(masks), 91, *masks.shape[1:])
    assert F.cross_entropy(logits, masks.long(), ignore_index=IGNORE).isfinite()
    masks[0][masks[0] != 0] = IGNORE
    assert set(masks[0].unique().tolist()) == {0, IGNORE}


def test_every_section_has_a_case_and_is_short():
    assert set(CASES) | {"DHR: the data set", *SHARED_BLOCKS} == set(BLOCKS)
    for section, code in BLOCKS.items():
        lines = [
            line for line in code.splitlines() if line.strip() and not line.startswith("from dhr_refine")
        ]
        assert 3 <= len(lines) <= 10, section


@pytest.mark.parametrize("section", CASES)
def test_recipe(section, tmp_path):
    case = make(section, tmp_path)
    held = [(value, value.detach().clone()) for value in case.names.values() if isinstance(value, Tensor)]
    namespace = run(section, case.names)
    for value, before in held:
        assert torch.equal(value.detach(), before)
    check_all(case, namespace)


def check_one_hot(pseudo_gt: Tensor, refined: Tensor) -> None:
    """1-stage-wseg's loss takes one-hot masks, zero where unknown, and looks at them with .view."""
    assert pseudo_gt.dtype == torch.float32
    assert pseudo_gt.shape == (len(refined), 21, *refined.shape[1:])
    flat = pseudo_gt.view(len(refined), 21, -1)
    assert torch.equal(flat.sum(1), (refined != IGNORE).flatten(1).float())
    assert torch.equal(pseudo_gt.argmax(1)[refined != IGNORE], refined[refined != IGNORE])


def check_all(case: Case, namespace: dict[str, Any]) -> None:
    if "pseudo_gt" in namespace:
        check_one_hot(namespace["pseudo_gt"], namespace["refined"])
    for name in case.results:
        result = namespace[name]
        check(case, result[:, 0] if result.ndim == 4 else result)


# What the text of a recipe warns about, and other mistakes: an error, a warning, or a mask that the checks
# reject.
MISTAKES = [
    ("ToCo", '"yyxx"', '"xyxy"'),
    ("ToCo", "boxes=img_box", "boxes=None"),
    ("ToCo", "boxes=img_box", "background='last', boxes=img_box"),
    ("ToCo", "labels=cls_label", "labels=cls_label.flip(1)"),
    ("ToCo", "uss(inputs)", "uss(inputs.flip(-1))"),
    ("AFA", ".clamp(max=inputs.shape[-1])", ""),
    ("AFA", "tokens, prefix=0)", "tokens, prefix=0).flip(-1)"),
    ("DuPL", "fmap_2, **context", "fmap_2, labels=cls_label"),
    ("WeCLIP", "cams[1:]", "cams"),
    ("WeCLIP", "uss(img_i[None])", "uss(img[:1])"),
    ("WeCLIP", "labels=tags", "labels=[t + 1 for t in tags]"),
    ("WeCLIP+", "prefix=0)[i]", "prefix=0)[0]"),
    ("SeCo", '"yyxx"', '"xyxy"'),
    ("CoSA", "boxes=img_box", "boxes=None"),
    ("CoSA", "uss(wimg)", "uss(simg)"),
    ("ExCEL", "scores[1:]", "scores"),
    ("ExCEL", "boxes=box", "boxes=None"),
    ("ExCEL", ".clamp(max=inputs.shape[-1])", ""),
    ("DiCLIP", "tokens_to_map(attr_maps_raw, prefix=0)", "attr_maps_raw.reshape(2, 20, 20, 20)"),
    ("DiCLIP", "boxes=boxes", "boxes=None"),
    ("SEAM", ": orig_shape[2], : orig_shape[3]", ":, :"),
    ("SEAM", "labels=list(cam)", "labels=[k + 1 for k in cam]"),
    ("IRN and AdvCAM", 'cam_dict["keys"].tolist()', "keys.tolist()"),
    ("IRN and AdvCAM", "uss(image[:1])", "uss(image[1:])"),
    ("POT", "labels=tags", "labels=cam_dict['keys'].tolist()"),
    ("POT", 'background="first"', 'background="none"'),
    ("CLIP-ES", "labels=tags", "labels=cam_dict['keys'].tolist()"),  # maps sorted, keys not
    ("CLIP-ES", "prefix=1", "prefix=0"),
    ("S2C", 'background="last"', 'background="first"'),
    ("S2C", "boxes=boxes", "boxes=None"),
    ("TPRO, PBIP and ConStruct", "[:, :-1]", "[:, 1:]"),
    ("TPRO, PBIP and ConStruct", 'background="last"', 'background="first"'),
    ("MCTformer", "prefix=20", "prefix=1"),
    ("WeakTr", "labels=tags", "labels=None"),
    ("1-stage-wseg", "masks_dec, base", "masks_dec.flip(1), base"),
    ("1-stage-wseg", "[..., :21]", "[..., 1:]"),
    ("RSEPM", "labels=class_mask", "labels=class_keys[1:].tolist()"),
    ("DHR: the step", '"xyxy"', '"yyxx"'),
]


@pytest.mark.parametrize(("section", "old", "new"), MISTAKES)
@pytest.mark.filterwarnings("ignore:refine_mask was called without labels")
def test_mistakes_do_not_pass(section, old, new, tmp_path):
    case = make(section, tmp_path)
    with pytest.raises((AssertionError, ValueError, TypeError, UserWarning)):
        check_all(case, run(section, case.names, old, new))


def test_one_stage_unknown_pixels_do_not_become_background():
    case = one_stage()
    unknown = case.scenes[0].base == IGNORE
    names = case.names | {"refine_mask": lambda cams, base, *args, **kwargs: base}
    assert run("1-stage-wseg", names)["refined"][0][unknown].eq(IGNORE).all()


def test_dhr_view_is_where_the_crop_came_from():
    for flip in (False, True):
        full, crop, names = augment(flip=flip)
        view = run("DHR: the data set", names)["output_dict"]["view"]
        assert view.box == crop.box
        truth = view.crop(full.truth[None] + 1, (512, 512), mode="nearest")[0] - 1
        inside = crop.truth != IGNORE
        assert torch.equal(truth == -1, ~inside)
        assert (truth == crop.truth)[inside].float().mean() > 0.99
        # The transforms treat keys with these words as pictures.
        assert not [
            key for key in names["output_dict"] if key != "image" and ("image" in key or "mask" in key)
        ]


def test_dhr_features_of_the_full_image_do_not_pass():
    # As released: the saved map is used with the crop as it is. The prior of the default recipe makes up for
    # part of the harm, so this goes without it.
    case = dhr()
    case.names["refine_mask"] = partial(refine_mask, recipe=replace(Recipe(), prior=0.0))
    check(case, run("DHR: the step", case.names)["pseudo_masks"])
    case.names["uss_features"] = look(normalise(augment().full.image)[None], 90, (54, 72), uss=True)
    with pytest.warns(UserWarning, match="uss_features has 54 x 72 cells, whose aspect ratio is neither"):
        masks = run("DHR: the step", case.names)["pseudo_masks"]
    with pytest.raises(AssertionError):
        check(case, masks)


def test_weaktr_coco_ids_with_gaps():
    # 84 is "book" of 90 ids; 80 classes have no such tag.
    case = weaktr(90, (83, 11), (427, 640))
    check(case, run("WeakTr", case.names)["predict"])


@pytest.mark.parametrize("section", ["WeCLIP", "MCTformer", "SEAM"])
def test_half_precision_cams(section):
    case = CASES[section]()
    if "cam" in case.names:
        case.names["cam"] = {tag: values.astype(np.float16) for tag, values in case.names["cam"].items()}
    else:
        case.names["cams"] = case.names["cams"].half()
    check_all(case, run(section, case.names))


def test_cosa_takes_masks_of_bytes_too():
    # Float in the file, uint8 by its comment.
    case = NEWER["CoSA"](torch.uint8)
    check_all(case, run("CoSA", case.names))


def test_cosa_thresholds_of_a_mixture():
    # What the page says makes the same mask: the thresholds are NumPy numbers that change from step to step.
    case = NEWER["CoSA"]()
    names = case.names
    context = {"labels": names["cls_label"], "boxes": names["img_box"], "box_format": "yyxx"}
    scores = {"high": np.float64(0.613), "low": np.float64(0.287), "normalise": False}
    made = two_threshold_mask(names["valid_cam_ps"], **scores, **context)
    best, winner = names["valid_cam_ps"].max(1)
    expected = torch.where(best > 0.613, winner + 1, torch.where(best > 0.287, IGNORE, 0))
    inside = torch.stack([s.truth != IGNORE for s in case.scenes])
    assert torch.equal(made, expected.where(inside, IGNORE))
    names["refine_mask_label"] = made
    check_all(case, run("CoSA", names))


def test_histology_has_no_unknown_pixels():
    case = NEWER["TPRO, PBIP and ConStruct"]()
    result = run("TPRO, PBIP and ConStruct", case.names)["output_fuse234"]
    assert result.shape == (1, 1, 224, 224)
    assert set(result.unique().tolist()) == {0, 2, 4}


def test_memory_in_a_training_loop():
    case = toco()
    names = case.names | {"refined_pseudo_label": torch.stack([s.base for s in case.scenes])}
    names["memory"] = ClassMemory(num_classes=21, dim=384, decay=0.999, least_images=1)
    first = run("Class memory in a training loop", names)["refined_pseudo_label"]
    run("Class memory in a training loop", names)
    counts = names["memory"].images
    assert counts[[0, 8, 15, 3, 20]].ge(1).sum() >= 3  # the small objects have no pixel in their base masks
    assert set(first.unique().tolist()) <= {0, 3, 8, 15, 20, IGNORE}
    plain = run("Class memory in a training loop", names | {"memory": ClassMemory(21, 384)})
    for mask, scene in zip(plain["refined_pseudo_label"], case.scenes):  # nothing known yet: the step alone
        assert overlap(mask, scene.truth, scene.tags[1] + 1) > 0.88


def test_memory_offline():
    scenes = {seed: draw_scene((96, 112), tags=(14, 7), seed=seed) for seed in range(5)}

    def load(key: int) -> SimpleNamespace:
        scene, image = scenes[key], normalise(scenes[key].image)[None]
        uss = look(image, 384, (6, 8), uss=True)[0]
        wss = look(image, 768, (6, 7))[0]
        cams, tags = activate(scene)[[7, 14]], [7, 14]
        rgb = (scene.image * 255).byte()
        return SimpleNamespace(uss=uss, wss=wss, base=scene.base, cams=cams, tags=tags, rgb=rgb)

    names = run("Class memory, offline", {"keys": list(scenes), "load": load, "masks": {}})
    assert names["memory"].images[[0, 15]].tolist() == [5, 5]
    assert set(names["masks"]) == set(scenes)
    for mask in names["masks"].values():
        assert set(mask.unique().tolist()) <= {0, 8, 15}


def split_loss(segs: Tensor, mask: Tensor) -> Tensor:
    """The loss of ToCo, AFA, DuPL and WeCLIP: the mean over the background and that over the foreground."""
    parts = [mask.where((mask == 0) == empty, IGNORE) for empty in (True, False)]
    return sum(0.5 * F.cross_entropy(segs, part, ignore_index=IGNORE) for part in parts)  # pyright: ignore[reportReturnType]


def with_a_constant(segs: Tensor, mask: Tensor) -> Tensor:
    """The loss of SeCo, MoRe, ExCEL and CoSA: sums by counts that are never 0."""
    loss = 0 * segs.sum()
    for empty in (True, False):
        part = mask.where((mask == 0) == empty, IGNORE)
        total = F.cross_entropy(segs, part, ignore_index=IGNORE, reduction="sum")
        loss = loss + 0.5 * total / ((part != IGNORE).sum() + 1e-6)
    return loss


@pytest.mark.parametrize(
    "labels", [(0, 3), (0,), (3, 5), (IGNORE,), (0, IGNORE), (3, IGNORE), (0, 3, IGNORE)]
)
def test_losses_stay_finite(labels):
    generator = torch.Generator().manual_seed(0)
    segs = torch.rand(2, 6, 8, 8, generator=generator).requires_grad_()
    mask = torch.tensor(labels)[torch.randint(len(labels), (2, 8, 8), generator=generator)]
    names = run("Losses over background and foreground", {"segs": segs, "mask": mask})
    loss, theirs = names["loss"], split_loss(segs, mask)
    assert loss.isfinite()
    gradient = torch.autograd.grad(loss, segs)[0]
    assert gradient.isfinite().all()
    assert bool((gradient != 0).any()) == (labels != (IGNORE,))
    whole = {0, 3} <= set(labels)
    assert theirs.isfinite() == whole
    if whole:
        torch.testing.assert_close(loss, theirs)
    torch.testing.assert_close(loss, with_a_constant(segs, mask))


def test_afa_takes_float_masks_too():
    # Up to iteration 6000 the label is the float one.
    case = afa()
    case.names["refined_aff_label"] = case.names["refined_aff_label"].float()
    check_all(case, run("AFA", case.names))
