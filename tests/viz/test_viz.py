"""Figures: exact colours, what the figures say, errors, and that nothing outside them changes."""

from __future__ import annotations

import itertools
import subprocess
import sys
from dataclasses import fields, replace

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from scenes import make_scene

from dhr_refine import RefineSteps, refine_steps, viz

MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"
CREAM = [224, 224, 192]
NAMES = ["background", "one", "two", "three", "four", "five", "six", "seven", "eight"]


def refine(scene, **options):
    return refine_steps(
        scene.cams, scene.mask, scene.uss, scene.wss, scene.image, labels=scene.tags, boundary=None, **options
    )


@pytest.fixture(scope="module")
def scene():
    """Tags 2 and 6, of which 6 (label 7) is missing in the base mask, and a band without labels."""
    return make_scene(0, lost=(6,), ignore=True)


@pytest.fixture(scope="module")
def steps(scene):
    return refine(scene)


@pytest.fixture(autouse=True)
def nothing_global_changes():
    before = dict(matplotlib.rcParams)
    yield
    assert dict(matplotlib.rcParams) == before
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


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


# --------------------------------------------------------------------------------------------------
# Colours


def test_palette_of_few_classes_is_that_of_voc():
    for num_classes in (1, 2, 21):
        colours = viz.palette(num_classes)
        assert colours.shape == (256, 3)
        assert colours.dtype == np.uint8
        assert colours[[0, 1, 2, 4, 15, 20, 22, 255]].tolist() == [
            [0, 0, 0],
            [128, 0, 0],
            [0, 128, 0],
            [0, 0, 128],
            [192, 128, 128],
            [0, 64, 128],
            [0, 192, 128],
            CREAM,
        ]
        assert len(np.unique(colours, axis=0)) == 256


@pytest.mark.parametrize("num_classes", [22, 81, 171, 255])
def test_palette_of_many_classes_is_distinct_and_continues_voc(num_classes):
    colours = viz.palette(num_classes)
    assert (colours[:21] == viz.palette(21)[:21]).all()
    assert (colours == viz.palette(255)).all()  # a label keeps its colour whatever the number of classes
    assert colours[255].tolist() == CREAM
    used = viz.panels._oklab(colours[[*range(num_classes), 255]])
    apart = np.linalg.norm(used[:, None] - used, axis=-1)
    voc = viz.panels._oklab(viz.palette(21)[[*range(21), 255]])
    voc_apart = np.linalg.norm(voc[:, None] - voc, axis=-1)
    # Of 171 classes none are much closer than VOC's own closest pair, of 255 than half of that.
    least = voc_apart[~np.eye(22, dtype=bool)].min()
    assert apart[~np.eye(num_classes + 1, dtype=bool)].min() > (0.7 if num_classes <= 171 else 0.5) * least
    # Beyond VOC's none is a grey (it would pass for the photo).
    assert (np.ptp(colours[21:num_classes].astype(int), axis=1) > 15).all()


def test_oklab_has_white_at_lightness_one_and_red_at_its_published_place():
    found = viz.panels._oklab(np.array([[255, 255, 255], [0, 0, 0], [255, 0, 0]]))
    assert np.allclose(found, [[1, 0, 0], [0, 0, 0], [0.628, 0.225, 0.126]], atol=1e-3)


def test_palette_is_a_new_array_each_time():
    viz.palette(21)[:] = 7
    viz.palette(255)[:] = 7
    assert viz.palette(21)[1].tolist() == [128, 0, 0]
    assert viz.palette(255)[1].tolist() == [128, 0, 0]


@pytest.mark.parametrize(
    ("num_classes", "error", "text"),
    [
        (0, ValueError, "num_classes must be at least 1, got 0"),
        (256, ValueError, r"num_classes must lie in \[1, 255\], got 256"),
        (21.0, TypeError, "num_classes must be an int"),
    ],
)
def test_palette_refuses_other_numbers(num_classes, error, text):
    with pytest.raises(error, match=text):
        viz.palette(num_classes)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int64, np.uint8, np.int32])
