"""Devices and dtypes as parameters, a fixed random state per test, and guards on torch's global settings."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import random
import signal
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import settings
from scene_folder import make_scenes, write_folder

import dhr_refine.rebalance
import dhr_refine.refine
import dhr_refine.seed
from dhr_refine.compiled import lookup

# Without a GPU, Triton's kernels run in its interpreter, on the CPU. Triton reads this when it is imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

settings.register_profile("dhr_refine", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("dhr_refine")


def pytest_configure() -> None:
    """Pretend the device before any test has had a backward pass: autograd would not see it after one."""
    with contextlib.suppress(ImportError):
        import pretend_device  # noqa: F401
    # A shell starts what is in the background deaf to Ctrl-C: tests of it would wait for ever.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(
    params=[
        "cpu",
        "pretend",
        pytest.param(
            "cuda",
            marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, none here"),
        ),
    ]
)
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """Every device of this machine, and a pretended one that refuses to mix its tensors with the host's."""
    if request.param != "pretend":
        yield torch.device(request.param)
        return
    pretend_device = pytest.importorskip("pretend_device", exc_type=ImportError)
    with pretend_device.PretendDevice():
        yield pretend_device.DEVICE


@pytest.fixture(
    params=[torch.float32, torch.float64, torch.float16, torch.bfloat16],
    ids=lambda dtype: str(dtype).removeprefix("torch."),
)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """Every floating point type that the library accepts."""
    return request.param


@pytest.fixture(autouse=True)
def _random_state():
    """Seed every generator before a test and give the caller's state back after it."""
    # The legacy NumPy state is the one that other libraries draw from.
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
    yield
    random.setstate(before[0])
    np.random.set_state(before[1])  # noqa: NPY002
    torch.set_rng_state(before[2])


@pytest.fixture(autouse=True)
def _global_settings():
    """A test, and the library under it, leaves torch's global settings as it found them."""

    def current():
        return (
            torch.get_float32_matmul_precision(),
            torch.get_num_threads(),
            torch.are_deterministic_algorithms_enabled(),
            torch.is_grad_enabled(),
            torch.get_default_dtype(),
        )

    before = current()
    yield
    assert current() == before


@pytest.fixture
def one_thread():
    """Small operations on many threads mostly wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def without_numba(monkeypatch):
    """The torch operations that compiled loops stand in for where numba is installed."""
    monkeypatch.setattr(lookup, "usable", lambda: False)


@pytest.fixture(params=["compiled", "torch"])
def engine(request):
    """The compiled loops that serve float32 on a CPU where numba is installed, and the torch operations."""
    if request.param == "torch":
        request.getfixturevalue("without_numba")
    else:
        pytest.importorskip("numba", reason="needs numba: pip install numba")
    return request.param


@pytest.fixture
def exact_transport(monkeypatch):
    """The transport of the steps stops at 1e-3; comparisons with a converged reference want it solved."""
    solve = dhr_refine.rebalance.solve

    def tight(*args, tol, **kwargs):
        return solve(*args, tol=1e-9, **kwargs)

    monkeypatch.setattr(dhr_refine.rebalance, "solve", tight)
    monkeypatch.setattr(dhr_refine.seed, "solve", tight)


@pytest.fixture
def scenes():
    """Four scenes, by their key, that are written as a data set."""
    return make_scenes()


@pytest.fixture
def folder(tmp_path, scenes):
    """A data set of four images, each kind of own file in another form."""
    pytest.importorskip("PIL.Image", reason="needs Pillow")
    return write_folder(tmp_path, scenes)


@pytest.fixture(scope="session")
def torchvision():
    """Import torchvision, which timm needs too, whether or not its compiled operators fit this torch."""
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("needs torchvision and timm, not installed here")
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    # Wheels built for CUDA do not load their operators beside a CPU build of torch, and the import then
    # fails where it describes two of them to torch. Nothing here uses them: declare that they exist.
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    module = importlib.import_module("torchvision")
    module.declared_operators = library  # they live as long as this object
    return module


@pytest.fixture
def transformers(request):
    """The library transformers."""
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("needs transformers, not installed here")
    if importlib.util.find_spec("torchvision") is not None:
        request.getfixturevalue("torchvision")  # transformers imports it where it is installed
    return importlib.import_module("transformers")


@pytest.fixture
def timm(torchvision):
    """The library timm, which imports torchvision."""
    if importlib.util.find_spec("timm") is None:
        pytest.skip("needs timm, not installed here")
    return importlib.import_module("timm")
