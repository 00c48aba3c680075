"""CAM files of the common codebases, written as these write them."""

from __future__ import annotations

import re
from collections import OrderedDict

import numpy as np
import pytest
import torch
from written import MAPS, check, save

from dhr_refine import refine_mask
from dhr_refine.files import read_cams

# name: (file, content, options, foreground keys, foreground maps)
HALF = MAPS.astype(np.float16)
TENSOR = torch.from_numpy(MAPS)
BRAIN = TENSOR.bfloat16()
DIALECTS = {
    "IRN": (
        "a.npy",
        {"keys": torch.tensor([2, 7, 14]), "cam": torch.rand(3, 2, 2), "high_res": MAPS},
        {},
        [2, 7, 14],
        MAPS,
    ),
    "IRN, aeroplane": (
        "a.npy",
        {"keys": torch.tensor([0, 7, 14]), "cam": torch.from_numpy(MAPS), "high_res": np.ones((3, 9, 9))},
        {"background": "none", "entry": "cam"},
        [0, 7, 14],
        MAPS,
    ),
    "ToCo": ("a.npy", {"keys": np.array([1, 3, 4]), "high_res": MAPS}, {}, [1, 3, 4], MAPS),
    "PuzzleCAM": (
        "a.npy",
        {"keys": np.array([0, 1, 8, 15]), "cam": torch.rand(3, 2, 2), "hr_cam": MAPS},
        {},
        [0, 7, 14],
        MAPS,
    ),
    "PuzzleCAM, told": (
        "a.npy",
        {"keys": np.array([0, 1, 8, 15]), "hr_cam": MAPS},
        {"background": "first"},
        [0, 7, 14],
        MAPS,
    ),
    "SEAM": ("a.npy", {14: MAPS[0], 2: MAPS[1], 7: MAPS[2]}, {}, [2, 7, 14], MAPS[[1, 2, 0]]),
    "MCTformer": ("a.npy", {0: MAPS[0], 9: MAPS[1]}, {"background": "none"}, [0, 9], MAPS[:2]),
    "SEAM, CRF": ("a.npy", {0: MAPS[0], 1: MAPS[1], 15: MAPS[2]}, {"background": "first"}, [0, 14], MAPS[1:]),
    "NumPy keys": ("a.npy", {np.int64(3): MAPS[0], np.int64(9): MAPS[1]}, {}, [3, 9], MAPS[:2]),
    "CLIP-ES": ("a.npy", {"keys": np.array([3, 5, 8]), "attn_highres": HALF}, {}, [3, 5, 8], HALF),
    "POT": (
        "a.npy",
        {"keys": np.array([0, 3, 5]), "cam": torch.rand(3, 2, 2), "high_res": HALF},
        {"background": "first"},
        [2, 4],
        HALF[1:],
    ),
    "WeakTr": (
        "a.npy",
        {"keys": np.array([0, 3, 5]), "prob": MAPS},
        {"background": "first"},
        [2, 4],
        MAPS[1:],
    ),
    "RSEPM": (
        "a.pkl",
        {"keys": np.array([0, 12, 20]), "seed": MAPS},
        {"background": "first"},
        [11, 19],
        MAPS[1:],
    ),
    "DHR": ("a.pt", {"keys": torch.tensor([2, 4, 6]), "cam": torch.from_numpy(HALF)}, {}, [2, 4, 6], HALF),
    "array": ("a.npy", MAPS, {}, [0, 1, 2], MAPS),
    "array with background": ("a.npy", MAPS, {"background": "first"}, [0, 1], MAPS[1:]),
    "array of a batch": ("a.npy", MAPS[None], {"background": "none"}, [0, 1, 2], MAPS),
    "other byte order": ("a.npy", MAPS.astype(">f8"), {}, [0, 1, 2], MAPS),
    "column order": ("a.npy", np.asfortranarray(MAPS), {}, [0, 1, 2], MAPS),
    "npz": ("a.npz", {"keys": np.array([5, 2, 9]), "prob": HALF}, {}, [2, 5, 9], HALF[[1, 0, 2]]),
    "npz, one array": ("a.npz", {"anything": MAPS}, {}, [0, 1, 2], MAPS),
    "npz, dictionary": ("a.npz", {"cam_dict": {3: MAPS[0], 4: MAPS[1]}}, {}, [3, 4], MAPS[:2]),
    "tensor": (
        "a.pt",
        torch.from_numpy(MAPS).bfloat16(),
        {},
        [0, 1, 2],
        torch.from_numpy(MAPS).bfloat16().float(),
    ),
    "parameter": ("a.pkl", torch.nn.Parameter(TENSOR), {}, [0, 1, 2], MAPS),
    "part of a tensor": (
        "a.pkl",
        torch.from_numpy(MAPS)[1:, ::2].mT,
        {},
        [0, 1],
        MAPS[1:, ::2].transpose(0, 2, 1),
    ),
    "list of maps": (
        "a.pkl",
        {"keys": [4, 6], "cams": [MAPS[0], TENSOR[1]]},
        {},
        [4, 6],
        MAPS[:2],
    ),
    "ordered": ("a.pkl", OrderedDict([(6, MAPS[0]), (4, MAPS[1])]), {}, [4, 6], MAPS[[1, 0]]),
    "NumPy scalars": (
        "a.pkl",
        {"keys": [np.int32(4)], "cam": MAPS[:1], "t": np.ones(1)[0]},
        {},
        [4],
        MAPS[:1],
    ),
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_dialects(tmp_path, dialect):
    name, content, options, keys, maps = DIALECTS[dialect]
    check(read_cams(save(tmp_path, name, content), **options), maps, keys)


def test_suffix_does_not_matter(tmp_path):
    path = save(tmp_path, "a.npy", {"keys": np.array([3, 4, 5]), "cam": MAPS}).rename(tmp_path / "a.txt")
    check(read_cams(str(path)), MAPS, [3, 4, 5])


@pytest.mark.parametrize("content", [{}, {"keys": np.zeros(0, int), "high_res": np.zeros((0, 5, 7))}])
def test_image_without_tags(tmp_path, content):
    for background in (None, "first", "none"):
        result = read_cams(save(tmp_path, "a.npy", content), background=background)
        assert result.keys.tolist() == []
        assert result.cams.shape[0] == 0


def test_result_is_a_writable_copy(tmp_path):
    path = save(tmp_path, "a.npy", MAPS)
    read_cams(path).cams.zero_()
    check(read_cams(path), MAPS, [0, 1, 2])


@pytest.mark.parametrize("keys", [[4, 1], [0, 1], [1, 0], [1, 3]])
def test_result_drops_into_refine_mask(tmp_path, keys):
    truth = torch.zeros(16, 16, dtype=torch.long)
    truth[2:8, 2:8], truth[9:15, 9:15] = keys[0] + 1, keys[1] + 1
    maps = np.stack([(truth == key + 1).numpy() for key in keys]).astype(np.float16)
    path = save(tmp_path, "a.npy", {"keys": np.array(keys), "high_res": maps})
    cams, labels = read_cams(path, background="none")
    features = torch.nn.functional.one_hot(truth, 6).permute(2, 0, 1).float()
    base = torch.where(truth == keys[1] + 1, 0, truth)
    refined = refine_mask(cams, base, features, features, labels=labels.tolist(), boundary=None)
    assert torch.equal(refined, truth)


@pytest.mark.parametrize(
    ("name", "content", "options", "error", "text"),
    [
        ("a.npy", {0: MAPS[0], 3: MAPS[1]}, {}, ValueError, r"keys \[0, 3\], where 0 may be the background"),
        ("a.npy", {"keys": [0, 3], "cam": MAPS[:2]}, {}, ValueError, "pass background='first' if 0 is"),
        (
            "a.npy",
            {4: MAPS[0], 3: MAPS[1]},
            {"background": "first"},
            ValueError,
            "without 0, but background",
        ),
        ("a.npy", {"keys": [1, 3], "cam": MAPS}, {}, ValueError, r"2 keys \[1, 3\] but 3 maps"),
        ("a.npy", {"keys": [0, 1, 2, 3], "cam": MAPS}, {"background": "none"}, ValueError, "4 keys"),
        ("a.npy", {"keys": [1, 2, 3, 4], "cam": MAPS}, {}, ValueError, "4 keys"),
        ("a.npy", {"keys": [3, 3, 4], "cam": MAPS}, {}, ValueError, "each class once"),
        ("a.npy", {"keys": [-1, 3, 4], "cam": MAPS}, {}, ValueError, "each class once, numbered from 0"),
        ("a.npy", {"keys": ["cat"], "cam": MAPS[:1]}, {}, ValueError, r"keys \['cat'\]: class numbers"),
        (
            "a.npy",
            {"keys": [1], "one": MAPS[:1], "two": MAPS[:1]},
            {},
            ValueError,
            "pass one of them as entry",
        ),
        ("a.npy", {"keys": [1], "cam": MAPS[:1]}, {"entry": "hr"}, ValueError, "not 'hr': pass one as entry"),
        ("a.npy", {"keys": [1]}, {}, ValueError, "not None"),
        ("a.npy", MAPS[0, 0], {}, ValueError, r"maps \(C, h, w\) of one image are needed"),
        ("a.npy", np.zeros((2, 3, 4, 4)), {}, ValueError, r"maps \(C, h, w\) of one image are needed"),
        ("a.npy", np.zeros((3, 0, 4)), {}, ValueError, r"maps \(C, h, w\) of one image are needed"),
        ("a.npy", np.array(["text"]), {}, TypeError, "no CAMs: arrays or tensors of numbers are needed"),
        ("a.pkl", "text", {}, TypeError, "holds str 'text', no CAMs"),
        (
            "a.npy",
            {1: MAPS[0], 2: MAPS[1, :2]},
            {},
            ValueError,
            r"different sizes \[\(1, 5, 7\), ",
        ),
        ("a.npy", np.full((1, 2, 2), np.nan), {}, ValueError, "holds NaN or infinity: make the CAMs"),
        ("a.npy", MAPS, {"background": "last"}, ValueError, "background must be one of 'first', 'none'"),
    ],
)
def test_errors_name_the_file_and_the_fix(tmp_path, name, content, options, error, text):
    with pytest.raises(error, match=text) as caught:
        read_cams(save(tmp_path, name, content), **options)
    assert "background" in options or str(tmp_path / name) in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_cams(tmp_path / "none.npy")


@pytest.mark.parametrize("key", [14.0, 1.5, "14", True])
def test_a_lone_key_that_is_no_class_number_is_not_taken_for_class_0(tmp_path, key):
    np.save(tmp_path / "cam.npy", {key: np.zeros((4, 5), np.float32)})  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=f"has the key {re.escape(repr(key))}: save class numbers as integers"
    ):
        read_cams(tmp_path / "cam.npy")