def test_colour_mask_looks_labels_up(kind):
    labels = [[0, 1, 20], [21, 254, 255]]
    mask = torch.tensor(labels, dtype=kind) if isinstance(kind, torch.dtype) else np.array(labels, kind)
    colours = viz.colour_mask(mask)
    assert colours.dtype == np.uint8
    assert (colours == viz.palette(255)[np.array(labels)]).all()
    assert (viz.colour_mask(mask, colours=viz.palette(21)) == viz.palette(21)[np.array(labels)]).all()


def test_colour_mask_shows_any_ignore_index_as_unknown():
    assert viz.colour_mask(torch.tensor([[1, -1]]), ignore_index=-1).tolist() == [[[128, 0, 0], CREAM]]
    assert viz.colour_mask(torch.tensor([[1, 300]]), ignore_index=300).tolist() == [[[128, 0, 0], CREAM]]
    assert viz.colour_mask(torch.tensor([[1, 0]]), ignore_index=0).tolist() == [[[128, 0, 0], CREAM]]


@pytest.mark.parametrize(
    ("mask", "options", "error", "text"),
    [
        (torch.tensor([[0, -1]]), {}, ValueError, r"mask holds label -1, but .* ignore_index \(255\)"),
        (torch.tensor([[0, 300]]), {}, ValueError, "mask holds label 300"),
        (torch.tensor([[255]]), {"ignore_index": -1}, ValueError, "mask holds label 255"),
        (torch.zeros(2, 4, 4).long(), {}, ValueError, r"mask must have shape \(H, W\), got a torch.int64"),
        (torch.zeros(0, 4).long(), {}, ValueError, r"mask must have shape \(H, W\)"),
        (torch.zeros(4, 4), {}, TypeError, "mask must hold integer labels"),
        ([[0]], {}, TypeError, "mask must be a tensor or an array"),
        (torch.zeros(2, 2).long(), {"ignore_index": 1.0}, TypeError, "ignore_index must be an int"),
        (torch.zeros(2, 2).long(), {"colours": np.zeros((21, 3), np.uint8)}, ValueError, r"shape \(256, 3\)"),
        (torch.zeros(2, 2).long(), {"colours": "voc"}, ValueError, r"call palette\(\)"),
    ],
)
def test_colour_mask_names_what_is_wrong(mask, options, error, text):
    with pytest.raises(error, match=text):
        viz.colour_mask(mask, **options)


def test_overlay_mask_blends_outlines_and_hatches():
    mask = torch.zeros(60, 60, dtype=torch.long)
    mask[:, 20:40] = 2
    mask[:, 40:] = 255
    image = np.full((60, 60, 3), 100, np.uint8)
    before = mask.clone()
    result = viz.overlay_mask(image, mask)
    assert result.shape == (60, 60, 3)
    assert result.dtype == np.uint8
    assert result[5, 5].tolist() == [45, 45, 45]  # 0.55 of black over 0.45 of grey
    assert result[5, 30].tolist() == [30, 120, 30]  # 0.7 of green over 0.3 of grey
    assert set(np.unique(result[:, 42:])) == {190, 250}  # hatched, never a class's colour
    assert (result[:, [19, 39]] == 255).all()  # outlines, in the lower label's last pixel
    assert (result[:, 20:39] != 255).all()
    assert (image == 100).all()
    assert torch.equal(mask, before)


def test_overlay_mask_reads_every_kind_of_image():
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, 12, 16), dtype=torch.uint8, generator=generator)
    mask = torch.randint(0, 3, (12, 16), generator=generator)
    wanted = viz.overlay_mask(image, mask)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (viz.IMAGENET_MEAN, viz.IMAGENET_STD))
    unit = image.float() / 255
    readonly = image.permute(1, 2, 0).numpy().copy()
    readonly.flags.writeable = False
    for same in (unit, unit.double(), (unit - mean) / std, image.permute(1, 2, 0), readonly, image.numpy()):
        assert (viz.overlay_mask(same, mask) == wanted).all()
    luma = (image.double() * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0).numpy()
    inside = (mask == 2).numpy() & (wanted != 255).any(axis=-1)
    assert np.abs(wanted[inside][:, 0] - 0.3 * luma[inside]).max() <= 1


