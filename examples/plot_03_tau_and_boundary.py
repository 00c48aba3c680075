"""
Choosing tau and the boundary tool
==================================

Two arguments that people ask about: ``tau`` decides which classes count as alike, ``boundary`` what follows
the edges. What they change on one photo, what they cost, and how to choose them.
"""

# %%
# The inputs, as on the page "First steps on a photo".

# sphinx_gallery_thumbnail_number = -1
import time
from functools import partial

import matplotlib.pyplot as plt
import torch

from dhr_refine import base_mask, dense_crf, refine_mask, refine_steps, viz
from dhr_refine.datasets.photos import PHOTOS
from dhr_refine.pretrained import Classifier, VisionTransformer

photo = PHOTOS["astronaut"]
image = photo.load()
cams, levels = Classifier.load()(image, [list(group) for group in photo.tags.values()])
uss = VisionTransformer.load()(image)[0]
base = base_mask(cams, range(len(cams)), image, background=0.45, refine="crf")
tags = torch.ones(len(photo.tags), dtype=torch.bool)
inputs = (cams, base, uss, [level[0] for level in levels], image)

# %%
# Which classes are alike?
# ------------------------
# The cosines of the classes' USS centroids. Pairs above tau are linked, and classes that are linked form a
# group (framed): inside it the classifier's features decide, elsewhere only the class-agnostic ones do. The
# paper's tau is 0.8.

steps = refine_steps(*inputs, labels=tags, tau=0.8)
viz.show_similarity(steps, tau=0.8, names=photo.names)

# %%
# What tau changes
# ----------------
# A low tau puts everything into one group and trusts the classifier's features everywhere; tau = 1 makes no
# group, and the WSS step does nothing. Between two neighbouring similarities tau changes nothing at all, so
# there is little to tune.

taus = [0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.9, 1.0]
masks = {tau: refine_mask(*inputs, labels=tags, tau=tau) for tau in taus}
changed = [100 * float((masks[tau] != masks[1.0]).double().mean()) for tau in taus]
viz.show_tau(taus, changed, ylabel="pixels that differ from tau = 1 (%)")

# %%
# The masks themselves:

shown = (0.4, 0.6, 0.7, 0.8, 1.0)
figure, axes = plt.subplots(1, len(shown), figsize=(12, 2.8), constrained_layout=True)
for axis, tau in zip(axes, shown):
    axis.imshow(viz.overlay_mask(image, masks[tau]))
    axis.set_title(f"tau = {tau}")
    axis.set_axis_off()

# %%
# Features differ in how similar everything looks to them: the right tau belongs to your USS features, not to
# your data set. Look at the similarities of a few images first, and choose tau in the gap between pairs that
# the features tell apart and pairs that they confuse.

# %%
# Which boundary tool?
# --------------------
# Besides the dense CRF with its defaults, PAMR and PAR: none, and a callable of your own, here the CRF of
# SEAM.

tools = {
    'boundary="crf"': "crf",
    'boundary="pamr"': "pamr",
    'boundary="par"': "par",
    "boundary=None": None,
    "boundary=seam_crf": partial(dense_crf, sxy=80, srgb=13, compat=10, gauss_sxy=3),
}
results = {}
for title, tool in tools.items():
    refine_mask(*inputs, labels=tags, boundary=tool)  # the first call may compile
    start = time.perf_counter()
    results[title] = refine_mask(*inputs, labels=tags, boundary=tool)
    print(f"{title:<18} {1e3 * (time.perf_counter() - start):5.0f} ms")

figure, axes = plt.subplots(2, 3, figsize=(10, 7.2), constrained_layout=True)
axes[1, 2].set_axis_off()
for axis, (title, mask) in zip(axes.flat, results.items()):
    axis.imshow(viz.overlay_mask(image, mask))
    axis.set_title(title, fontsize=10, family="monospace")
    axis.set_axis_off()

# %%
# The CRF gives the sharpest edges and erases what is thin or coloured like its surroundings; PAMR and PAR are
# local and milder; without a tool the edges are those of the feature grid. What is best for the mIoU is
# decided by ground truth on a few dozen images, with `dhr_refine.metrics.MaskScores`, never by one photo. The
# documentation has results on real masks ("Dense CRF", "Differences").
