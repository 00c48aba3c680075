"""What a figure shows: its titles, legend and pictures, and whether its texts keep clear of each other."""

from __future__ import annotations

import itertools

from matplotlib.backends.backend_agg import FigureCanvasAgg

from dhr_refine import refine_steps

MINUS = "\N{MINUS SIGN}"
CREAM = [224, 224, 192]  # colour of unknown pixels
NAMES = ["background", "one", "two", "three", "four", "five", "six", "seven", "eight"]


def refine(scene, **options):
    return refine_steps(
        scene.cams, scene.mask, scene.uss, scene.wss, scene.image, labels=scene.tags, boundary=None, **options
    )


def titles(figure):
    return [axes.get_title() for axes in figure.axes]


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def picture(figure, place):
    return figure.axes[place].images[0].get_array()


def assert_nothing_overlaps(figure):
    """Texts and pictures keep clear of each other and of the edge, in pixels."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()  # places titles
    texts = [*figure.texts, *(axes.title for axes in figure.axes)]
    texts += [text for shown in figure.legends for text in shown.get_texts()]
    boxes = [text.get_window_extent(renderer) for text in texts if text.get_text()]
    boxes += [axes.get_window_extent(renderer) for axes in figure.axes]
    for one, other in itertools.combinations(boxes, 2):
        across = min(one.x1, other.x1) - max(one.x0, other.x0)
        down = min(one.y1, other.y1) - max(one.y0, other.y0)
        assert across <= 1 or down <= 1
    for box in boxes:
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= figure.bbox.width
        assert box.y1 <= figure.bbox.height
