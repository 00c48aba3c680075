"""What the labels of the usual data sets are called, and which of them is the background."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Background = Literal["first", "last", "none"]

_MOST = 65536  # labels of a 16-bit mask


@dataclass(frozen=True)
class ClassSet:
    """The labels of a data set.

    Parameters
    ----------
    name : what the set is called
    names : name of each label, in the order of the labels
    background : which label is the background: "first" (0), "last", or "none" of them
    """

    name: str
    names: tuple[str, ...]
    background: Background = "first"

    @property
    def num_classes(self) -> int:
        """Number of labels, the background's included."""
        return len(self.names)

    @property
    def foreground(self) -> tuple[str, ...]:
        """Names of the classes that tags can have, in the order of the tags."""
        return {"first": self.names[1:], "last": self.names[:-1], "none": self.names}[self.background]


def class_set(classes: str | int | ClassSet, *, background: Background | None = None) -> ClassSet:
    """The labels of a data set, by its name or their number.

    Parameters
    ----------
    classes : a name of ``SETS``, or the number of labels with the background counted, as text or a number;
        a ``ClassSet`` is returned as it is
    background : where the background is, default: where the data set has it, ``"first"`` for a number. A
        number of labels stays what it is; a data set's grows or shrinks with the background, so that
        ``class_set("context", background="first")`` are the 60 labels of Pascal Context with a background.

    Raises
    ------
    ValueError
        No such data set, no number from 1 to 65536, no such place; ``background`` beside a ``ClassSet``.
    TypeError
        ``classes`` is something else.
    """
    if background is not None and background not in get_args(Background):
        raise ValueError(f"background must be one of first, last, none, got {background!r}")
    if isinstance(classes, ClassSet):
        if background not in (None, classes.background):
            raise ValueError(
                f"background is {background!r}, but the class set {classes.name} has it "
                f"{classes.background!r}: leave background out, or make another ClassSet"
            )
        return classes
    if isinstance(classes, bool) or not isinstance(classes, (str, int)):
        raise TypeError(f"classes must be a name or a number, got {type(classes).__name__}: {_fix()}")
    if classes in SETS:
        name, foreground, own = SETS[classes]
        return ClassSet(name, _with_background(foreground, background or own), background or own)
    text = str(classes)
    number = int(text) if text.isascii() and text.isdecimal() and len(text) <= 6 else 0
    if not 1 <= number <= _MOST:
        raise ValueError(f"classes is {text[:50]!r}: {_fix()}")
    if background == "none":
        return ClassSet(f"{number} labels", tuple(str(label) for label in range(number)), "none")
    place = background or "first"
    first = 1 if place == "first" else 0  # each class is called by its label
    foreground = tuple(str(label) for label in range(first, first + number - 1))
    return ClassSet(f"{number} labels", _with_background(foreground, place), place)


def _with_background(foreground: tuple[str, ...], place: Background) -> tuple[str, ...]:
    first, last = place == "first", place == "last"
    return ("background",) * first + foreground + ("background",) * last


def _fix() -> str:
    return f"pass one of {', '.join(SETS)}, or the number of labels from 1 to {_MOST}, the background counted"


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


_VOC = _names(
    "aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, dog, horse, "
    "motorbike, person, pottedplant, sheep, sofa, train, tvmonitor"
)
# The first 20 are VOC's, the tables under another name.
_CONTEXT = _names(
    "aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, table, dog, horse, motorbike, "
    "person, pottedplant, sheep, sofa, train, tvmonitor, bag, bed, bench, book, building, cabinet, "
    "ceiling, cloth, computer, cup, door, fence, floor, flower, food, grass, ground, keyboard, light, "
    "mountain, mouse, curtain, platform, sign, plate, road, rock, shelves, sidewalk, sky, snow, "
    "bedclothes, track, tree, truck, wall, water, window, wood"
)
# In the order of the 80 categories; their ids in the annotations go up to 90, with gaps.
_COCO = _names(
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, "
    "stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, "
    "backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, "
    "baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle, wine glass, cup, fork, "
    "knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, "
    "chair, couch, potted plant, bed, dining table, toilet, tv, laptop, mouse, remote, keyboard, "
    "cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear, "
    "hair drier, toothbrush"
)
# After the 80 things 91 kinds of stuff, as the train ids of COCO-Stuff 164k number them.
_STUFF = _names(
    "banner, blanket, branch, bridge, building-other, bush, cabinet, cage, cardboard, carpet, ceiling- "
    "other, ceiling-tile, cloth, clothes, clouds, counter, cupboard, curtain, desk-stuff, dirt, door- "
    "stuff, fence, floor-marble, floor-other, floor-stone, floor-tile, floor-wood, flower, fog, food- "
    "other, fruit, furniture-other, grass, gravel, ground-other, hill, house, leaves, light, mat, metal, "
    "mirror-stuff, moss, mountain, mud, napkin, net, paper, pavement, pillow, plant-other, plastic, "
    "platform, playingfield, railing, railroad, river, road, rock, roof, rug, salad, sand, sea, shelf, "
    "sky-other, skyscraper, snow, solid-other, stairs, stone, straw, structural-other, table, tent, "
    "textile-other, towel, tree, vegetable, wall-brick, wall-concrete, wall-other, wall-panel, wall- "
    "stone, wall-tile, wall-wood, water-other, waterdrops, window-blind, window-other, wood"
)
# Label 0 is the wall: the files of the data set count from 1, and 0 there is what has no class.
_ADE = _names(
    "wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, "
    "earth, door, table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, "
    "mirror, rug, field, armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, "
    "base, box, column, signboard, chest of drawers, counter, sand, sink, skyscraper, fireplace, "
    "refrigerator, grandstand, path, stairs, runway, case, pool table, pillow, screen door, stairway, "
    "river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill, bench, countertop, stove, "
    "palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, hovel, bus, towel, light, "
    "truck, tower, chandelier, awning, streetlight, booth, television receiver, airplane, dirt track, "
    "apparel, pole, land, bannister, escalator, ottoman, bottle, buffet, poster, stage, van, ship, "
    "fountain, conveyer belt, canopy, washer, plaything, swimming pool, stool, barrel, basket, waterfall, "
    "tent, bag, minibike, cradle, oven, ball, food, step, tank, trade name, microwave, pot, animal, "
    "bicycle, lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase, traffic light, tray, "
    "ashcan, fan, pier, crt screen, plate, monitor, bulletin board, shower, radiator, glass, clock, flag"
)

SETS: dict[str, tuple[str, tuple[str, ...], Background]] = {
    "voc": ("PASCAL VOC", _VOC, "first"),
    "coco": ("COCO", _COCO, "first"),
    "context": ("Pascal Context", _CONTEXT, "none"),
    "ade": ("ADE20K", _ADE, "none"),
    "stuff": ("COCO-Stuff", _COCO + _STUFF, "none"),
}
"""Data sets by their short names: the full name, the foreground classes, and where the background is."""
