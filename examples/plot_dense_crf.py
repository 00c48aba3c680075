"""
Dense CRF, a drop-in for pydensecrf
===================================

Coarse scores follow the photo's edges after a dense CRF. The result is pydensecrf's, to within rounding,
and needs no compiler to install.
"""

# %%
# A photo and coarse scores
# -------------------------
# A network with stride 32 would give something like this map: the astronaut is in the right place, her
# outline is not. Here the score is two soft ellipses on a grid of 16 x 16 cells.

import time

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from skimage import data

from dhr_refine import DenseCRFLattice, dense_crf

image = torch.from_numpy(data.astronaut().transpose(2, 0, 1).copy())  # (3, H, W) uint8
height, width = image.shape[1:]
y, x = torch.meshgrid(torch.linspace(0, 1, 16), torch.linspace(0, 1, 16), indexing="ij")
head = torch.exp(-(((x - 0.43) / 0.16) ** 2 + ((y - 0.22) / 0.20) ** 2))
body = torch.exp(-(((x - 0.40) / 0.35) ** 2 + ((y - 0.75) / 0.40) ** 2))
person = torch.maximum(head, body).clamp(0.05, 0.95)
coarse = torch.stack([1 - person, person])  # background first
probs = F.interpolate(coarse[None], size=(height, width), mode="bilinear")[0]

# %%
# Refine
# ------
# The lattice depends on the image only; keep it to refine several score maps of one image.

lattice = DenseCRFLattice(image)
print(lattice, f"{lattice.nbytes / 1e6:.0f} MB")
refined = dense_crf(image, probs, lattice=lattice)

# %%
# The reference
# -------------
# ``backend="pydensecrf"`` runs the original, where it is installed (``pip install pydensecrf2``, which
# needs a compiler).


def seconds(**options: str) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    dense_crf(image, probs, **options)
    return time.perf_counter() - start


panels = {"before": probs, "dense_crf": refined}
print(f"dense_crf {1e3 * seconds():.0f} ms")
try:
    reference = dense_crf(image, probs, backend="pydensecrf")
except ValueError as error:  # pydensecrf is an optional extra
    print(error)
else:
    panels["pydensecrf"] = reference
    print(f"pydensecrf {1e3 * seconds(backend='pydensecrf'):.0f} ms")
    print(f"largest difference {float((refined - reference).abs().max()):.1e}")
    print(f"same class on {100 * float((refined.argmax(0) == reference.argmax(0)).double().mean()):.3f} %")

# %%
# Side by side
# ------------


def overlay(mask: np.ndarray) -> np.ndarray:
    """Darken the background."""
    photo = image.permute(1, 2, 0).numpy() / 255
    grey = photo.mean(axis=2, keepdims=True) * np.array([0.55, 0.6, 0.75])
    return np.where(mask[..., None], photo, 0.75 * grey)


count = 1 + len(panels)
figure, axes = plt.subplots(1, count, figsize=(3.1 * count, 3.5), constrained_layout=True)
axes[0].imshow(image.permute(1, 2, 0).numpy())
axes[0].imshow(probs[1].numpy(), cmap="magma", alpha=0.55, vmin=0, vmax=1)
axes[0].set_title("photo and coarse score")
for axis, (title, values) in zip(axes[1:], panels.items()):
    mask = (values.argmax(dim=0) == 1).numpy()
    axis.imshow(overlay(mask))
    axis.contour(mask, levels=[0.5], colors="#ffd23f", linewidths=1.2)
    axis.set_title(title)
for axis in axes:
    axis.set_axis_off()
plt.show()
