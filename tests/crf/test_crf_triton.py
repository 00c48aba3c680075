"""Tests of the dense CRF's Triton kernels: on a CUDA device where there is one, else in Triton's interpreter.

The interpreter takes a second for an image of 1000 pixels, so images are small. It proves the arithmetic and
the indices, not that a GPU's compiler takes the kernels: that is tested apart, without a GPU.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from photos import PRESETS, photo, scores

from dhr_refine import DenseCRFLattice, dense_crf

pytest.importorskip("triton", reason="needs Triton, which comes with PyTorch for CUDA: pip install triton")

# conftest.py turns the interpreter on where there is no CUDA device.
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def compare(images, probs, *, atol: float = 1e-4, **options):
    images, probs = images.to(DEVICE), probs.to(DEVICE)
    expected = dense_crf(images, probs, backend="torch", **options)
    result = dense_crf(images, probs, backend="triton", **options)
    assert result.shape == expected.shape
    torch.testing.assert_close(result, expected, atol=atol, rtol=0)
    return result


@pytest.mark.parametrize(
    ("preset", "size", "classes"),
    [
        ("A", (31, 27), 4),
        ("B", (13, 30), 5),
        ("C", (19, 24), 2),
        ("C", (9, 17), 21),
        ("D", (30, 19), 3),
        ("E", (16, 20), 9),
    ],
)
def test_equals_torch(preset, size, classes):
    compare(photo("astronaut", *size), scores(classes, *size), iterations=3, **PRESETS[preset])


@pytest.mark.parametrize("size", [(1, 1), (1, 37), (41, 1), (2, 3)])
def test_tiny_images(size):
    compare(photo("coffee", *size), scores(3, *size), iterations=4)


def test_equals_pydensecrf():
    image, probs = photo("chelsea", 20, 31), scores(4, 20, 31)
    expected = dense_crf(image, probs, backend="pydensecrf")
    result = dense_crf(image.to(DEVICE), probs.to(DEVICE), backend="triton").cpu()
    torch.testing.assert_close(result, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("preset", ["A", "C"])
def test_images_of_a_batch_keep_to_themselves(preset):
    options = {"iterations": 2, **PRESETS[preset]}
    images = torch.stack([photo(name, 15, 18) for name in ("astronaut", "coffee", "chelsea")]).to(DEVICE)
    probs = scores(4, 15, 18, batch=3).to(DEVICE)
    batch = compare(images, probs, **options)
    for image, own, result in zip(images, probs, batch, strict=True):
        alone = dense_crf(image, own, backend="triton", **options)
        torch.testing.assert_close(alone, result, atol=1e-5, rtol=0)


def test_lists_longer_than_a_piece_of_pieces():
    """All pixels of a constant image meet in a few vertices."""
    image = torch.full((2, 3, 55, 60), 90, dtype=torch.uint8)
    image[1, :, :, 20:] = 200
    options = {"sxy": 500, "srgb": 13, "gauss_sxy": 200}
    lattice = DenseCRFLattice(image.to(DEVICE), backend="triton", **options)
    assert len(lattice._bilateral.levels) == 3
    assert len(lattice._gaussian.levels) == 3
    compare(image, scores(3, 55, 60, batch=2), iterations=1, **options)


@pytest.mark.parametrize("lengths", [[0], [1], [32], [33, 0, 1, 32], [0, 1024, 1025, 5], [32**3 + 1, 7], []])
def test_pieces_cover_each_list_once(lengths):
    from dhr_refine.crf.backends.triton import launch

    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    levels = list(launch._levels(torch.tensor(lengths, dtype=torch.long)))
    rows: dict[int, set[int]] = {}
    terms = {term: {term} for term in range(sum(lengths))}
    for level in levels:
        pieces = list(zip(level.begin.tolist(), level.end.tolist(), level.target.tolist(), strict=True))
        for begin, end, target in pieces:
            assert 0 <= end - begin <= 32
            assert target not in rows
            parts = [terms[term] for term in range(begin, end)]
            rows[target] = set().union(*parts)
            assert len(rows[target]) == sum(map(len, parts))
        terms = rows  # further levels add up rows
    assert sorted(rows) == list(range(len(rows)))
    for vertex, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        assert rows[vertex] == set(range(start, start + length))


@settings(max_examples=8)
@given(
    height=st.integers(1, 14),
    width=st.integers(1, 14),
    batch=st.integers(1, 3),
    classes=st.integers(2, 20),
    sxy=st.floats(2, 100),
    srgb=st.floats(2, 100),
    gauss_sxy=st.floats(0.5, 10),
    seed=st.integers(0, 1000),
)
def test_equals_torch_on_noise(height, width, batch, classes, sxy, srgb, gauss_sxy, seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (batch, 3, height, width), generator=generator).byte()
    probs = scores(classes, height, width, seed=seed, batch=batch)
    compare(images, probs, iterations=2, sxy=sxy, srgb=srgb, gauss_sxy=gauss_sxy)


@pytest.mark.parametrize("classes", [2, 3, 5, 9])
def test_classes_change_places_bit_for_bit(classes):
    image, noise = photo("coffee", 9, 14), torch.rand(classes, 9, 14)
    order = torch.randperm(classes)
    for probs in (torch.full_like(noise, 1 / classes), noise):
        result, moved = (
            dense_crf(image.to(DEVICE), given.to(DEVICE), backend="triton", iterations=4, **PRESETS["B"])
            for given in (probs, probs[order])
        )
        assert torch.equal(moved, result[order])


@pytest.mark.parametrize("iterations", [0, 1])
def test_few_iterations(iterations):
    compare(photo("coffee", 12, 15), scores(3, 12, 15), iterations=iterations)


def test_results_repeat_bit_for_bit():
    image, probs = photo("coffee", 24, 24).to(DEVICE), scores(6, 24, 24).to(DEVICE)
    first, second = (dense_crf(image, probs, backend="triton", iterations=3) for _ in range(2))
    assert torch.equal(first, second)


def test_classes_left_out_take_no_part():
    images = torch.stack([photo("coffee", 16, 18), photo("chelsea", 16, 18)])
    probs = scores(5, 16, 18, batch=2)
    probs[0, [1, 3]] = 1e-5
    probs[1, 4] = 0
    result = compare(images, probs, min_prob=1e-3, iterations=2)
    assert not result[0, [1, 3]].any()
    assert not result[1, 4].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_keeps_dtype_and_inputs(dtype):
    image = photo("coffee", 12, 31).to(DEVICE)
    probs = scores(3, 31, 12).transpose(1, 2).to(DEVICE, dtype)
    before = image.clone(), probs.clone()
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        result = dense_crf(image, probs, backend="triton", iterations=2)
    assert result.dtype == dtype
    torch.testing.assert_close(result.sum(0), torch.ones_like(result[0]), atol=2e-3, rtol=0)
    assert torch.equal(image, before[0])
    assert torch.equal(probs, before[1])


def test_lattice_is_reusable():
    images = photo("coffee", 20, 22)[None].to(DEVICE)
    lattice = DenseCRFLattice(images, backend="triton")
    assert lattice.backend == "triton"
    assert "backend='triton'" in repr(lattice)
    assert lattice.nbytes > images.nbytes
    for seed in (0, 1):
        probs = scores(4, 20, 22, batch=1, seed=seed).to(DEVICE)
        kept = dense_crf(images, probs, iterations=2, lattice=lattice)
        assert torch.equal(kept, dense_crf(images, probs, iterations=2, backend="triton"))
    with pytest.raises(ValueError, match="lattice was built with backend='triton'"):
        dense_crf(images, probs, backend="torch", lattice=lattice)


def test_more_images_than_a_grid_may_be_wide():
    """On CUDA every axis of a grid but the first ends at 65,535."""
    from dhr_refine.crf.backends.triton import launch

    grid, blocks, options = launch._launch(rows=300, images=70_000, channels=4)
    assert options["BLOCK"] == 128
    assert (grid, blocks) == ((210_000,), 3)


def test_numpy_numbers_as_weights():
    image, probs = photo("coffee", 6, 7), scores(3, 6, 7)
    result = compare(image, probs, iterations=1, compat=np.float32(4), gauss_compat=np.float32(3))
    torch.testing.assert_close(result.cpu(), dense_crf(image, probs, iterations=1), atol=1e-4, rtol=0)


def test_nothing_to_do():
    image = photo("coffee", 8, 9).to(DEVICE)
    assert torch.equal(
        dense_crf(image, torch.ones(1, 8, 9, device=DEVICE), backend="triton").cpu(), torch.ones(1, 8, 9)
    )
    none = DenseCRFLattice(image[None][:0], backend="triton")
    assert none.shape == (0, 8, 9)
    assert dense_crf(image[None][:0], torch.rand(0, 3, 8, 9, device=DEVICE), backend="triton").shape == (
        0,
        3,
        8,
        9,
    )


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("classes", [4, 8, 21, 171])
def test_compiles_for_a_gpu(capability, classes):
    """Down to machine code, without a GPU: loads of 16 bytes, nothing spilled."""
    pytest.importorskip("triton", minversion="3.3", reason="compiling ahead of time has another interface")
    code = f"import test_crf_triton; test_crf_triton.compile_all({capability}, {classes})"
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)  # of pytest, with what tests share
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def memory_per_thread(binary: bytes) -> int:
    """Bytes in which a thread keeps what its registers do not hold."""
    import triton.backends.nvidia as nvidia

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        tool = Path(next(iter(nvidia.__path__)), "bin", "cuobjdump")
        command = [str(tool), "--dump-resource-usage", file.name]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.findall(r"STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", shown)
    assert len(found) == 1, shown
    return sum(map(int, found[0]))


def compile_all(capability: int, classes: int) -> None:
    """Compile every kernel (in a process without the interpreter) and look at what came out."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from dhr_refine.crf.backends.triton import kernels, launch

    *_, options = launch._launch(1000, 1, launch.padded(classes))
    given = {key: options.pop(key) for key in ("num_warps", "enable_fp_fusion")}
    assert given.keys() | options.keys() == {"num_warps", "enable_fp_fusion", "CHANNELS", "LANES", "BLOCK"}
    numbers = ("corners", "shared_corners", "members", "begins", "ends", "targets", "neighbours")
    shapes = (
        "pieces",
        "value_rows",
        "out_rows",
        "vertices",
        "axis",
        "rows",
        "pixels",
        "all_pixels",
        "shared_rows",
        "blocks",
    )
    types = dict.fromkeys(numbers, "*i32") | dict.fromkeys(shapes, "i32")
    types |= {"scale": "fp32", "shared_scale": "fp32"}
    for kernel, constants in (
        (kernels.sum_pieces, {"LISTED": True}),
        (kernels.sum_pieces, {"LISTED": False}),
        (kernels.blur, {}),
        (kernels.slice_and_normalise, {"CORNERS": 6, "SHARED": 3}),
    ):
        fixed = constants | options
        signature = {
            name: "constexpr" if name in fixed else types.get(name, "*fp32") for name in kernel.arg_names
        }
        aligned = {
            (place,): [["tt.divisibility", 16]]
            for place, name in enumerate(kernel.arg_names)
            if signature[name].startswith("*")
        }
        source = ASTSource(fn=kernel, signature=signature, constexprs=fixed, attrs=aligned)
        compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=given)
        assert memory_per_thread(compiled.asm["cubin"]) == 0, kernel
        assembly = compiled.asm["ptx"]
        assert "ld.global.v4" in assembly, kernel
        assert "st.global.v4" in assembly, kernel
        # Rows stay with the thread that looked up their vertex, but for finding the longest list.
        if classes <= 64:
            assert assembly.count("bar.sync") <= 1, kernel