@pytest.mark.parametrize(
    ("image", "error", "text"),
    [
        (
            torch.zeros(4, 8, 8),
            ValueError,
            r"image must have shape \(3, H, W\) or \(H, W, 3\), got a torch.float32",
        ),
        (torch.zeros(1, 3, 8, 8), ValueError, "pass one RGB image"),
        (torch.zeros(3, 9, 8), ValueError, r"image has size \(9, 8\) but the mask has \(8, 8\)"),
        (torch.zeros(3, 8, 8).long(), TypeError, "images must be uint8 or floating point"),
        (torch.full((3, 8, 8), 99.0), ValueError, "images span .* or uint8 images"),
        (torch.full((3, 8, 8), torch.nan), ValueError, "NaN"),
    ],
)
def test_overlays_name_what_is_wrong_with_an_image(image, error, text):
    with pytest.raises(error, match=text):
        viz.overlay_mask(image, torch.zeros(8, 8).long())


def test_overlay_scores_mixes_by_share():
    scores = torch.tensor([[[5.0, 0.0, 2.0]], [[0.0, 0.1, 2.0]]])
    pixels = np.zeros((1, 3, 3), np.uint8)
    result = viz.panels._overlay_scores(pixels, scores, torch.tensor([1, 2]), viz.palette(21))
    # 0.7 * 128, whatever the scale of the scores, and half of each
    assert result[0].tolist() == [[90, 0, 0], [0, 90, 0], [45, 45, 0]]
    assert not viz.panels._overlay_scores(pixels, scores * 0, torch.tensor([1, 2]), viz.palette(21)).any()


def test_overlay_cam_is_turbo_over_grey():
    image = torch.full((3, 2, 3), 200, dtype=torch.uint8)
    cam = torch.tensor([[-3.0, 1.0, 4.0], [0.0, 2.0, 4.0]])
    before = cam.clone()
    result = viz.overlay_cam(image, cam)
    turbo = matplotlib.colormaps["turbo"](np.array([[0, 0.25, 1], [0, 0.5, 1]]))[..., :3] * 255
    assert np.abs(result - (0.65 * turbo + 0.35 * 200)).max() <= 0.5 + 1e-9
    assert torch.equal(cam, before)
    assert (viz.overlay_cam(image, 3 * cam) == result).all()  # its own maximum is the hottest
    assert (viz.overlay_cam(image, cam.numpy()) == result).all()
    assert (viz.overlay_cam(image, cam, vmax=8.0)[0, 2] == viz.overlay_cam(image, cam)[1, 1]).all()
    assert (viz.overlay_cam(image, cam, vmax=2.0)[1, 1] == result[0, 2]).all()  # clipped above
    cold = viz.overlay_cam(image, torch.zeros(5, 7))
    assert (cold == result[1, 0]).all()


def test_overlay_cam_enlarges_smoothly_what_is_above_zero():
    result = viz.overlay_cam(torch.zeros(3, 1, 4), torch.tensor([[-4.0, 4.0]]))
    turbo = matplotlib.colormaps["turbo"](np.array([0, 0.25, 0.75, 1]))[:, :3] * 255
    assert np.abs(result[0] - 0.65 * turbo).max() <= 0.5 + 1e-9


@pytest.mark.parametrize(
    ("cam", "options", "error", "text"),
    [
        (torch.zeros(2, 4, 4), {}, ValueError, r"cam must have shape \(h, w\).*pass the map of one class"),
        (torch.full((4, 4), torch.inf), {}, ValueError, "cam holds NaN or infinity"),
        (torch.zeros(4, 4), {"vmax": 0.0}, ValueError, "vmax must be above 0"),
        (torch.zeros(4, 4), {"vmax": "1"}, TypeError, "vmax must be a number"),
    ],
)
def test_overlay_cam_names_what_is_wrong(cam, options, error, text):
    with pytest.raises(error, match=text):
        viz.overlay_cam(torch.zeros(3, 8, 8), cam, **options)


# --------------------------------------------------------------------------------------------------
# Steps


