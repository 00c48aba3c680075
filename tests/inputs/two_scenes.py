"""Two scenes as a batch, one image and lists, with changes."""

from __future__ import annotations

from scenes import make_scene, multi_hot, stack

from dhr_refine import refine_mask

TAGS = [[2, 6], [3]]
SCENES = [make_scene(0, tags=(2, 6)), make_scene(1, tags=(3,))]
CAMS, MASKS, USS, WSS, IMAGES = stack(SCENES)
EXPECTED = refine_mask(CAMS, MASKS, USS, WSS, labels=multi_hot(TAGS, 8), boundary=None)
BOXES = [(4, 3, 50, 36), (0, 0, 40, 40)]
TURNED = [(y0, y1, x0, x1) for x0, y0, x1, y1 in BOXES]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def call(**changes):
    """The two scenes as a batch, with changes; no boundary tool unless told."""
    arguments = {
        "cams": CAMS,
        "masks": MASKS,
        "uss_features": USS,
        "wss_features": WSS,
        "labels": multi_hot(TAGS, 8),
        "boundary": None,
    }
    return refine_mask(**{**arguments, **changes})


def single(**changes):
    """The first scene without a batch axis."""
    scene = SCENES[0]
    arguments = {
        "cams": scene.cams,
        "masks": scene.mask,
        "uss_features": scene.uss,
        "wss_features": scene.wss,
        "labels": [2, 6],
    }
    return refine_mask(**{**arguments, "boundary": None, **changes})


def listed(**changes):
    """Both scenes as lists."""
    columns = dict(
        zip(
            ("cams", "masks", "uss_features", "wss_features"),
            zip(*(s[:4] for s in SCENES), strict=True),
            strict=True,
        )
    )
    arguments = {name: list(column) for name, column in columns.items()}
    return refine_mask(**{**arguments, "labels": TAGS, "boundary": None, **changes})
