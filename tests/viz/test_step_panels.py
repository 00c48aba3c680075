"""show_steps: every step, its scores, the legend, and what it marks."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from scenes import make_scene
from shown import NAMES, assert_nothing_overlaps, legend, picture, refine, titles

from dhr_refine import RefineSteps, refine_steps, viz
from dhr_refine.viz.overlays import overlay_scores


def test_show_steps_draws_every_step(scene, steps):
    alike = torch.ones_like(steps.groups)  # no group here: the WSS step did nothing and had no panel
    steps = replace(steps, wss=steps.wss.flip(-1), groups=alike)
    kept = [getattr(steps, field.name).clone() for field in fields(RefineSteps)]
    cams = {tag + 1: scene.cams[tag] for tag in scene.tags}
    figure = viz.show_steps(
        steps, scene.image, cams=cams, base=scene.mask, target=scene.truth, names=NAMES, title="t", note="n"
    )
    plain = [title.split(",")[0] for title in titles(figure)]
    assert plain == [
        *("Base mask", "Final mask", "Ground truth"),
        *("Image", "CAM: three", "CAM: seven", "OT seed", "M_init", "After USS", "After WSS"),
    ]
    assert (picture(figure, 3) == scene.image.permute(1, 2, 0).numpy()).all()
    for place, mask in (
        (0, scene.mask),
        (1, steps.mask),
        (2, scene.truth),
        (6, steps.seed),
        (7, steps.init_mask),
    ):
        assert (picture(figure, place) == viz.overlay_mask(scene.image, mask)).all()
    assert (picture(figure, 5) == viz.overlay_cam(scene.image, scene.cams[6])).all()
    pixels = scene.image.permute(1, 2, 0).numpy()
    for place, scores in ((8, steps.uss), (9, steps.wss)):
        wanted = overlay_scores(pixels, scores, steps.classes, viz.palette(255))
        assert (picture(figure, place) == wanted).all()
    assert [text.get_text() for text in figure.texts] == ["t", "n"]
    assert figure.bbox.width == 1600
    for value, field in zip(kept, fields(RefineSteps)):
        assert torch.equal(value, getattr(steps, field.name))


def rows_of(figure):
    """Titles row by row, and the widths of the rows' panels in shares of the figure."""
    found, widths = {}, {}
    for axes in figure.axes:
        place = axes.get_position()
        row = round(place.y0, 6)
        found.setdefault(row, []).append(axes.get_title().split(",")[0])
        widths.setdefault(row, []).append(place.width)
    return list(found.values()), list(widths.values())


def test_both_masks_are_large_and_first_and_every_row_fills_the_width(scene, steps):
    grouped = replace(steps, groups=torch.ones_like(steps.groups))
    rows, _ = rows_of(viz.show_steps(grouped, scene.image, base=scene.mask))
    assert rows == [
        ["Base mask", "Final mask"],
        ["Image", "OT seed", "M_init"],
        ["After USS", "After WSS"],
    ]
    rows, _ = rows_of(viz.show_steps(grouped, scene.image))  # without a base mask
    assert rows == [["Image", "Final mask"], ["OT seed", "M_init", "After USS", "After WSS"]]
    for count in range(1, 8):
        cams = {label: scene.cams[label - 1] for label in range(1, count + 1)}
        figure = viz.show_steps(grouped, scene.image, cams=cams, base=scene.mask)
        rows, widths = rows_of(figure)
        assert rows[0] == ["Base mask", "Final mask"]
        small = [title for row in rows[1:] for title in row]
        assert small[1 : count + 1] == [f"CAM: class {label}" for label in cams]
        lengths = [len(row) for row in rows[1:]]
        assert max(lengths) <= 4
        assert max(lengths) - min(lengths) <= 1
        for row in widths:
            assert 0.95 < sum(row) < 1
            assert max(row) - min(row) < 1e-6