def test_show_steps_draws_every_step(scene, steps):
    steps = replace(steps, wss=steps.wss.flip(-1))  # no group here: the two steps' scores are equal
    kept = [getattr(steps, field.name).clone() for field in fields(RefineSteps)]
    cams = {tag + 1: scene.cams[tag] for tag in scene.tags}
    figure = viz.show_steps(
        steps, scene.image, cams=cams, base=scene.mask, target=scene.truth, names=NAMES, title="t", note="n"
    )
    plain = [title.split(",")[0] for title in titles(figure)]
    assert plain == [
        *("Image", "Ground truth", "CAM: three", "CAM: seven", "Base mask"),
        *("OT seed", "M_init", "After USS", "After WSS", "Final mask"),
    ]
    assert (picture(figure, 0) == scene.image.permute(1, 2, 0).numpy()).all()
    for place, mask in (
        (1, scene.truth),
        (4, scene.mask),
        (5, steps.seed),
        (6, steps.init_mask),
        (9, steps.mask),
    ):
        assert (picture(figure, place) == viz.overlay_mask(scene.image, mask)).all()
    assert (picture(figure, 3) == viz.overlay_cam(scene.image, scene.cams[6])).all()
    pixels = scene.image.permute(1, 2, 0).numpy()
    for place, scores in ((7, steps.uss), (8, steps.wss)):
        wanted = viz.panels._overlay_scores(pixels, scores, steps.classes, viz.palette(255))
        assert (picture(figure, place) == wanted).all()
    assert [text.get_text() for text in figure.texts] == ["t", "n"]
    assert figure.bbox.width == 1600
    for value, field in zip(kept, fields(RefineSteps)):
        assert torch.equal(value, getattr(steps, field.name))


def test_show_steps_scores_masks_where_there_is_ground_truth(scene, steps):
    figure = viz.show_steps(steps, scene.image, base=scene.mask, target=scene.truth, names=NAMES)

    def miou(mask):
        ious = []
        for label in scene.truth.unique():
            p, t = mask == label, scene.truth == label
            ious.append(float((p & t).sum() / (p | t).sum()))
        return 100 * sum(ious) / len(ious)

    shown = dict(title.split(", mIoU ") for title in titles(figure) if "mIoU" in title)
    assert list(shown) == ["Base mask", "M_init", "Final mask"]
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
    (star,) = figure.axes[-1].texts
    assert star.get_text() in ("★ seven", "seven ★")
    x, y = star.xy
    assert steps.mask[y, x] == 7

    own = viz.show_steps(steps, scene.image, names={3: "dog"}, lost={3, 7}, recovered=())
    assert legend(own) == ["class 0", "dog (lost)", "class 7 (lost)", "unassigned"]
    assert not own.axes[-1].texts
    gone = RefineSteps(
        **{f.name: getattr(steps, f.name) for f in fields(RefineSteps)} | {"mask": steps.mask * 0}
    )
    absent = viz.show_steps(gone, scene.image)  # a star needs a pixel
    assert legend(absent) == ["class 0", "class 3 (lost)", "class 7 ★ recovered", "unassigned"]
    assert not absent.axes[-1].texts
    target = viz.show_steps(gone, scene.image, target=torch.full_like(scene.truth, 5))
    assert legend(target)[2:] == ["class 5", "class 7 ★ recovered", "unassigned or ignored"]


@pytest.mark.parametrize(("left", "text"), [(0, "★ seven"), (46, "seven ★")])
def test_the_star_stays_in_the_picture_and_a_full_seed_needs_no_hatch(scene, steps, left, text):
    mask = torch.zeros_like(steps.mask)
    mask[10:30, left : left + 10] = 7
    parts = {field.name: getattr(steps, field.name) for field in fields(RefineSteps)}
    full = RefineSteps(**parts | {"mask": mask, "seed": mask, "init_mask": mask})
    figure = viz.show_steps(full, scene.image, names=NAMES)
    (star,) = figure.axes[-1].texts
    assert star.get_text() == text
    assert star.get_horizontalalignment() == ("right" if left else "left")
    assert legend(figure) == ["background", "three (lost)", "seven ★ recovered"]


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
            assert (picture(found, -1) == picture(alone, -1)).all()
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


def test_show_steps_without_classes():
    mask = torch.full((8, 8), 255)
    features = torch.rand(3, 4, 4)
    steps = refine_steps(features, mask, features, features, labels=[], boundary=None, background="none")
    figure = viz.show_steps(steps, torch.full((3, 8, 8), 90, dtype=torch.uint8))
    assert legend(figure) == ["unassigned"]
    assert (picture(figure, 3) == 90).all()
    with pytest.raises(ValueError, match="an image without classes"):
        viz.show_similarity(steps)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"base": torch.zeros(3, 3).long()}, ValueError, r"base has size \(3, 3\), not \(40, 56\)"),
        ({"target": torch.zeros(3, 3).long()}, ValueError, r"target has size \(3, 3\), not"),
        ({"names": ["background"]}, ValueError, "names has 1 entries but label 3 is shown"),
        ({"cams": {1: torch.zeros(2, 3, 3)}}, ValueError, "cam must have shape"),
        ({"index": 1}, ValueError, "index must be below 1"),
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


