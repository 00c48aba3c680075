"""The tag files of each codebase, as it writes them: docs/tags.md, "Tags of each codebase"."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from places import ROOT

from dhr_refine.cli import main
from dhr_refine.datasets.classes import class_set
from dhr_refine.datasets.tags import read_tags

WANTED = {"2007_000032": (0, 14), "2008_000008": (12, 14), "2011_003276": (19,)}
NAMES = {0: "aeroplane", 12: "horse", 14: "person", 19: "tvmonitor"}


def rows(classes: int = 20) -> dict[str, np.ndarray]:
    hot = {key: np.zeros(classes, np.float32) for key in WANTED}
    for key, tags in WANTED.items():
        hot[key][list(tags)] = 1
    return hot


def one_hot(folder: Path) -> Path:
    np.save(folder / "cls_labels_onehot.npy", rows())  # type: ignore[arg-type]
    return folder / "cls_labels_onehot.npy"


def by_text(folder: Path) -> Path:
    np.save(folder / "cls_labels.npy", rows())  # type: ignore[arg-type]
    return folder / "cls_labels.npy"


def by_number(folder: Path) -> Path:
    numbered = {np.int32(key.replace("_", "")): row for key, row in rows().items()}
    np.save(folder / "cls_labels.npy", numbered)  # type: ignore[arg-type]
    return folder / "cls_labels.npy"


def annotations(folder: Path) -> Path:
    (folder / "Annotations").mkdir()
    for key, tags in WANTED.items():
        # An object for each instance, in the order of the annotators: the largest class first here.
        objects = "".join(
            f"<object><name>{NAMES[tag]}</name><bndbox><xmin>1</xmin></bndbox></object>"
            for tag in (*reversed(tags), tags[-1])
        )
        (folder / "Annotations" / f"{key}.xml").write_text(
            f"<annotation><size><width>5</width><height>4</height></size>{objects}</annotation>"
        )
    return folder / "Annotations"


def masks(folder: Path) -> Path:
    (folder / "SegmentationClassAug").mkdir()
    for key, tags in WANTED.items():
        mask = np.zeros((4, 5), np.uint8)
        mask[0, : len(tags)] = [tag + 1 for tag in tags]
        mask[3] = 255
        Image.fromarray(mask).save(folder / "SegmentationClassAug" / f"{key}.png")
    return folder / "SegmentationClassAug"


VOC = {
    "ToCo, AFA, DuPL, SeCo, MoRe, CoSA, ExCEL, DiCLIP": one_hot,
    "SEAM, MCTformer, WeakTr, S2C": by_text,
    "IRN, AdvCAM": by_number,
    "CLIP-ES, POT, RSEPM, DHR": annotations,
    "WeCLIP, WeCLIP+, 1-stage-wseg": masks,
}


@pytest.mark.parametrize("codebases", VOC)
def test_tags_of_voc(tmp_path, codebases):
    source = VOC[codebases](tmp_path)
    assert read_tags(source, classes=class_set("voc")).table == WANTED
    out = tmp_path / "tags.csv"
    assert main(["tags", str(source), "--classes", "voc", "--out", str(out)]) in (0, None)
    assert read_tags(out).table == WANTED
    # A list of pairs of files, as PSA and its heirs have it, chooses and orders.
    lines = [f"/JPEGImages/{key}.jpg /SegmentationClassAug/{key}.png" for key in list(WANTED)[:2]]
    listed = tmp_path / "train_aug.txt"
    listed.write_text("\n".join(lines))
    some = tmp_path / "some.csv"
    assert main(["tags", str(source), "--list", str(listed), "--classes", "voc", "--out", str(some)]) in (
        0,
        None,
    )
    assert read_tags(some).table == {key: WANTED[key] for key in list(WANTED)[:2]}


def test_ids_of_coco_with_gaps(tmp_path):
    """WeakTr keeps COCO's 90 numbers; 84 is "book", the last is 90."""
    row = np.zeros(90, np.float32)
    row[[83, 89]] = 1
    np.save(tmp_path / "cls_labels.npy", {"COCO_train2014_000000391895": row})  # type: ignore[arg-type]
    tags = read_tags(tmp_path / "cls_labels.npy", classes=class_set(91))
    assert tags.table == {"COCO_train2014_000000391895": (83, 89)}


@pytest.mark.parametrize(
    ("data", "form"),
    [("BCSS", "TCGA-A1-A0SK-DX1_xmin45749[{}{}{}{}].png"), ("LUAD", "436647-100-[{} {} {} {}].png")],
)
def test_tags_of_histology(tmp_path, data, form):
    wanted = {}
    for number, tags in enumerate([(1, 0, 1, 0), (0, 0, 0, 1), (1, 1, 1, 1)]):
        path = tmp_path / "img" / f"{number}{form.format(*tags)}"
        path.parent.mkdir(exist_ok=True)
        path.touch()
        wanted[path.stem] = tuple(place for place, tag in enumerate(tags) if tag)
    tags = read_tags(tmp_path / "img")
    assert (tags.table, tags.classes) == (wanted, 4)
    out = tmp_path / "tags.csv"
    assert main(["tags", str(tmp_path / "img"), "--out", str(out)]) in (0, None)
    assert read_tags(out).table == wanted
    assert data in (ROOT / "docs" / "tags.md").read_text()


def test_the_page_has_every_codebase():
    table = (ROOT / "docs" / "tags.md").read_text().partition("## Tags of each codebase")[2]
    for codebases in VOC:
        assert f"| {codebases} |" in table
    recipes = (ROOT / "docs" / "codebases.md").read_text()
    for section in (
        "ToCo",
        "SeCo",
        "MoRe",
        "CoSA",
        "ExCEL",
        "DiCLIP",
        "POT",
        "CLIP-ES",
        "S2C",
        "TPRO",
        "PBIP",
    ):
        assert section in table
        assert section in recipes