def test_steps_that_did_nothing_have_a_line_instead_of_a_panel(scene, steps):
    def lines(figure):
        return " ".join(text.get_text() for text in figure.texts)

    figure = viz.show_steps(steps, scene.image, base=scene.mask, names=NAMES, tau=0.8)
    assert "After WSS" not in titles(figure)
    assert {"OT seed", "M_init", "After USS"} <= set(titles(figure))
    cosines = {(i, j): float(steps.uss_similarity[i, j]) for i in range(3) for j in range(i + 1, 3)}
    (i, j), best = max(cosines.items(), key=lambda pair: pair[1])
    first, second = (NAMES[int(steps.classes[k])] for k in (i, j))
    reason = f"no two classes are alike at tau 0.8 (closest: {first} and {second}, {best:.2f})."
    assert lines(figure) == f"WSS step: {reason}"
    assert "alike above tau (closest" in lines(viz.show_steps(steps, scene.image))

    same = replace(steps, init_mask=scene.mask, groups=torch.ones_like(steps.groups))
    figure = viz.show_steps(same, scene.image, base=scene.mask)
    assert not {"OT seed", "M_init"} & set(titles(figure))
    assert "After WSS" in titles(figure)
    assert lines(figure) == "OT seed: put no class back, M_init is the base mask."
    assert {"OT seed", "M_init"} <= set(titles(viz.show_steps(same, scene.image)))  # nothing to compare with

    one = replace(steps, uss_similarity=torch.zeros(3, 3))  # M_init holds one class or none
    one.uss_similarity[0, 0] = 1
    figure = viz.show_steps(one, scene.image)
    assert not {"After USS", "After WSS"} & set(titles(figure))
    assert lines(figure).count("fewer than two classes to tell apart") == 2


def test_show_steps_scores_masks_where_there_is_ground_truth(scene, steps):
    figure = viz.show_steps(steps, scene.image, base=scene.mask, target=scene.truth, names=NAMES)

    def miou(mask):
        ious = []
        for label in scene.truth.unique():
            p, t = mask == label, scene.truth == label
            ious.append(float((p & t).sum() / (p | t).sum()))
        return 100 * sum(ious) / len(ious)

    shown = dict(title.split(", mIoU ") for title in titles(figure) if "mIoU" in title)
    assert list(shown) == ["Base mask", "Final mask", "M_init"]
    for name, mask in (("Base mask", scene.mask), ("M_init", steps.init_mask), ("Final mask", steps.mask)):
        assert shown[name] == f"{miou(mask):.1f}"


def test_legend_names_and_colours_the_classes_and_marks_what_came_back(scene, steps):
    assert steps.recovered.tolist() == [False, False, True]
    figure = viz.show_steps(steps, scene.image, base=scene.mask, names=NAMES)
    assert legend(figure) == ["background", "three", "seven ★ recovered", "unassigned"]
    patches = figure.legends[0].get_patches()
    wanted = ["#{:02x}{:02x}{:02x}".format(*viz.palette(21)[label]) for label in (0, 3, 7)]
    assert [to_hex(patch.get_facecolor()) for patch in patches[:3]] == wanted
    assert patches[3].get_hatch()
    (star,) = figure.axes[1].texts
    assert figure.axes[1].get_title() == "Final mask"
    assert star.get_text() == "★ seven"
    x, y = star.xy
    assert steps.mask[y, x] == 7

    own = viz.show_steps(steps, scene.image, names={3: "dog"}, lost={3, 7}, recovered=())
    assert legend(own) == ["class 0", "dog (lost)", "class 7 (lost)", "unassigned"]
    assert not own.axes[1].texts
    gone = RefineSteps(
        **{f.name: getattr(steps, f.name) for f in fields(RefineSteps)} | {"mask": steps.mask * 0}
    )
    absent = viz.show_steps(gone, scene.image)  # a star needs a pixel
    assert legend(absent) == ["class 0", "class 3 (lost)", "class 7 ★ recovered", "unassigned"]
    assert not absent.axes[1].texts
    target = viz.show_steps(gone, scene.image, target=torch.full_like(scene.truth, 5))
    assert legend(target)[2:] == ["class 5", "class 7 ★ recovered", "unassigned or ignored"]


