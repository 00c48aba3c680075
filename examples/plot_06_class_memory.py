"""
Classes that clean each other's averages
========================================

A class average is only as pure as the mask it is taken over. A `dhr_refine.ClassMemory` sums the features of
each class over many images and tells which of them belong. Here the many images are windows of a few photos,
so that the page runs anywhere; on a data set they are its images ("Class memory" in the documentation).
"""

# %%
# Samples
# -------
# Windows of the demo's photos, each with CAMs, a base mask and features as on the first page. All photos
# share one list of classes, as a data set does: label 0 is the background, tag t has label t + 1.

# sphinx_gallery_thumbnail_number = -1
import matplotlib.pyplot as plt
import torch

from dhr_refine import ClassMemory, base_mask, refine_steps, viz
from dhr_refine.datasets.photos import PHOTOS
from dhr_refine.pretrained import Classifier, VisionTransformer

names = ["background", *sorted({name for photo in PHOTOS.values() for name in photo.tags})]
classifier, transformer = Classifier.load(), VisionTransformer.load()


def look(image, photo):
    """What refine_steps takes for an image, as keyword arguments."""
    output = classifier(image, [list(group) for group in photo.tags.values()])
    tags = [names.index(name) - 1 for name in photo.tags]
    return {
        "cams": output.cams,
        "masks": base_mask(output.cams, tags, image, background=0.3, refine="crf"),
        "uss_features": transformer(image)[0],
        "wss_features": [level[0] for level in output.features],
        "images": image,
        "labels": tags,
    }


def windows(image, count=6, side=0.7):
    """Windows of an image at seeded places."""
    height, width = (int(side * size) // 16 * 16 for size in image.shape[1:])
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        y, x = (
            int(torch.randint(size - part, (), generator=generator))
            for size, part in zip(image.shape[1:], (height, width))
        )
        yield image[:, y : y + height, x : x + width]


samples = [look(part, photo) for photo in PHOTOS.values() for part in windows(photo.load())]
print(len(samples), "windows of", len(PHOTOS), "photos;", len(names) - 1, "classes")

# %%
# The memory
# ----------
# One pass as the masks are, and six that are cleaned by the pass before.

needed = ("uss_features", "masks", "labels")
memory = ClassMemory.fit([{key: sample[key] for key in needed} for sample in samples], len(names))
memory

# %%
for name, count in zip(names, memory.images.tolist()):
    print(f"{name:>12}: seen in {count:.0f} windows")

# %%
# What it says about a photo
# --------------------------
# ``purity`` is the mean posterior over the features behind a class average: how much of it the memory
# confirms. ``posterior`` shows where, among the background and the tags of the photo.

photo = PHOTOS["officer"]
inputs = look(photo.load(), photo)
before, after = refine_steps(**inputs), refine_steps(**inputs, memory=memory)
masks = {"base mask": inputs["masks"], "refined": before.mask, "refined with the memory": after.mask}
for label, purity in zip(after.classes.tolist(), after.purity.tolist()):
    shares = [f"{title} {(mask == label).double().mean():.1%}" for title, mask in masks.items()]
    print(f"{names[label]:>12}: purity {purity:.2f}; {', '.join(shares)}")

count = len(after.classes)
figure, axes = plt.subplots(2, max(count, 3), figsize=(3.2 * max(count, 3), 7), constrained_layout=True)
for axis in axes.flat:
    axis.set_axis_off()
for axis, (title, mask) in zip(axes[0], masks.items()):
    axis.imshow(viz.overlay_mask(inputs["images"], mask))
    axis.set_title(title)
for axis, label, map_ in zip(axes[1], after.classes.tolist(), after.posterior):
    axis.imshow(viz.overlay_cam(inputs["images"], map_))
    axis.set_title(f"posterior: {names[label]}")
