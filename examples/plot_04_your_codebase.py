"""
Your own codebase in five lines
===============================

A training step as weakly-supervised codebases have it: a batch of augmented crops, some of them padded,
multi-hot tags, CAMs for all classes of the data set. One call makes its pseudo masks.
"""

# %%
# A batch as a data loader gives it
# ---------------------------------
# Two photos, eight classes. The first is scaled to the size of the crop; the second is flipped, and its crop
# reaches beyond the photo, so it is padded. `dhr_refine.training.View` keeps where a crop came from,
# and knows the box of real pixels in it.

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

from dhr_refine import viz
from dhr_refine.datasets.photos import PHOTOS
from dhr_refine.pretrained import Classifier, VisionTransformer
from dhr_refine.training import View, has_labels

photos = [PHOTOS["astronaut"], PHOTOS["coffee"]]
classes = {name: list(group) for photo in photos for name, group in photo.tags.items()}
tags = torch.tensor([[float(name in photo.tags) for name in classes] for photo in photos])  # (B, C) multi-hot
views = [
    View.of((512, 512), resized=(448, 448), window=(0, 0, 448, 448)),
    View.of((400, 600), window=(80, 0, 528, 448), flip=True),
]
crops = []
for photo, view in zip(photos, views):
    x0, y0, x1, y1 = view.window
    whole = F.interpolate(photo.load()[None], view.resized, mode="bilinear", antialias=True)[0]
    whole = whole.flip(-1) if view.flip else whole
    crops.append(F.pad(whole[:, y0:y1, x0:x1], (0, 0, 0, max(0, y1 - view.resized[0]))))
images = torch.stack(crops)  # (B, 3, 448, 448) uint8
boxes = [view.box for view in views]
print(tags.int().tolist(), boxes)

# %%
# What the networks of the codebase give
# --------------------------------------
# CAMs (B, C, h, w) and two levels of the classifier's features.

classifier = Classifier.load()
transformer = VisionTransformer.load()
outputs = [classifier(crop, list(classes.values())) for crop in images]
cams = torch.stack([output.cams for output in outputs])
wss = [torch.cat(level) for level in zip(*(output.features for output in outputs))]
print("cams", tuple(cams.shape), " wss", [tuple(level.shape) for level in wss])

# %%
# The five lines
# --------------
# Before the segmentation loss. The fourth is there already where the codebase makes a mask of its own.

from dhr_refine import base_mask, refine_mask

uss = torch.cat([transformer(crop) for crop in images])
context = {"labels": tags, "boxes": boxes, "box_format": "xyxy"}
base = base_mask(cams, images=images, background=0.45, refine="crf", **context)
masks = refine_mask(cams, base, uss, wss, images, **context)

# %%
# The masks go where the base masks went:

logits = torch.randn(2, 1 + len(classes), 448, 448)  # your decoder's output
loss = F.cross_entropy(logits, masks, ignore_index=255)
print(masks.dtype, tuple(masks.shape), f"loss {loss:.3f}")

# %%
# Outside the box of an image the result is 255 (hatched), and those pixels took part in nothing.

figure, axes = plt.subplots(2, 3, figsize=(10, 7.2), constrained_layout=True)
for row, crop, before, after in zip(axes, images, base, masks):
    row[0].imshow(crop.permute(1, 2, 0))
    row[1].imshow(viz.overlay_mask(crop, before))
    row[2].imshow(viz.overlay_mask(crop, after))
for axis, title in zip(axes[0], ("crop", "base mask", "refined mask")):
    axis.set_title(title)
for axis in axes.flat:
    axis.set_axis_off()

# %%
# USS features from the disk
# --------------------------
# Features saved once for the full images must be cropped and flipped with them. ``View.crop`` does that; used
# as they are, they put every class of the second crop in the wrong place; the first shows its whole photo.

saved = [transformer(photo.load())[0] for photo in photos]
grid = uss.shape[-2:]
aligned = torch.stack([view.crop(features, grid) for view, features in zip(views, saved)])
unaligned = torch.cat([F.interpolate(features[None], grid, mode="bilinear") for features in saved])
for name, features in (("aligned by View.crop", aligned), ("as saved", unaligned)):
    other = refine_mask(cams, base, features, wss, images, labels=tags, boxes=boxes, box_format="xyxy")
    same = (other == masks).flatten(1).double().mean(dim=1)
    print(f"{name:>20}: the labels that features of the crop give on {same[0]:.1%} and {same[1]:.1%}")

# %%
# When your data look different
# -----------------------------
# The same masks come from other ways of saying the same thing:

height_first = torch.tensor([(y0, y1, x0, x1) for x0, y0, x1, y1 in boxes])  # ToCo and its family
indices = [row.nonzero()[:, 0].tolist() for row in tags]  # tags as lists
mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
normalised = (images / 255 - mean) / std  # ImageNet's statistics are the default
again = refine_mask(cams, base, uss, wss, normalised, labels=indices, boxes=height_first, box_format="yyxx")
print("boxes, tags and images in another form:", torch.equal(again, masks))

# %%
# A crop may hold nothing but padding or unknown pixels, and the mean over no pixel is NaN:

nothing = torch.full_like(masks[:1], 255)
print("has labels:", has_labels(masks).tolist(), has_labels(nothing).tolist())

# %%
# "Recipes for real codebases" in the documentation has the lines for ToCo, SeCo, MoRe, WeCLIP, ExCEL, S2C,
# IRN, CLIP-ES and others.