@pytest.mark.parametrize("around", [0, 3])  # nothing else to hide, and something else everywhere
@pytest.mark.parametrize("left", [0, 23, 46])
def test_a_mark_stays_in_the_picture_and_hides_nothing_of_its_region(scene, steps, left, around):
    mask = torch.full_like(steps.mask, around)
    mask[12:26, left : left + 10] = 7
    full = replace(steps, mask=mask, seed=mask, init_mask=mask)
    figure = viz.show_steps(full, scene.image, names=NAMES)
    rest = ["background (lost)", "three"] if around else ["background", "three (lost)"]
    assert legend(figure) == [*rest, "seven ★ recovered"]  # a full seed needs no hatch
    axes = figure.axes[1]
    (star,) = axes.texts
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    box = star.get_bbox_patch().get_window_extent(renderer)
    picture_box = axes.get_window_extent(renderer)
    assert picture_box.x0 <= box.x0 < box.x1 <= picture_box.x1
    assert picture_box.y0 <= box.y0 < box.y1 <= picture_box.y1
    (x0, y1), (x1, y0) = axes.transData.inverted().transform([(box.x0, box.y0), (box.x1, box.y1)])
    rows, columns = np.nonzero(mask.numpy() == 7)
    inside = (columns > x0) & (columns < x1) & (rows > y0) & (rows < y1)
    assert not inside.any()
    assert to_hex(star.get_color()) == "#000000"  # black on white, readable whatever lies below
    assert to_hex(star.get_bbox_patch().get_facecolor()) == "#ffffff"


def test_marks_of_several_regions_keep_clear_of_each_other(scene, steps):
    mask = torch.zeros_like(steps.mask)
    mask[10:12, 20:22], mask[10:12, 23:25] = 7, 3
    figure = viz.show_steps(replace(steps, mask=mask), scene.image, names=NAMES, recovered={3, 7})
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    one, other = (star.get_bbox_patch().get_window_extent(renderer) for star in figure.axes[1].texts)
    assert not one.overlaps(other)


@pytest.mark.parametrize(("classes", "size"), [(1, (40, 60)), (3, (60, 40)), (8, (40, 60))])
def test_no_text_of_the_steps_overlaps(classes, size):
    scene = make_scene(1, size=size, tags=tuple(range(classes)))
    names = ["background", *(f"a rather long class name {i}" for i in range(classes))]
    cams = {tag + 1: scene.cams[tag] for tag in scene.tags}
    for options in (
        {},
        {"cams": cams, "base": scene.mask, "target": scene.truth, "title": "photo", "note": "x"},
    ):
        figure = viz.show_steps(refine(scene), scene.image, names=names, lost={1}, recovered=(), **options)
        assert legend(figure)[1] == f"{names[1]} (lost)"
        assert_nothing_overlaps(figure)


def test_steps_of_batches_and_lists_need_an_index():
    scenes = [make_scene(0, lost=(6,)), make_scene(1, tags=(1, 3, 4))]
    columns = [[getattr(one, name) for one in scenes] for name in ("cams", "mask", "uss", "wss", "image")]
    labels = [one.tags for one in scenes]
    listed = refine_steps(*columns, labels=labels, boundary=None)
    cams, masks, uss, _, images = columns
    wss = [torch.stack(level) for level in zip(*columns[3])]
    multi_hot = torch.zeros(2, 8)
    for row, tags in zip(multi_hot, labels):
        row[tags] = 1
    batch = refine_steps(
        *map(torch.stack, (cams, masks, uss)), wss, torch.stack(images), labels=multi_hot, boundary=None
    )
    for steps in (listed, batch):
        for index, one in enumerate(scenes):
            found = viz.show_steps(steps, one.image, base=one.mask, names=NAMES, index=index)
            alone = viz.show_steps(refine(one), one.image, base=one.mask, names=NAMES)
            assert legend(found) == legend(alone)
            assert titles(found) == titles(alone)
            assert (picture(found, 1) == picture(alone, 1)).all()
            matrix = viz.show_similarity(steps, 0.8, NAMES, index=index)
            ticks = [text.get_text() for text in matrix.axes[0].get_xticklabels()]
            assert ticks == ["background", *(NAMES[tag + 1] for tag in one.tags)]
        with pytest.raises(ValueError, match="steps hold 2 images: pass index"):
            viz.show_steps(steps, scenes[0].image)
        with pytest.raises(ValueError, match="index must be below 2, the images in steps, got 2"):
            viz.show_similarity(steps, index=2)
        with pytest.raises(TypeError, match="index must be an int"):
            viz.show_similarity(steps, index=True)
    alone = refine_steps(
        cams[0][None], masks[0][None], uss[0][None], wss[0][:1], labels=multi_hot[:1], boundary=None
    )
    assert "seven ★ recovered" in legend(viz.show_steps(alone, images[0], names=NAMES))  # a batch of one


