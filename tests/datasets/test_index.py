"""Finding the files of images."""

from __future__ import annotations

import os
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dhr_refine.datasets.index import ARRAYS, IMAGES, MASKS, FileIndex
from dhr_refine.errors import UserError


def touch(folder, *names):
    for name in names:
        (folder / name).touch()
    return folder


def test_the_first_suffix_wins_and_a_missing_file_is_named(tmp_path):
    index = FileIndex(touch(tmp_path, "a.pt", "a.npy", "b.c.npy"), (".npy", ".pt"))
    assert index["a"] == tmp_path / "a.npy"
    assert index["b.c"] == tmp_path / "b.c.npy"
    assert "b" not in index
    with pytest.raises(UserError, match=r"has no file of image b: add b with one of \.npy, \.pt"):
        index["b"]
    assert FileIndex(tmp_path, (".pt", ".npy"))["a"] == tmp_path / "a.pt"
    assert index.duplicates == {"a": [tmp_path / "a.npy", tmp_path / "a.pt"]}


def test_suffixes_of_any_case_and_ids_with_dots_and_blanks(tmp_path):
    names = ("2007.000032.JPG", "patch[1 0 0 1].Png", "x.jpeg", "no", "y.txt", ".jpg", ".z.jpg", "w.jpg.part")
    index = FileIndex(touch(tmp_path, *names), IMAGES)
    assert index.keys() == ["2007.000032", "patch[1 0 0 1]", "x"]
    assert len(index) == 3
    assert index["2007.000032"].name == "2007.000032.JPG"
    assert FileIndex(tmp_path, (".JPG",)).keys() == ["2007.000032"]


def test_two_files_of_one_image_are_an_error_where_no_suffix_is_preferred(tmp_path):
    if (touch(tmp_path, "a.jpg") / "A.jpg").exists():
        pytest.skip("names of files have no case here")
    index = FileIndex(touch(tmp_path, "a.JPG", "a.png", "A.jpg", "b.png"), IMAGES)
    with pytest.raises(UserError, match=r"has two files of image a: remove .*a\.JPG or .*a\.jpg"):
        index["a"]
    assert index["A"].name == "A.jpg"
    assert {key: [path.name for path in paths] for key, paths in index.duplicates.items()} == {
        "a": ["a.JPG", "a.jpg", "a.png"]
    }


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("asked", ["NFC", "NFD"])
def test_letters_of_two_forms(tmp_path, form, asked):
    name, key = (unicodedata.normalize(form, "Straße é"), unicodedata.normalize(asked, "Straße é"))
    index = FileIndex(touch(tmp_path, f"{name}.png"), MASKS)
    assert key in index
    assert index[key].exists()
    assert index.keys() == [unicodedata.normalize("NFC", key)]


def test_both_forms_of_a_letter_in_one_folder(tmp_path):
    names = [unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD")]
    touch(tmp_path, *names)
    if len(list(tmp_path.iterdir())) < 2:
        pytest.skip("the disk normalises names")
    with pytest.raises(UserError, match="has two files of image é"):
        FileIndex(tmp_path, MASKS)["é"]


def test_links_and_folders(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    touch(tmp_path, "other.png")
    (images / "folder.png").mkdir()
    try:
        (images / "a.png").symlink_to(tmp_path / "other.png")
        (images / "broken.png").symlink_to(tmp_path / "nowhere.png")
        (images / "circle.png").symlink_to(images / "circle.png")
        (images / "to_folder.png").symlink_to(tmp_path)
        (tmp_path / "link").symlink_to(images)
    except OSError:
        pytest.skip("no links here")
    assert FileIndex(images, IMAGES).keys() == ["a"]
    assert FileIndex(tmp_path / "link", IMAGES).keys() == ["a"]


def test_several_folders_and_single_files(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    touch(tmp_path / "one", "a.jpg", "b.jpg")
    touch(tmp_path / "two", "b.jpg", "c.jpg")
    index = FileIndex([tmp_path / "one", tmp_path / "two"], IMAGES)
    assert index.keys() == ["a", "b", "c"]
    assert index["c"] == tmp_path / "two" / "c.jpg"
    with pytest.raises(UserError, match="has two files of image b"):
        index["b"]
    with pytest.raises(UserError, match=r"one \+ .*two has no file of image d"):
        index["d"]
    assert FileIndex(tmp_path / "one" / "a.jpg", IMAGES).keys() == ["a"]
    assert FileIndex(tmp_path / "one" / "a.jpg", ARRAYS).keys() == []


def test_what_comes_later_is_not_seen(tmp_path):
    index = FileIndex(tmp_path, IMAGES)
    touch(tmp_path, "a.jpg")
    assert len(index) == 0


def test_folders_that_are_none(tmp_path):
    with pytest.raises(UserError, match=r"none cannot be read as a folder \(No such file .*pass the folder"):
        FileIndex(tmp_path / "none", IMAGES)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.jpg")
        with pytest.raises(UserError, match=r"pipe\.jpg cannot be read as a folder \(Not a directory\)"):
            FileIndex(tmp_path / "pipe.jpg", IMAGES)
        assert FileIndex(tmp_path, IMAGES).keys() == []


@given(st.sets(st.text("aB.é1 [", min_size=1, max_size=6).filter(lambda name: name[0] != ".")))
def test_every_file_is_found_by_its_id(tmp_path_factory, names):
    folder = touch(tmp_path_factory.mktemp("files"), *(f"{name}.png" for name in names))
    if len(list(folder.iterdir())) < len(names):
        return  # names of files have no case here
    index = FileIndex(folder, MASKS)
    assert index.keys() == sorted(names)
    assert {index[name] for name in names} == set(folder.iterdir())
