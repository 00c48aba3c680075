"""Which images of a data set are worked on."""

from __future__ import annotations

import os
from pathlib import PurePosixPath
from unicodedata import normalize

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scene_folder import CLASSES, KEYS, write_png

from dhr_refine.datasets.index import IMAGES, FileIndex
from dhr_refine.datasets.items import read_list, select
from dhr_refine.errors import UserError
from dhr_refine.files.pictures import read_index_mask

pytest.importorskip("PIL.Image", reason="needs Pillow")


@pytest.mark.parametrize(("kind", "classes", "ignore"), [(np.uint8, 81, 255), (np.uint16, 300, 999)])
def test_index_pngs_of_many_classes(tmp_path, kind, classes, ignore):
    mask = np.array([[0, classes - 1, 3], [ignore, 0, 1]])
    write_png(tmp_path / "x.png", mask, kind)
    write_png(tmp_path / "y.png", np.zeros((2, 3)), kind)
    assert np.array_equal(read_index_mask(tmp_path / "x.png", classes, ignore), mask)
    files = FileIndex(tmp_path, IMAGES)
    (item,) = select("xy", files, files, classes=classes, ignore_index=ignore)
    assert item.tags == (0, 2, classes - 2)  # an image without a tag is left out


def test_selection(folder):
    images, targets = (FileIndex(folder / name, IMAGES) for name in ("images", "targets"))

    def keys(**options):
        items = select(reversed(KEYS), images, targets, classes=CLASSES, **options)
        return [item.key for item in items]

    assert keys() == list(KEYS)
    assert keys(min_classes=2) == ["a", "b", "d"]
    assert keys(min_classes=2, limit=2) == ["a", "b"]
    assert keys(min_classes=2, part="tune") == ["a", "d"]
    assert keys(min_classes=2, part="check") == ["b"]
    assert keys(min_classes=2, part="tune", limit=1) == ["a"]
    with pytest.raises(UserError, match="no image is left"):
        keys(min_classes=5)


def test_lists_of_other_codebases(tmp_path):
    """Ids alone, paths of images, pairs of image and mask, and an id with a dot in it."""
    path = tmp_path / "list.txt"
    path.write_text("2007_000032\n/JPEGImages/b.jpg /SegmentationClassAug/b.png\n\n  v1.2 \nc.JPEG\n")
    assert read_list(path) == ["2007_000032", "b", "v1.2", "c"]


@pytest.mark.parametrize(
    "text",
    [
        "a\nv1.2\nc d\n",
        "a\nv1.2\na\nc d",
        "# images\n\na # the first\n  v1.2 \n\n#b\nc\n",
        "a -1\nv1.2  1\nc 1\n",
        "JPEGImages/a.jpg SegmentationClass/a.png\n/x/v1.2.JPEG x.png\nC:\\x\\c.Png y\n",
        "a 3 14\nv1.2 0\nc\n",
        "a.jpg 1 0 1\nv1.2.jpg 0 0 0\nc.jpg 1 1 1\n",
        "id\na\nv1.2\nc\n",
        "a,1 2\nv1.2,\nc,0\n",
        "id,tags\na,1 2\nv1.2,\nc,0\n",
        "Image;cat;dog\nx/a.jpg;1;0\nx/v1.2.jpg;0;0\nc.jpg;1;1\n",
        ",split,file_name\n0,train,x/a.jpg\n1,val,x/v1.2.jpg\n2,val,c.jpg\n",
        '"a","1, 2"\n"v1.2",""\n c , 0\n',
    ],
)
def test_lists_of_every_form(tmp_path, text):
    """What stands beside a name, quotes, titles, comments and blank lines do not count."""
    path = tmp_path / "list.txt"
    path.write_text(text)
    assert read_list(path) == ["a", "v1.2", "c"]


