"""
Reading the diagnostics
=======================

Which classes came back, which shrank, which ones were taken to be alike, how sure the result is, and whether
the solver converged: what to look at when a mask surprises you.
"""

# %%
# A photo on which not everything goes well. The inputs are made as on the first page.

# sphinx_gallery_thumbnail_number = -1
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

from dhr_refine import DenseCRFLattice, base_mask, refine_mask, refine_steps, sinkhorn_ot, viz
from dhr_refine.datasets.photos import PHOTOS
from dhr_refine.pretrained import Classifier, VisionTransformer

photo = PHOTOS["officer"]
names = photo.names
image = photo.load()
cams, levels = Classifier.load()(image, [list(group) for group in photo.tags.values()])
uss = VisionTransformer.load()(image)[0]
base = base_mask(cams, range(len(cams)), image, background=0.45, refine="crf")
inputs = (cams, base, uss, [level[0] for level in levels], image)
tags = torch.ones(len(photo.tags), dtype=torch.bool)
steps = refine_steps(*inputs, labels=tags)
steps

# %%
# Classes: recovered, shrunk, gone
# --------------------------------
# ``recovered`` marks classes without a pixel in the base mask that the result has. Shares of the photo say
# more: they also show a class that grew from a few stray pixels, and one that lost most of its area.

print(f"{'':>10}  {'base':>6}  {'seed':>6}  {'M_init':>6}  {'result':>6}")
for label, name, recovered in zip(steps.classes, names, steps.recovered):
    shares = [(m == label).double().mean() for m in (base, steps.seed, steps.init_mask, steps.mask)]
    change = float(shares[3] / shares[0].clamp_min(1e-9))
    note = "recovered" if recovered else "shrank" if change < 0.5 else "grew" if change > 2 else ""
    print(f"{name:>10}  " + "  ".join(f"{share:6.1%}" for share in shares) + f"  {note}")

viz.show_steps(steps, image, base=base, names=names)

# %%
# Read the small panels from left to right and find the first one that goes wrong; a step without a panel did
# nothing, and the line below says why:
#
# - **CAM** on the wrong thing: no step can mend that. The classifier has to be better, or the tag has to go.
# - **Seed** without a pixel of a class: its CAM is weak everywhere, or the boundary tool wiped it out. Try
#   ``boundary="pamr"``.
# - **USS** scores on the wrong thing: the centroid was pooled over too many wrong pixels of M_init, or the
#   USS features do not know the object.
# - **WSS** scores worse than USS: the group is wrong. Look at tau, and at the similarities below.
# - **Result** worse than the WSS scores: the last boundary call. Compare with ``boundary=None``.

# %%
# Does a vanished class come back?
# --------------------------------
# Ask it directly: erase a class from the base mask, and see what the step makes of it.

for label in range(1, len(names)):
    erased = refine_steps(cams, base.masked_fill(base == label, 0), *inputs[2:], labels=tags)
    share = (erased.mask == label).double().mean()
    print(f"{names[label]:>10} erased: recovered {bool(erased.recovered[label])}, {share:.1%} of the photo")

# %%
# Groups
# ------
# Cosines of the USS centroids, and what they make alike at this tau. A class without a pixel in M_init has
# similarity 0 and is in no group.

viz.show_similarity(steps, tau=0.8, names=names)

# %%
# How sure is the result?
# -----------------------
# The gap between the best and the second best class before the last boundary call, whose probabilities are
# all close to 0 or 1. Where the gap is small, the boundary tool decides, and pixels change with every option;
# in training, they can be set to 255.

best = refine_steps(*inputs, labels=tags, boundary=None).probs.topk(2, dim=0).values
gap = (best[0] - best[1]) / best[0].clamp_min(1e-12)
careful = torch.where(gap < 0.2, 255, steps.mask)
print(f"{(careful == 255).double().mean():.1%} of the pixels are unsure")

figure, axes = plt.subplots(1, 3, figsize=(11, 4.6), constrained_layout=True)
axes[0].imshow(viz.overlay_mask(image, steps.mask))
axes[0].set_title("result")
axes[1].imshow(gap, cmap="magma", vmin=0, vmax=1)
axes[1].set_title("gap to the second class")
axes[2].imshow(viz.overlay_mask(image, careful))
axes[2].set_title("unsure pixels set to 255")
for axis in axes:
    axis.set_axis_off()

# %%
# Did the transport converge?
# ---------------------------
# ``refine_mask`` solves to a relative marginal error of 1e-3. Where you call `dhr_refine.sinkhorn_ot`
# yourself, the result says how far it came, in how many passes, and by which implementation.

similarity = F.cosine_similarity(uss[None], steps.uss_centroids[:, :, None, None], dim=1).relu()
for reg in (0.1, 0.01, 0.001):
    transport = sinkhorn_ot(similarity[None], reg=reg)
    print(
        f"reg {reg:<5}  residual {float(transport.residual):.1e}  {int(transport.iterations):3} passes  "
        f"solver {transport.solver}"
    )

# %%
# Where ``max_iter`` comes first, a `dhr_refine.ConvergenceWarning` says so, and the residual how far it came.

# %%
# Which implementation runs?
# --------------------------
# ``backend="auto"`` takes numba on the CPU where it is installed, else torch. The lattice knows.

print(DenseCRFLattice(image))

# %%
# Which option makes the difference?
# ----------------------------------
# Switch off one thing at a time and count the pixels that change.

for title, options in (
    ("without the boundary tool", {"boundary": None}),
    ("PAMR", {"boundary": "pamr"}),
    ("no groups (tau = 1)", {"tau": 1.0}),
    ("only two of the tags", {"labels": [0, 1]}),
):
    other = refine_mask(*inputs, **{"labels": tags, **options})
    print(f"{title:>26}: {(other != steps.mask).double().mean():6.1%} of the pixels change")