# --------------------------------------------------------------------------------------------------
# Similarity


def with_similarity(steps, cosine, groups):
    changed = {"uss_similarity": torch.tensor(cosine), "groups": torch.tensor(groups)}
    return RefineSteps(**{f.name: getattr(steps, f.name) for f in fields(RefineSteps)} | changed)


COSINE = [[1.0, 0.25, 0.7], [0.25, 1.0, 0.85], [0.7, 0.85, 1.0]]
PAIRED = [[True, False, False], [False, True, True], [False, True, True]]


def test_similarity_writes_every_value_and_frames_the_groups(steps):
    figure = viz.show_similarity(with_similarity(steps, COSINE, PAIRED), 0.8, NAMES)
    axes, bar = figure.axes
    texts = {tuple(map(int, reversed(text.get_position()))): text for text in axes.texts}
    assert {place: text.get_text() for place, text in texts.items()} == {
        (i, j): f"{COSINE[i][j]:.2f}" for i, j in itertools.product(range(3), repeat=2)
    }
    bold = {place for place, text in texts.items() if text.get_fontweight() == "bold"}
    assert bold == {(0, 0), (1, 1), (2, 2), (1, 2), (2, 1)}
    framed = {(round(p.get_y() + 0.46), round(p.get_x() + 0.46)) for p in axes.patches}
    assert framed == {(1, 2), (2, 1)}
    assert [text.get_text() for text in axes.get_yticklabels()] == ["background", "three", "seven"]
    assert np.allclose(axes.images[0].get_array(), COSINE)
    assert [text.get_text() for text in bar.texts] == ["τ = 0.8"]
    assert bar.texts[0].xy[1] == 0.8
    assert [text.get_text() for text in figure.texts] == ["Alike: three, seven"]


def test_similarity_without_groups_with_absent_and_opposite_classes(steps):
    cosine = [[1.0, -0.34, 0.0], [-0.34, 1.0, 0.0], [0.0, 0.0, 0.0]]
    figure = viz.show_similarity(with_similarity(steps, cosine, np.eye(3, dtype=bool).tolist()), 0.5)
    axes = figure.axes[0]
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["1.00", f"{MINUS}0.34", DASH, f"{MINUS}0.34", "1.00", *[DASH] * 4]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["class 0", "class 3", "class 7 (absent)"]
    assert axes.images[0].get_clim() == (-0.4, 1.0)
    assert not axes.patches
    assert figure.texts[0].get_text() == "No classes are alike."


def test_similarity_marks_the_upper_triangle_of_the_released_groups_on_both_sides(steps):
    upper = np.triu(PAIRED).tolist()
    figure = viz.show_similarity(with_similarity(steps, COSINE, upper))
    assert len(figure.axes[0].patches) == 2
    assert figure.texts[0].get_text() == "Alike: class 3, class 7"


def test_similarity_refuses_a_tau_that_did_not_make_the_groups(steps):
    grouped = with_similarity(steps, COSINE, PAIRED)
    with pytest.raises(ValueError, match=r"tau 0\.9 does not give the groups of steps"):
        viz.show_similarity(grouped, 0.9)
    with pytest.raises(ValueError, match=r"tau must lie in \[-1"):
        viz.show_similarity(grouped, 1.5)
    chain = [[1.0, 0.9, 0.1], [0.9, 1.0, 0.9], [0.1, 0.9, 1.0]]  # 0 and 2 are alike only through 1
    figure = viz.show_similarity(with_similarity(steps, chain, [[True] * 3] * 3))
    assert len(figure.axes[0].patches) == 6