def test_names_with_dollar_signs_are_drawn_as_they_are(scene, steps):
    names = {0: "$5", 3: r"$\frac$", 7: "a$b$c"}
    figure = viz.show_steps(
        steps, scene.image, cams={7: scene.cams[6]}, names=names, title="$x$", note=r"$\frac$"
    )
    drawn = [*figure.texts, *figure.legends[0].get_texts(), *figure.axes[1].texts]
    drawn += [axes.title for axes in figure.axes] + [
        text for axes in viz.show_similarity(steps, names=names).axes for text in axes.get_xticklabels()
    ]
    shown = [cbook_text(text) for text in drawn]
    for wanted in ("$5", r"$\frac$", "a$b$c ★ recovered", "★ a$b$c", "CAM: a$b$c", "$x$", "a$b$c"):
        assert wanted in shown
    FigureCanvasAgg(figure).draw()


def cbook_text(text):
    """What matplotlib draws, which must be no formula."""
    shown, is_formula = text._preprocess_math(text.get_text())
    assert not is_formula
    return shown


@pytest.mark.parametrize("size", [(2000, 20), (3000, 40)])
def test_very_tall_photos_fit_a_canvas(size):
    scene = make_scene(0, size=size, lost=(6,))
    figure = viz.show_steps(refine(scene), scene.image, base=scene.mask, names=NAMES)
    assert figure.bbox.width == 1600
    assert figure.bbox.height < 8000
    figure.draw_without_rendering()
    for axes in figure.axes:
        box = axes.get_window_extent()
        assert box.height / box.width == pytest.approx(size[0] / size[1], rel=1e-3)


def test_without_a_labelled_pixel_masks_have_no_score(scene, steps):
    figure = viz.show_steps(steps, scene.image, base=scene.mask, target=torch.full_like(scene.mask, 255))
    assert titles(figure)[:3] == ["Base mask", "Final mask", "Ground truth"]


def test_show_steps_without_classes():
    mask = torch.full((8, 8), 255)
    features = torch.rand(3, 4, 4)
    steps = refine_steps(features, mask, features, features, labels=[], boundary=None, background="none")
    figure = viz.show_steps(steps, torch.full((3, 8, 8), 90, dtype=torch.uint8))
    assert legend(figure) == ["unassigned"]
    assert titles(figure) == ["Image", "Final mask", "OT seed", "M_init"]
    assert (picture(figure, 0) == 90).all()
    with pytest.raises(ValueError, match="an image without classes"):
        viz.show_similarity(steps)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"base": torch.zeros(3, 3).long()}, ValueError, r"base has size \(3, 3\), not \(40, 56\)"),
        ({"target": torch.zeros(3, 3).long()}, ValueError, r"target has size \(3, 3\), not"),
        ({"names": ["background"]}, ValueError, "names has 1 entries but label 7 is shown"),
        ({"cams": {1: torch.zeros(2, 3, 3)}}, ValueError, "cam must have shape"),
        ({"index": 1}, ValueError, "index must be below 1"),
        ({"lost": {300}}, ValueError, r"lost must hold labels from 0 to 254, got set .300.: leave out"),
        ({"recovered": [-1]}, ValueError, r"recovered must hold labels from 0 to 254, got list \[-1\]"),
        ({"tau": 1.5}, ValueError, r"tau must lie in \[-1(.0)?, 1(.0)?\], got 1.5"),
    ],
)
def test_show_steps_names_what_is_wrong(scene, steps, options, error, text):
    with pytest.raises(error, match=text):
        viz.show_steps(steps, scene.image, **options)


def test_show_steps_wants_steps(scene):
    with pytest.raises(TypeError, match="steps must be a RefineSteps, got a torch"):
        viz.show_steps(scene.mask, scene.image)
    with pytest.raises(ValueError, match=r"image has size \(41, 56\) but the mask has \(40, 56\)"):
        viz.show_steps(refine(scene), torch.zeros(3, 41, 56))
