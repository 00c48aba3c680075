"""
The boundary toolbox
====================

What else stands around a mask: PAMR and PAR beside the dense CRF, pydensecrf's own interface without its
compiler, the filter behind both for features of your own, and the energy loss that trains a network with it.
"""

# %%
# Three tools, one coarse mask
# ----------------------------
# A coarse score, as a network of stride 32 would give, and what each tool makes of it.
# The page "PAR, PAMR or CRF?" has what they do to the masks of a data set.

# sphinx_gallery_thumbnail_number = 1
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from skimage import data

import dhr_refine.pydensecrf.densecrf as dcrf
from dhr_refine import PermutohedralLattice, dense_crf, dense_energy_loss, pamr, par, viz
from dhr_refine.pydensecrf.utils import create_pairwise_bilateral, unary_from_softmax

image = torch.from_numpy(data.astronaut()[::2, ::2].transpose(2, 0, 1).copy())  # (3, H, W) uint8
height, width = image.shape[1:]
y, x = torch.meshgrid(torch.linspace(0, 1, 8), torch.linspace(0, 1, 8), indexing="ij")
head = torch.exp(-(((x - 0.43) / 0.16) ** 2 + ((y - 0.22) / 0.20) ** 2))
body = torch.exp(-(((x - 0.40) / 0.35) ** 2 + ((y - 0.75) / 0.40) ** 2))
person = torch.maximum(head, body).clamp(0.05, 0.95)
probs = F.interpolate(torch.stack([1 - person, person])[None], size=(height, width), mode="bilinear")[0]

tools = {
    "coarse": lambda images, probs: probs,
    "pamr": pamr,
    "par": par,
    "par, scale=0.5": partial(par, scale=0.5),
    "dense_crf": dense_crf,
}
results = {name: tool(image, probs) for name, tool in tools.items()}


def show(masks: dict[str, torch.Tensor]) -> None:
    """Masks on the photo, side by side."""
    _, axes = plt.subplots(1, len(masks), figsize=(2.6 * len(masks), 2.9), constrained_layout=True)
    for axis, (name, mask) in zip(np.atleast_1d(axes), masks.items()):
        axis.imshow(viz.overlay_mask(image, mask))
        axis.set_title(name)
        axis.set_axis_off()
    plt.show()


show({name: values.argmax(0) for name, values in results.items()})

# %%
# A script that uses pydensecrf
# -----------------------------
# The lines that stand in a hundred repositories, with the imports changed as above; or with none changed,
# below ``dhr_refine.pydensecrf.install()``. The marginals are those of ``dense_crf``.

rgb = np.ascontiguousarray(image.permute(1, 2, 0).numpy())


def field() -> dcrf.DenseCRF2D:
    """Energies of the coarse scores."""
    d = dcrf.DenseCRF2D(width, height, 2)
    d.setUnaryEnergy(unary_from_softmax(probs.numpy()))
    return d


d = field()
d.addPairwiseGaussian(sxy=1, compat=3)
d.addPairwiseBilateral(sxy=67, srgb=3, rgbim=rgb, compat=4)
Q = np.array(d.inference(10)).reshape(2, height, width)
print(f"largest difference to dense_crf {np.abs(Q - results['dense_crf'].numpy()).max():.1e}")

# %%
# Kernels over other features, weights for pairs of labels and other normalisations work as well. Here the
# edges are those of the grey image alone; two like pixels earn 3 if both are background and 4 if both are
# person, and different labels cost 1.

grey = rgb.mean(axis=2, dtype=np.float32)
d = field()
features = create_pairwise_bilateral(sdims=(40, 40), schan=(4,), img=grey[..., None], chdim=2)
d.addPairwiseEnergy(features, compat=np.array([[-3.0, 1.0], [1.0, -4.0]], np.float32))
other = torch.from_numpy(np.array(d.inference(10)).reshape(2, height, width))
show({"dense_crf": results["dense_crf"].argmax(0), "grey edges, a matrix": other.argmax(0)})

# %%
# The filter for anything
# -----------------------
# The permutohedral lattice averages any values over elements with like features. Here a noisy map is smoothed
# within the regions of the photo: features are positions over 12 pixels and colours over 20 grey levels.

rows, columns = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
features = torch.cat([torch.stack([columns, rows]) / 12, image / 20])[None]
lattice = PermutohedralLattice(features)
generator = torch.Generator().manual_seed(0)
noisy = torch.from_numpy(grey) / 255 + 0.3 * torch.randn(height, width, generator=generator)
smooth = lattice.filter(noisy[None, None], normalization="after")[0, 0]
print(lattice, f"{lattice.nbytes / 1e6:.0f} MB")

figure, axes = plt.subplots(1, 2, figsize=(6.5, 3.4), constrained_layout=True)
for axis, (title, values) in zip(axes, {"noisy": noisy, "filtered": smooth}.items()):
    axis.imshow(values, cmap="gray", vmin=0, vmax=1)
    axis.set_title(title)
    axis.set_axis_off()
plt.show()

# %%
# A loss that follows edges
# -------------------------
# The dense energy loss is small where pixels of like colour and place have like labels. Its gradient says
# where the scores of the person should rise (red) and fall (blue), without any label.

logits = probs.clamp(1e-4).log()[None].requires_grad_()
labels = torch.full((1, height, width), 255)
loss = dense_energy_loss(image[None], logits, labels)
loss.backward()
push = -logits.grad[0, 1]
limit = float(push.abs().max())

figure, axes = plt.subplots(1, 2, figsize=(6.5, 3.4), constrained_layout=True)
axes[0].imshow(probs[1], cmap="magma", vmin=0, vmax=1)
axes[0].set_title("score of the person")
axes[1].imshow(push, cmap="RdBu_r", vmin=-limit, vmax=limit)
axes[1].set_title("where the loss pushes it")
for axis in axes:
    axis.set_axis_off()
plt.show()

after = dense_energy_loss(image[None], results["dense_crf"][None], labels, softmax=False)
print(f"energy of the coarse scores {float(loss.detach()):.5f}, of the refined ones {float(after):.5f}")