@pytest.mark.parametrize("count", [1, 2, 8])
def test_no_text_of_the_similarity_overlaps(count):
    scene = make_scene(1, tags=tuple(range(count)))
    names = ["background", *(f"long class name {i}" for i in range(count))]
    figure = viz.show_similarity(refine(scene), 0.8, names)
    assert_nothing_overlaps(figure)
    renderer = FigureCanvasAgg(figure).get_renderer()
    labels = [
        *figure.axes[0].get_xticklabels(),
        *figure.axes[0].get_yticklabels(),
        figure.axes[1].yaxis.label,
    ]
    foot = figure.texts[0].get_window_extent(renderer)
    for box in (label.get_window_extent(renderer) for label in labels):
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.width
        assert box.y0 >= foot.y1


# --------------------------------------------------------------------------------------------------
# Best and worst images


def make_masks(shares):
    """Ground truth of one class, and masks that find a share of its 10 columns: mIoU = share."""
    masks = torch.zeros(len(shares), 20, 10, dtype=torch.long)
    for mask, share in zip(masks, shares):
        mask[:, : round(10 * share)] = 1
    return masks


def test_extremes_are_sorted_by_change():
    before = make_masks([0.5, 0.5, 0.5, 0.5, 0.5])
    after = make_masks([0.6, 0.1, 1.0, 0.5, 0.4])
    targets = torch.ones_like(before)
    images = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 3, 20, 10)
    figure = viz.show_extremes(images, targets, before, after, count=2, names=["background", "dog"])
    assert titles(figure)[::4] == ["Image 2", "Image 0", "Image 1", "Image 4"]
    assert titles(figure)[1::4] == ["Ground truth"] * 4
    assert titles(figure)[2::4] == ["Before, mIoU 50.0"] * 4
    assert titles(figure)[3::4] == [
        "After, mIoU 100.0 (+50.0)",
        "After, mIoU 60.0 (+10.0)",
        f"After, mIoU 10.0 ({MINUS}40.0)",
        f"After, mIoU 40.0 ({MINUS}10.0)",
    ]
    assert [text.get_text() for text in figure.texts] == ["Best by change in mIoU", "Worst by change in mIoU"]
    assert [int(picture(figure, place)[0, 0, 0]) for place in (0, 4, 8, 12)] == [2, 0, 1, 4]
    assert (picture(figure, 9) == viz.overlay_mask(images[1], targets[1])).all()
    assert (picture(figure, 10) == viz.overlay_mask(images[1], before[1])).all()
    assert (picture(figure, 11) == viz.overlay_mask(images[1], after[1])).all()
    assert legend(figure) == ["background", "dog"]
    assert_nothing_overlaps(figure)


def test_extremes_of_different_sizes_read_only_what_they_draw():
    sizes = [(20, 10), (12, 30), (16, 16), (9, 9)]
    targets = [torch.ones(size, dtype=torch.long) for size in sizes]
    targets[3][:] = 255  # no labelled pixel: no score
    targets[0][0] = 255
    after = [target.clamp_max(1) for target in targets]
    before = [torch.zeros(size, dtype=torch.long) for size in sizes]
    before[1][:, :15] = 1
    before[2][:] = 1
    after[2][:8] = 255  # a miss

    class Images(list):
        read: tuple[int, ...] = ()

        def __getitem__(self, index):
            self.read += (index,)
            return super().__getitem__(index)

    images = Images(torch.zeros(3, *size) for size in sizes)
    figure = viz.show_extremes(images, targets, before, after, titles=["a", "b", "c", "d"])
    assert titles(figure)[::4] == ["a", "c"]  # three scored images leave one at either end
    assert titles(figure)[3::4] == ["After, mIoU 100.0 (+100.0)", f"After, mIoU 50.0 ({MINUS}50.0)"]
    assert images.read == (0, 2)
    assert legend(figure) == ["class 0", "class 1", "ignored"]


def test_extremes_name_what_is_wrong():
    masks = make_masks([0.5, 0.6])
    images = torch.zeros(2, 3, 20, 10)
    with pytest.raises(ValueError, match="targets has 1 entries but images has 2: pass one per image"):
        viz.show_extremes(images, masks[:1], masks, masks)
    with pytest.raises(ValueError, match="titles has 3 entries but images has 2"):
        viz.show_extremes(images, masks, masks, masks, titles=list("abc"))
    with pytest.raises(ValueError, match="at least 2 with labelled pixels in targets, got 1"):
        viz.show_extremes(images[:1], masks[:1], masks[:1], masks[:1])
    with pytest.raises(ValueError, match=r"after\[0\] has size \(20, 9\), not \(20, 10\)"):
        viz.show_extremes(images, masks, masks, masks[:, :, :9])
    with pytest.raises(ValueError, match="count must be at least 1"):
        viz.show_extremes(images, masks, masks, masks, count=0)