def test_names_of_lists_with_blanks_and_commas(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("one[1 0 0 1].png\ntwo[1, 0, 0].png 1 0 0\nthree[1\n")
    assert read_list(path) == ["one[1 0 0 1]", "two[1, 0, 0]", "three[1"]
    path.write_text('one[1, 0].png,x\n"two, ""2""",y\n"three"4,\n')
    assert read_list(path) == ["one[1, 0]", 'two, "2"', '"three"4']
    path.write_text('"x/a;b,c" 1,2;3\nd,e 0\n')
    assert read_list(path) == ["a;b,c", "d,e"]
    path.write_text("id\n")
    assert read_list(path) == []
    path.write_text("image\nname\n")
    assert read_list(path) == ["image", "name"]
    path.write_text("split,id\ntrain,a\ntrain\n")
    with pytest.raises(UserError, match="has the image id ''"):
        read_list(path)


def test_texts_that_take_long_to_split(tmp_path):
    """Brackets and quotes that never end are read in one go."""
    path = tmp_path / "list.txt"
    for line in ("[" * 10**6, "[a " * 10**6, '"a' * 10**6, "b," + '"' * 10**6, "[]" * 10**6 + ","):
        path.write_text(f"a,b\n{line}\n")
        assert len(read_list(path)) == 2


@pytest.mark.parametrize("kind", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lists_of_windows(tmp_path, kind, end):
    """Ends of lines, and the first bytes that its editors and its shell write."""
    path = tmp_path / "list.txt"
    bom = "\ufeff" if kind[-2:] in ("le", "be") else ""
    path.write_bytes((bom + end.join(["2007_000032", "JPEGImages/b.jpg x.png", "", "straße"])).encode(kind))
    assert read_list(path) == ["2007_000032", "b", "straße"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x89PNG\r\n", r"is no text \(.*\): pass a list with an image id per line"),
        (b"\xff\xfea", "is no text"),
        (b"a\0b\n", r"is no text \(it holds null characters\): pass a list"),
        ("a\nb\n".encode("utf-16-le"), "is no text"),
        (b"a\n..\n", r"has the image id '\.\.': an id is the name of a file, without folders and suffix"),
        (b"a\n/\n", "has the image id ''"),
        (b"a\n.\n", "has the image id ''"),
        (b"a\n\x1b[2Jb\n", r"has the image id '\\x1b\[2Jb'"),
    ],
)
def test_lists_that_are_none(tmp_path, content, said):
    path = tmp_path / "list.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"list\.txt {said}"):
        read_list(path)


def test_lists_stay_in_the_data_set(tmp_path):
    """Of a path the file's name counts, wherever it leads."""
    path = tmp_path / "list.txt"
    path.write_text("../../b.jpg\n/etc/passwd\n../c\n")
    assert read_list(path) == ["b", "passwd", "c"]


def test_lists_that_are_no_files(tmp_path):
    (tmp_path / "empty").touch()
    assert read_list(tmp_path / "empty") == []
    with pytest.raises(UserError, match=r"cannot be read \(Is a directory\): pass a list"):
        read_list(tmp_path)
    with pytest.raises(UserError, match=r"none cannot be read \(No such file or directory\): pass a list"):
        read_list(tmp_path / "none")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(UserError, match=r"pipe is a pipe, socket or device: .*: pass a list"):
            read_list(tmp_path / "pipe")


def test_lists_of_any_size(tmp_path):
    with (tmp_path / "list").open("wb") as file:
        file.truncate(2**28 + 1)  # takes no room
    with pytest.raises(UserError, match="list has more than 268435456 bytes: pass a list"):
        read_list(tmp_path / "list")


IDS = st.text(min_size=1, max_size=8).filter(lambda key: key.isprintable() and not set(key) & set('/\\"'))


@given(st.lists(IDS), st.sampled_from(["\n", "\r\n", "\n\n# x\n"]), st.sampled_from(["", ".jpg", ".PNG"]))
def test_quoted_names_come_back(tmp_path_factory, keys, end, suffix):
    keys = [normalize("NFC", key) for key in keys if f"{key}{suffix}" not in (".", "..")]
    path = tmp_path_factory.mktemp("lists") / "list.txt"
    path.write_bytes("".join(f'"x/{key}{suffix}" 1 0{end}' for key in keys).encode())
    known = [PurePosixPath(key + suffix) for key in keys]
    names = [file.stem if file.suffix.lower() in IMAGES else file.name for file in known]
    assert read_list(path) == [*dict.fromkeys(names)]
