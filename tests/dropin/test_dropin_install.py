"""In the place of the original: by whichever way it is imported, in whichever process."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from textwrap import dedent

import numpy as np
import pytest
import torch
from originals import OURS, REASON, original

import dhr_refine.pydensecrf
from dhr_refine import dense_crf

HEAD = "import dhr_refine.pydensecrf\ndhr_refine.pydensecrf.install()\n"
REAL = pytest.mark.skipif(importlib.util.find_spec("pydensecrf") is None, reason=REASON)


def run(code: str, tmp_path, *, name: str = "script.py") -> str:
    """Run a script in a fresh interpreter."""
    path = tmp_path / name
    path.write_text(dedent(code), encoding="utf-8")
    answer = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=300)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.strip()


@pytest.mark.parametrize(
    "line",
    [
        "import pydensecrf.densecrf as dcrf",
        "from pydensecrf import densecrf as dcrf",
        "import pydensecrf; dcrf = pydensecrf.densecrf; pydensecrf.utils.unary_from_softmax",
        "import pydensecrf.utils, pydensecrf; dcrf = pydensecrf.densecrf",
        "import importlib; dcrf = importlib.import_module('pydensecrf.densecrf')",
        "from pydensecrf.utils import compute_unary, create_pairwise_bilateral, create_pairwise_gaussian, "
        "softmax_to_unary, unary_from_labels, unary_from_softmax; import pydensecrf.densecrf as dcrf",
        "from pydensecrf.densecrf import *; from pydensecrf.utils import *; from pydensecrf.eigen import *; "
        "import pydensecrf.densecrf as dcrf; DenseCRF2D, DIAG_KERNEL, NORMALIZE_SYMMETRIC, unary_from_labels",
    ],
)
def test_every_way_to_import_it(line, tmp_path):
    code = f"{HEAD}{line}\nprint(dcrf.__name__, dcrf.DenseCRF2D.__module__)"
    assert run(code, tmp_path) == "dhr_refine.pydensecrf.densecrf dhr_refine.pydensecrf.densecrf"


@REAL
def test_nothing_happens_without_the_call(tmp_path):
    code = "import dhr_refine.pydensecrf\nimport pydensecrf.densecrf as dcrf\nprint(dcrf.__name__)"
    assert run(code, tmp_path) == "pydensecrf.densecrf"


@pytest.fixture
def fresh():
    """Modules as they were, after the test."""
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "pydensecrf"}
    for name in before:
        del sys.modules[name]
    yield
    dhr_refine.pydensecrf.uninstall()
    for name in [name for name in sys.modules if name.partition(".")[0] == "pydensecrf"]:
        del sys.modules[name]
    sys.modules.update(before)


def named() -> str:
    return importlib.import_module("pydensecrf.densecrf").__name__


@pytest.mark.usefixtures("fresh")
def test_calling_it_twice_is_calling_it_once():
    for _ in range(3):
        dhr_refine.pydensecrf.install()
        assert importlib.import_module("pydensecrf.utils") is OURS.utils
    dhr_refine.pydensecrf.uninstall()
    assert not [name for name in sys.modules if name.partition(".")[0] == "pydensecrf"]
    dhr_refine.pydensecrf.uninstall()


@REAL
@pytest.mark.usefixtures("fresh")
def test_it_does_not_take_the_place_of_an_imported_one_unasked():
    real = importlib.import_module("pydensecrf.densecrf")
    package = sys.modules["pydensecrf"]
    text = r"pydensecrf is imported already, from .*__init__.py: call install\(\) above the first import"
    with pytest.raises(RuntimeError, match=text):
        dhr_refine.pydensecrf.install()
    assert named() == "pydensecrf.densecrf"
    dhr_refine.pydensecrf.install(replace=True)
    assert named() == "dhr_refine.pydensecrf.densecrf"
    dhr_refine.pydensecrf.install()
    dhr_refine.pydensecrf.install(replace=True)
    dhr_refine.pydensecrf.uninstall()
    assert importlib.import_module("pydensecrf.densecrf") is real
    assert importlib.import_module("pydensecrf") is package


@pytest.mark.usefixtures("fresh")
def test_a_module_of_another_kind_is_refused_too():
    sys.modules["pydensecrf"] = type(sys)("pydensecrf")
    with pytest.raises(RuntimeError, match="pydensecrf is imported already, from an unknown place: call"):
        dhr_refine.pydensecrf.install()


@pytest.mark.usefixtures("fresh")
def test_a_blocked_original_is_nobodys(monkeypatch):
    """Tests block a package so, to see what happens where it is missing."""
    monkeypatch.setitem(sys.modules, "pydensecrf", None)
    dhr_refine.pydensecrf.install()
    assert named() == "dhr_refine.pydensecrf.densecrf"
    dhr_refine.pydensecrf.uninstall()
    with pytest.raises(ImportError):
        importlib.import_module("pydensecrf")


@pytest.mark.usefixtures("fresh")
def test_the_backend_of_that_name_is_never_ours():
    image, probs = torch.zeros(3, 8, 9, dtype=torch.uint8), torch.full((2, 8, 9), 0.5)
    dhr_refine.pydensecrf.install()
    with pytest.raises(
        ValueError, match=r"backend='pydensecrf' is the original, but dhr_refine.pydensecrf.inst"
    ):
        dense_crf(image, probs, backend="pydensecrf")
    dense_crf(image, probs)
    dhr_refine.pydensecrf.uninstall()
    original()
    np.testing.assert_allclose(dense_crf(image, probs, backend="pydensecrf").numpy(), 0.5)


POOL = """
import multiprocessing
import numpy as np
import dhr_refine.pydensecrf
{install}

def work(seed):
    import pydensecrf.densecrf as dcrf
    import torch
    from pydensecrf.utils import unary_from_softmax
    from dhr_refine.crf import energies
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(3), 150 * 160).T
    d = dcrf.DenseCRF2D(160, 150, 3)
    d.setUnaryEnergy(unary_from_softmax(probs))
    d.addPairwiseGaussian(sxy=3, compat=3)
    image = rng.integers(0, 256, (150, 160, 3)).astype(np.uint8)
    d.addPairwiseBilateral(sxy=9, srgb=13, rgbim=image, compat=5)
    return dcrf.__name__, energies.threads(), np.array(d.inference(5))

if __name__ == "__main__":
    import torch
    torch.set_num_threads(2)
    torch.ones(300, 300) @ torch.ones(300, 300)  # the parent's threads are at work before it forks
    {before}
    with multiprocessing.get_context("{method}").Pool(2, {options}) as pool:
        results = pool.map(work, range(4))
    {after}
    for seed, (name, threads, q) in enumerate(results):
        mine = work(seed)
        assert threads == 1 < mine[1], (threads, mine[1])
        np.testing.assert_allclose(q, mine[2], atol=1e-5)
    print({{name for name, _, _ in results}})
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes_of_a_pool(method, tmp_path):
    """Each on one thread; the parent has run the same before, threads and all, and goes on after it."""
    install = "dhr_refine.pydensecrf.install()"
    code = POOL.format(method=method, install=install, options="", before="work(0)", after="")
    assert run(code, tmp_path, name="pool.py") == "{'dhr_refine.pydensecrf.densecrf'}"


def test_processes_without_a_script(tmp_path):
    """As in a notebook: the call is passed on."""
    options = "initializer=dhr_refine.pydensecrf.install"
    after = "dhr_refine.pydensecrf.install()"
    code = POOL.format(method="spawn", install="", options=options, before="pass", after=after)
    assert run(code, tmp_path, name="pool.py") == "{'dhr_refine.pydensecrf.densecrf'}"