# --------------------------------------------------------------------------------------------------
# Tau


def test_tau_draws_curves_bands_and_the_mark():
    taus = [0.4, 0.8, 1.0]
    values = {"default": [60.0, 62.0, 61.0], "paper": np.array([50.0, 52.0, np.nan])}
    figure = viz.show_tau(taus, values, errors={"default": [1.0, 2.0, 3.0]}, ylabel="IoU")
    (axes,) = figure.axes
    mark, *curves = axes.lines
    assert mark.get_xdata() == [0.8, 0.8]
    assert axes.texts[0].get_text() == "τ = 0.8"
    for curve, (name, wanted) in zip(curves, values.items(), strict=True):
        assert curve.get_label() == name
        assert curve.get_xdata().tolist() == taus
        assert np.array_equal(curve.get_ydata(), wanted, equal_nan=True)
    assert len({(curve.get_color(), curve.get_marker()) for curve in curves}) == 2
    (band,) = axes.collections
    corners = {tuple(corner) for corner in band.get_paths()[0].vertices.tolist()}
    assert {(0.4, 59.0), (0.4, 61.0), (0.8, 60.0), (0.8, 64.0), (1.0, 58.0), (1.0, 64.0)} <= corners
    assert to_hex(band.get_facecolor()[0]) == to_hex(curves[0].get_color())
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["default", "paper"]
    assert axes.get_ylabel() == "IoU"


def test_tau_of_one_curve_has_no_legend():
    figure = viz.show_tau(np.array([0.1, 0.2]), [1, 2], errors=[0.1, 0.1], mark=None)
    (axes,) = figure.axes
    assert axes.get_legend() is None
    assert len(axes.lines) == len(axes.collections) == 1
    assert not axes.texts


@pytest.mark.parametrize(
    ("arguments", "errors", "text"),
    [
        (([0.8, 0.4], [1, 2]), None, "taus must hold increasing numbers, got"),
        (([], []), None, "taus must hold increasing numbers"),
        (([[0.4]], [1]), None, "taus must hold a list of numbers, got an array of shape"),
        (([0.4, 0.8], [1]), None, "values must hold 2 numbers, one per tau"),
        (([0.4], {"a": [1, 2]}), None, r"values\['a'\] must hold 1 numbers"),
        (([0.4], {"a": [1]}), {"a": [1, 2]}, r"errors\['a'\] must hold 1 numbers"),
        (([0.4], {"a": [1]}), {"b": [1]}, r"errors holds 'b', values holds \['a'\]"),
        (([0.4], {"a": [1]}), [1], "errors holds ''"),
    ],
)
def test_tau_names_what_is_wrong(arguments, errors, text):
    with pytest.raises(ValueError, match=text):
        viz.show_tau(*arguments, errors=errors)


# --------------------------------------------------------------------------------------------------
# Figures in notebooks, and without matplotlib


def test_figures_show_themselves_without_pyplot():
    html = viz.show_tau([0.4], [1.0])._repr_html_()
    assert html.startswith(
        '<img alt="figure" style="width: 100%; max-width: 1050px" src="data:image/png;base64,iVBOR'
    )


def test_pyplot_is_never_imported():
    code = (
        "import sys, torch\n"
        "from dhr_refine import viz\n"
        "assert 'matplotlib' not in sys.modules\n"
        "viz.colour_mask(torch.zeros(2, 2).long())\n"
        "assert 'matplotlib' not in sys.modules\n"
        "figure = viz.show_tau([0.4], [1.0])\n"
        "figure._repr_html_()\n"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


def test_missing_matplotlib_is_one_line_with_the_fix(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for call in (
        lambda: viz.show_tau([0.4], [1.0]),
        lambda: viz.overlay_cam(torch.zeros(3, 4, 4), torch.zeros(2, 2)),
    ):
        with pytest.raises(ImportError, match=r'figures need matplotlib.*pip install "dhr_refine\[viz\]"'):
            call()
    monkeypatch.undo()
