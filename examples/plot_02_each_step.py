"""
What each step does
===================

The DHR step by hand, from the library's own pieces: transport, seed, pooling, USS and WSS rebalancing. Every
intermediate result is one that `dhr_refine.refine_steps` returns.
"""

# %%
# The inputs, as on the page "First steps on a photo".

import matplotlib.pyplot as plt
import torch

from dhr_refine import (
    base_mask,
    class_avg_pool,
    dense_crf,
    refine_steps,
    sinkhorn_ot,
    uss_rebalance,
    viz,
    wss_rebalance,
)
from dhr_refine.datasets.photos import PHOTOS
from dhr_refine.pretrained import Classifier, VisionTransformer

photo = PHOTOS["astronaut"]
image = photo.load()
cams, levels = Classifier.load()(image, [list(group) for group in photo.tags.values()])
wss = [level[0] for level in levels]
uss = VisionTransformer.load()(image)[0]
base = base_mask(cams, range(len(cams)), image, background=0.45, refine="crf")
tags = torch.ones(len(photo.tags), dtype=torch.bool)
TAU = 0.8  # the paper's: shuttle and rocket are a group
steps = refine_steps(cams, base, uss, wss, image, labels=tags, tau=TAU)


def show(pictures, titles, columns=6):
    """Rows of pictures."""
    rows = -(-len(pictures) // columns)
    figure = plt.figure(figsize=(12, 13 / columns * rows), constrained_layout=True)
    for place, (picture, title) in enumerate(zip(pictures, titles), start=1):
        axis = figure.add_subplot(rows, columns, place)
        axis.imshow(picture)
        axis.set_title(title, fontsize=10)
        axis.set_axis_off()


# %%
# 1. Transport: every tag gets its share
# --------------------------------------
# CAMs divided by their maximum compete at each pixel. An argmax would let a strong one win everywhere; the
# transport plan gives each tag the same mass to spend. ``plan * N`` is the share of each pixel that goes to
# each tag.

scores = cams.relu() / cams.amax(dim=(1, 2), keepdim=True)
transport = sinkhorn_ot(scores[None])
shares = transport.plan[0] * scores[0].numel()
print(f"residual {float(transport.residual):.1e}, {int(transport.iterations)} passes over the pixels")

show(
    [viz.overlay_cam(image, one, vmax=1.0) for one in (*scores, *shares)],
    [f"CAM: {name}" for name in photo.tags] + [f"share: {name}" for name in photo.tags],
    columns=len(photo.tags),
)

# %%
# 2. The seed, and M_init
# -----------------------
# CAM times share, sharpened by the dense CRF with an "unassigned" class beside the tags (Eq. 2): only pixels
# that a tag claims strongly are assigned. A class with fewer pixels in the base mask than in the seed
# gets its seed: one that the base mask had lost is back, if only with a few pixels.

maps = torch.nn.functional.interpolate((scores * shares)[None], image.shape[1:], mode="bilinear")[0]
maps = torch.cat((maps, 1 - maps.amax(dim=0, keepdim=True)))
winner = dense_crf(image, maps).argmax(dim=0)  # number of the tag, or the last: unassigned
seed = torch.where(winner < len(cams), winner + 1, 255)
init = base.clone()
for label in range(1, len(photo.names)):
    if (base == label).sum() < (seed == label).sum():
        init[seed == label] = label
print(f"{(init == steps.init_mask).double().mean():.1%} of M_init's pixels are those of refine_steps")

show(
    [viz.overlay_mask(image, one) for one in (base, seed, init)],
    ["base mask", "seed", "M_init"],
    columns=3,
)

# %%
# 3. One centroid per class
# -------------------------
# Class-average pooling turns M_init into one mean feature vector per class. The similarity of every cell to
# every centroid is a heat map that no longer depends on where the CAM happened to fire. The default recipe
# takes the centroid halfway between the mean over M_init and the mean over the seed, small but purer
# (``Recipe.seed_weight``).

sure = torch.where(
    (steps.seed == 255) & (base == 0), 0, steps.seed
)  # the seed, and the base mask's background
count = len(photo.names)
vectors, cells = class_avg_pool(uss[None], steps.init_mask[None], num_classes=count)
of_seed = class_avg_pool(uss[None], sure[None], num_classes=count)
vectors = torch.where(of_seed.counts[..., None] > 0, (vectors + of_seed.vectors) / 2, vectors)
similarity = torch.nn.functional.cosine_similarity(uss[None], vectors[0, :, :, None, None], dim=1).relu()
for name, in_mask, in_seed in zip(photo.names, cells[0], of_seed.counts[0]):
    print(f"{name:>10}: {in_mask:6.1f} cells of M_init and {in_seed:6.1f} of the seed, of {uss[0].numel()}")

show(
    [viz.overlay_cam(image, one, vmax=1.0) for one in similarity],
    [f"similarity: {name}" for name in photo.names],
)

# %%
# 4. USS features part unlike classes
# -----------------------------------
# The same transport, now on these similarities (Eq. 3): where two classes both look alike to a cell, the plan
# decides.

first = uss_rebalance(uss[None], steps.init_mask[None], num_classes=count, seed=sure[None])
print("equal to refine_steps:", torch.allclose(first.scores[0], steps.uss, atol=1e-5))
show(
    [viz.overlay_cam(image, one, vmax=1.0) for one in first.scores[0]],
    [f"USS: {name}" for name in photo.names],
)

# %%
# 5. WSS features part alike classes
# ----------------------------------
# Classes whose USS centroids are closer than tau form a group, and inside a group the classifier's features
# decide (Eq. 4). Classes outside any group keep their scores.

second = wss_rebalance(
    first.scores,
    [level[None] for level in wss],
    steps.init_mask[None],
    uss_centroids=first.centroids,
    seed=sure[None],
    tau=TAU,
)
for label, group in enumerate(steps.groups):
    others = [photo.names[other] for other in group.nonzero()[:, 0] if other != label]
    print(f"{photo.names[label]:>10} is alike to {', '.join(others) or 'no other class'}")
print("equal to refine_steps:", torch.allclose(second.scores[0], steps.wss, atol=1e-5))
show(
    [viz.overlay_cam(image, one, vmax=1.0) for one in second.scores[0]],
    [f"WSS: {name}" for name in photo.names],
)

# %%
# 6. The refined mask
# -------------------
# The scores, with a little of M_init mixed in, go through the boundary tool a last time (Eq. 5).

show(
    [viz.overlay_mask(image, one) for one in (base, steps.init_mask, steps.mask)],
    ["base mask", "M_init", "refined mask"],
    columns=3,
)
