"""Pages of masks: which images, what is said of them, and that nothing in a name can break out."""

from __future__ import annotations

import os
import re

import numpy as np
import pytest

pytest.importorskip("PIL.Image", reason="needs Pillow")

from mask_folders import random_masks, slow_scores, write_masks
from page_reader import PageReader, pixels_of
from PIL import Image
from places import shared_folder

from dhr_refine.datasets.classes import ClassSet
from dhr_refine.errors import UsageError, UserError
from dhr_refine.files.regular import show_name
from dhr_refine.folders import show_folder
from dhr_refine.folders.review import ranking
from dhr_refine.viz import overlay_mask

CLASSES = 5


@pytest.fixture(scope="module")
def held():
    return random_masks(7, classes=CLASSES, images=9)


@pytest.fixture
def folders(held, tmp_path):
    """Folders of truth, base, masks and images of random pixels."""
    paths = {
        name: write_masks(tmp_path / name, masks) for name, masks in zip(("targets", "base", "masks"), held)
    }
    return paths | {"images": write_images(tmp_path / "images", held[0])}


def write_images(folder, masks):
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for key, mask in masks.items():
        pixels = rng.integers(0, 256, (*mask.shape, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{key}.png")
    return folder


def read(folders, out, **options):
    paths = {"images": folders["images"], "masks": folders["masks"]}
    shown = show_folder(**paths, out=out, **{"classes": CLASSES, **options})
    text = shown.path.read_text(encoding="utf-8")
    assert shown.size == shown.path.stat().st_size
    page = PageReader(text)
    assert page.titles == [show_name(key) for key in shown.ids]
    return shown, page


def both(folders):
    return {"base": folders["base"], "targets": folders["targets"]}


def test_the_worst_images_come_first(folders, held, tmp_path):
    truths, _, masks = held
    mious = {
        key: slow_scores({key: masks[key]}, {key: truths[key]}, CLASSES)["per_image_miou"] for key in truths
    }
    shown, page = read(folders, tmp_path / "a.html", targets=folders["targets"], count=4)
    assert list(shown.ids) == sorted(mious, key=mious.get)[:4]
    assert "4 of 9 images, the worst by mean IoU." in page.texts
    text = "".join(page.cards[0]["texts"])
    assert f"mIoU {100 * mious[shown.ids[0]]:.1f} %" in text
    assert "changed" not in text


def test_those_that_changed_most_come_first(folders, held, tmp_path):
    _, bases, masks = held
    shares = {key: float((masks[key] != bases[key]).mean()) for key in masks}
    shown, page = read(folders, tmp_path / "a.html", base=folders["base"], count=3)
    assert list(shown.ids) == sorted(shares, key=shares.get, reverse=True)[:3]
    assert f"{100 * shares[shown.ids[0]]:.1f} % of the pixels changed" in "".join(page.cards[0]["texts"])
    assert "mIoU" not in "".join(page.texts)


def test_without_anything_to_compare_with_the_first_are_shown(folders, held, tmp_path):
    shown, page = read(folders, tmp_path / "a.html", count=5)
    assert list(shown.ids) == list(held[2])[:5]
    assert [image["alt"].split(":")[0] for image in page.cards[0]["images"]] == [shown.ids[0]] * 2
    assert "IoU, %" not in page.texts


@pytest.mark.parametrize(("order", "first"), [("worst", "worst"), ("changed", "changed"), ("listed", "a")])
def test_the_order_can_be_chosen(order, first, tmp_path):
    truth = np.ones((8, 8), int)
    half = np.where(np.arange(8) < 4, 1, 2) * truth
    targets = dict.fromkeys(("a", "changed", "worst"), truth)
    masks = {"a": truth, "changed": half, "worst": np.where(np.arange(8) < 6, 2, 1) * truth}
    base = {"a": truth, "changed": 3 - half, "worst": masks["worst"]}
    folders = {
        name: write_masks(tmp_path / name, part)
        for name, part in (("targets", targets), ("base", base), ("masks", masks))
    }
    folders["images"] = write_images(tmp_path / "images", masks)
    shown, _ = read(folders, tmp_path / "a.html", order=order, count=1, **both(folders))
    assert shown.ids == (first,)


def test_images_without_a_labelled_pixel_are_not_the_worst(tmp_path):
    nothing, ones = np.full((4, 4), 255), np.ones((4, 4), int)
    folders = {
        "targets": write_masks(tmp_path / "t", {"a": nothing, "b": ones}),
        "masks": write_masks(tmp_path / "m", {"a": ones, "b": ones}),
        "images": write_images(tmp_path / "i", {"a": ones, "b": ones}),
    }
    shown, page = read(folders, tmp_path / "a.html", targets=folders["targets"])
    assert shown.ids == ("b", "a")
    assert "nan" not in "".join(page.texts)


def test_only_what_is_shown_is_read_twice(folders, tmp_path, monkeypatch):
    asked = []
    read_masks = ranking.MaskFolders.read

    def note(self, key, stages=None):
        asked.append((key, stages))
        return read_masks(self, key, stages)

    monkeypatch.setattr(ranking.MaskFolders, "read", note)
    shown, _ = read(folders, tmp_path / "a.html", **both(folders), count=2)
    assert [stages for _, stages in asked] == [("masks", "base")] * 9 + [None] * 2
    assert [key for key, _ in asked[9:]] == list(shown.ids)


def cells(card):
    """Texts of a card's table by class."""
    texts = [text for text in card["texts"] if text.strip()]
    start = texts.index("class")
    return " ".join(" ".join(texts[start:]).split())


def test_the_card_tells_what_became_of_each_class(tmp_path):
    size = np.zeros((10, 10), int)
    rows = np.arange(10)[:, None] + size
    truth = np.select([rows < 2, rows < 5, rows == 9], [1, 2, 255], 0)
    base = np.select([rows < 2, rows < 4, rows == 5], [3, 1, 4], 0)
    masks = np.select([rows < 2, rows < 5, rows == 5], [1, 2, 6], 0)
    folders = {
        name: write_masks(tmp_path / name, {"photo": mask})
        for name, mask in (("targets", truth), ("base", base), ("masks", masks))
    }
    folders["images"] = write_images(tmp_path / "images", {"photo": size})
    _, page = read(folders, tmp_path / "a.html", **both(folders), classes=7)
    (card,) = page.cards
    table = cells(card)
    # Row 1: truth rows 0-1, base rows 2-3, refined rows 0-1.
    assert re.search(r"\b1 20\.0 → 20\.0 0\.0 → 100\.0 \(\+100\.0\)", table)
    assert re.search(r"\b2 \(recovered\) 0\.0 → 30\.0 0\.0 → 100\.0", table)
    assert re.search(r"\b3 \(lost, not in the ground truth\) 20\.0 → 0\.0 -", table)
    assert re.search(r"\b4 \(lost, not in the ground truth\) 10\.0 → 0\.0 -", table)
    assert re.search(r"\b6 \(recovered, not in the ground truth\) 0\.0 → 10\.0 -", table)
    head = "".join(card["texts"])
    assert "recovered: 2, 6" in head
    assert "lost: 3, 4" in head
    # Background: 4 labelled rows (5 to 8); the base has rows 4, 6 to 8, the refined mask 6 to 8.
    assert re.search(r"background 50\.0 → 40\.0 60\.0 → 75\.0 \(\+15\.0\)", table)
    assert [image["alt"].split(": ")[1].split(",")[0] for image in card["images"]] == [
        "the image",
        "base",
        "refined",
        "ground truth",
    ]
    assert card["images"][3]["alt"] == "photo: ground truth, with background, 1, 2"


def test_a_class_of_the_truth_that_no_mask_has_is_missing(tmp_path):
    ones, twos = np.ones((4, 4), int), np.full((4, 4), 2)
    folders = {
        "targets": write_masks(tmp_path / "t", {"a": ones}),
        "masks": write_masks(tmp_path / "m", {"a": twos}),
        "images": write_images(tmp_path / "i", {"a": ones}),
    }
    _, page = read(folders, tmp_path / "a.html", targets=folders["targets"])
    assert "missing: 1" in page.texts
    assert re.search(r"2 \(not in the ground truth\) 100\.0 -", cells(page.cards[0]))


@pytest.mark.parametrize("background", ["first", "last", "none"])
def test_pictures_are_overlays_in_the_colours_of_the_legend(background, tmp_path):
    mask = np.kron([[0, 1], [2, 3]], np.ones((40, 40), int))
    mask[:, 62:] = 255
    folders = {"masks": write_masks(tmp_path / "m", {"a": mask})}
    folders["images"] = write_images(tmp_path / "i", {"a": mask})
    Image.new("RGB", (80, 80), (120, 60, 200)).save(tmp_path / "i" / "a.png")
    _, page = read(folders, tmp_path / "a.html", classes=4, background=background)
    _, image = page.cards[0]["images"]
    labels = {"first": mask, "last": (mask + 1) % 4, "none": mask + 1}[background]
    labels = np.where(mask == 255, 255, labels)
    wanted = overlay_mask(np.full((80, 80, 3), (120, 60, 200), np.uint8), labels).astype(int)
    found = pixels_of(image)
    for y, x in ((20, 20), (20, 50), (60, 20), (60, 50)):
        assert np.abs(found[y, x] - wanted[y, x]).max() < 12, (y, x)
    assert np.abs(found[:, 62:] - wanted[:, 62:]).mean() < 15  # hatched
    colours = {attrs["style"] for tag, attrs in page.tags if tag == "span" and "style" in attrs}
    assert len(colours) == 4
    assert ("background:#000000" in colours) == (background != "none")
    assert "no class" in page.texts


def test_pictures_are_small_whatever_the_photos_are(tmp_path):
    mask = np.kron(np.eye(3, dtype=int), np.ones((300, 700), int))
    folders = {"masks": write_masks(tmp_path / "m", {"a": mask})}
    folders["images"] = write_images(tmp_path / "i", {"a": mask})
    shown, page = read(folders, tmp_path / "a.html")
    for image in page.cards[0]["images"]:
        assert (image["width"], image["height"]) == ("360", "154")
        assert pixels_of(image).shape == (154, 360, 3)
    assert shown.size < 200_000


def test_names_cannot_break_out(tmp_path):
    keys = ["<script>alert(1)<", "a&amp;b", "it's \"quoted\" 'x' onload=1", "äöü 漢字 \u202e", "two\nlines"]
    mask = np.ones((5, 6), int)
    masks = dict.fromkeys(keys, mask)
    root = tmp_path / "<b>&\"'"
    root.mkdir()
    folders = {"masks": write_masks(root / "m", masks), "images": write_images(root / "<i>", masks)}
    classes = ClassSet("</style><script>x", ("a & b", '"></span><img src="http://x/y">'), "first")
    _, page = read(folders, tmp_path / "a.html", classes=classes, ignore_index=-1)
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert {tag for tag, _ in page.tags} <= {
        *("html", "head", "meta", "title", "style", "body", "header", "h1", "p", "dl", "dt", "dd", "ul"),
        *("li", "span", "main", "article", "h2", "div", "figure", "img", "figcaption", "table", "thead"),
        *("tbody", "tr", "th", "td", "footer"),
    }
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert set(keys[:3]) <= set(page.titles)
    assert "two\\nlines" in page.titles
    assert '"></span><img src="http://x/y">' in page.texts
    assert all(address.startswith("data:image/jpeg;base64,") for address in page.addresses())
    assert "@import" not in text
    assert "url(" not in text


def test_the_page_needs_nothing_else(folders, tmp_path):
    _, page = read(folders, tmp_path / "a.html", **both(folders))
    assert all(address.startswith("data:image/jpeg;base64,") for address in page.addresses())
    (policy,) = [attrs["content"] for tag, attrs in page.tags if "http-equiv" in attrs]
    assert policy.startswith("default-src 'none'; img-src data:")
    assert all(attrs["alt"] and attrs["width"] for tag, attrs in page.tags if tag == "img")
    assert dict(page.tags[0][1]) == {"lang": "en"}
    texts = "".join(page.texts)
    assert str(folders["masks"]) in texts
    assert "5 labels" in texts
    assert "dhr_refine 0." in texts
    assert not list(tmp_path.glob(".*part"))


def test_an_image_that_cannot_be_shown_is_named_and_the_rest_is(folders, held, tmp_path):
    keys = list(held[0])
    (folders["base"] / f"{keys[0]}.png").write_bytes(b"none")
    (folders["masks"] / f"{keys[1]}.png").unlink()
    (folders["images"] / f"{keys[2]}.png").write_bytes(b"none")
    Image.new("RGB", (3, 3)).save(folders["images"] / f"{keys[3]}.png")
    (folders["targets"] / f"{keys[4]}.png").unlink()
    shown, page = read(folders, tmp_path / "a.html", **both(folders), ids=keys)
    found = {failure.key: (failure.stage, failure.message) for failure in shown.failures}
    assert {key: stage for key, (stage, _) in found.items()} == dict(
        zip(keys, ("base", "masks", "images", "images", "targets"))
    )
    assert "3 x 3 pixels, but its mask" in found[keys[3]][1]
    assert set(shown.ids) == set(keys[5:])
    assert f"Left out: {keys[0]} (base): {found[keys[0]][1]}" in page.texts
    assert str(shown) == f"{tmp_path / 'a.html'}: 4 of 9 images, 5 left out, {shown.size / 1e6:.1f} MB"


def test_a_long_list_of_failures_ends(tmp_path):
    masks = {f"{number:03d}": np.zeros((2, 2)) for number in range(30)}
    folders = {"masks": write_masks(tmp_path / "m", masks), "images": write_images(tmp_path / "i", masks)}
    for path in folders["masks"].iterdir():
        path.write_bytes(b"none")
    shown, page = read(folders, tmp_path / "a.html", count=25)
    assert (len(shown.ids), len(shown.failures)) == (0, 25)
    assert "Left out: 5 more." in page.texts


def test_errors(folders, tmp_path):
    paths = (folders["images"], folders["masks"])
    out = tmp_path / "a.html"
    with pytest.raises(ValueError, match="order 'worst' needs targets: pass its folder"):
        show_folder(*paths, out, order="worst", base=folders["base"])
    with pytest.raises(ValueError, match="order 'changed' needs base: pass its folder"):
        show_folder(*paths, out, order="changed", targets=folders["targets"])
    with pytest.raises(ValueError, match="order must be one of 'worst', 'changed', 'listed'"):
        show_folder(*paths, out, order="best")
    with pytest.raises(ValueError, match="count must be"):
        show_folder(*paths, out, count=0)
    with pytest.raises(ValueError, match=r"count must lie in \[1, 500\], got 501"):
        show_folder(*paths, out, count=501)
    with pytest.raises(ValueError, match="classes has 255 labels, but there are colours for 254"):
        show_folder(*paths, out, classes=255)
    with pytest.raises(ValueError, match="ignore_index 1 is one of the 5 classes"):
        show_folder(*paths, out, classes=5, ignore_index=1)
    with pytest.raises(TypeError, match="out must be a path"):
        show_folder(*paths, None)
    with pytest.raises(UsageError, match="nowhere"):
        show_folder(tmp_path / "nowhere", folders["masks"], out)
    with pytest.raises(UsageError, match="no image to work on"):
        show_folder(write_images(tmp_path / "other", {"x": np.zeros((2, 2))}), folders["masks"], out)
    with pytest.raises(UserError, match=r"nowhere/a\.html cannot be written"):
        show_folder(*paths, tmp_path / "nowhere" / "a.html", classes=CLASSES)
    assert not out.exists()


@pytest.mark.skipif(os.name == "nt", reason="names of files are text there")
def test_names_that_are_no_text_are_shown(tmp_path):
    mask = np.ones((4, 4), int)
    key = os.fsdecode(b"bad\xff")
    folders = {"masks": write_masks(tmp_path / "m", {"a": mask}), "images": tmp_path / "i"}
    write_images(tmp_path / "i", {"a": mask})
    for folder in folders.values():
        os.rename(os.fsencode(folder / "a.png"), os.fsencode(folder / f"{key}.png"))
    shown = show_folder(folders["images"], folders["masks"], tmp_path / "a.html")
    assert shown.ids == (key,)
    assert PageReader(shown.path.read_text(encoding="utf-8")).titles == ["bad\\udcff"]


def test_voc_images(tmp_path):
    root = shared_folder() / "data" / "voc12"
    if not (root / "strong_masks").is_dir():
        pytest.skip("needs the VOC images that are kept outside the repository")
    masks = root / "strong_masks"
    shown = show_folder(
        root, masks / "mnv2", tmp_path / "a.html", base=masks / "mnv2_half", targets=root, count=24
    )
    page = PageReader(shown.path.read_text(encoding="utf-8"))
    assert len(page.cards) == 24
    assert all(len(card["images"]) == 4 for card in page.cards)
    assert 1e6 < shown.size < 3.2e6
