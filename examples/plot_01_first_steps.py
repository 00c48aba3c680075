"""
First steps on a photo
======================

CAMs, a base mask and two feature maps go in, a refined pseudo mask comes out: the whole library in one call,
on a photo whose tags are all that we know about it.
"""

# %%
# A photo and its tags
# --------------------
# Weak supervision means image tags: we know that these things are in the photo, not where.

# sphinx_gallery_thumbnail_number = 2
import matplotlib.pyplot as plt
import torch

from dhr_refine import base_mask, refine_mask, refine_steps, viz
from dhr_refine.datasets.photos import PHOTOS
from dhr_refine.pretrained import Classifier, VisionTransformer

photo = PHOTOS["astronaut"]
image = photo.load()  # (3, H, W) uint8
print(tuple(image.shape), list(photo.tags))

# %%
# What every codebase has: CAMs and a base mask
# ---------------------------------------------
# The class activation maps (CAMs) of an ImageNet classifier say roughly where each tag is, and its inner
# layers are the features that know the classes (WSS). The base mask is the usual one: CAMs against a constant
# background score, sharpened by a dense CRF.

classifier = Classifier.load()
cams, levels = classifier(image, [list(group) for group in photo.tags.values()])
wss = [level[0] for level in levels]  # two levels (D, h, w)
base = base_mask(cams, range(len(cams)), image, background=0.45, refine="crf")  # (H, W), 0 background

figure, axes = plt.subplots(1, len(cams), figsize=(12, 3.3), constrained_layout=True)
for axis, name, cam in zip(axes, photo.tags, cams):
    axis.imshow(viz.overlay_cam(image, cam))
    axis.set_title(f"CAM: {name}")
    axis.set_axis_off()

# %%
# What DHR adds: class-agnostic features
# --------------------------------------
# Features of a network trained without classes (USS) tell objects from their surroundings far better than a
# classifier does. The paper uses DINO, STEGO or CAUSE; here a small ViT stands in, whose weights pip fetches
# once.

transformer = VisionTransformer.load()
uss = transformer(image)[0]  # (D, u, v)
print(tuple(uss.shape))

# %%
# Refine
# ------
# Grids may all differ; tags are 0-based channels of the CAMs, and tag ``t`` is label ``t + 1`` of the mask.

tags = torch.ones(len(photo.tags), dtype=torch.bool)
mask = refine_mask(cams, base, uss, wss, image, labels=tags)

figure, axes = plt.subplots(1, 3, figsize=(12, 4.3), constrained_layout=True)
for axis, title, picture in (
    (axes[0], "photo", image.permute(1, 2, 0)),
    (axes[1], "base mask", viz.overlay_mask(image, base)),
    (axes[2], "refined mask", viz.overlay_mask(image, mask)),
):
    axis.imshow(picture)
    axis.set_title(title)
    axis.set_axis_off()

# %%
# What changed, in shares of the photo:

for label, name in enumerate(photo.names):
    before, after = (one.eq(label).double().mean() for one in (base, mask))
    print(f"{name:>10}: {before:6.1%} -> {after:6.1%}")

# %%
# Look inside
# -----------
# `dhr_refine.refine_steps` takes the same arguments and keeps every intermediate map;
# `dhr_refine.viz.show_steps` draws them.

steps = refine_steps(cams, base, uss, wss, image, labels=tags)
viz.show_steps(steps, image, base=base, names=photo.names)

# %%
# There is no ground truth for this photo, so the figure has to do: does a class sit where it should, and what
# did it lose? The next page, "What each step does", goes through the panels one by one; "Your own codebase in
# five lines" puts the call into a training loop.
