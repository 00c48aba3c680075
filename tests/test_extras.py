"""Packages that only a part needs: what pip is told to install; everything else works without them."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from textwrap import dedent

import pytest

from dhr_refine.extras import import_optional, install_command

LINES = [
    "torch>=2.2",
    "scipy>=1.10",
    "numba>=0.59; extra == 'numba'",
    'pillow>=10 ; extra == "folders"',
    "no-such-package<3,>=2; python_version >= '3.10' and extra == 'folders'",
]


@pytest.fixture
def requirements(monkeypatch):
    monkeypatch.setattr(metadata, "requires", lambda name: LINES)


@pytest.mark.usefixtures("requirements")
class TestInstallCommand:
    def test_what_is_missing_is_named(self):
        assert install_command("folders") == 'pip install "no-such-package<3,>=2"'

    def test_all_of_it_where_nothing_is_known_to_be_missing(self):
        assert install_command("numba") == 'pip install "numba>=0.59"'
        assert install_command() == 'pip install "torch>=2.2" "scipy>=1.10"'


def test_sources_on_a_path_say_where_to_install_from(monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", absent)
    assert install_command("viz") == 'pip install ".[viz]" in a clone of dhr_refine'
    assert install_command() == "pip install . in a clone of dhr_refine"


@pytest.mark.usefixtures("requirements")
def test_an_extra_that_an_older_installation_lacks():
    assert install_command("ray") == 'pip install ".[ray]" in a clone of dhr_refine'


def test_no_extra_pins_pytorch():
    lines = [line for line in metadata.requires("dhr_refine") or [] if line.lower().startswith("torch>")]
    assert lines == ["torch>=2.2"]
    assert not [line for line in metadata.requires("dhr_refine") or [] if line.startswith("torch=")]


def test_an_import_that_fails_says_who_needs_it(monkeypatch):
    assert import_optional("math", by="this").pi > 3
    monkeypatch.setitem(sys.modules, "scipy.ndimage", None)
    with pytest.raises(
        ImportError, match=r"^a test needs scipy\.ndimage, which cannot be imported \(.*\): pip"
    ):
        import_optional("scipy.ndimage", by="a test")
    with pytest.raises(ImportError, match=r": pip install timm$"):
        import_optional("no_such_module", by="a test", install="timm")


def test_everything_else_works_without_pot_and_scipy():
    """In a process of its own, where neither can be imported."""
    code = """
        import sys

        sys.modules["ot"] = sys.modules["scipy"] = None
        import torch

        import dhr_refine
        from dhr_refine import metrics, viz

        cams = torch.zeros(2, 8, 8)
        cams[0, :, :3], cams[1, :, 5:] = 1.0, 0.8
        base = torch.zeros(32, 32, dtype=torch.long)
        base[:, :12] = 1
        image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
        features = torch.rand(6, 8, 8)
        mask = dhr_refine.refine_mask(cams, base, features, features, image, labels=[0, 1])
        assert mask.shape == base.shape
        dhr_refine.sinkhorn_ot(cams[None])
        metrics.scores_of(metrics.image_counts(mask, base, num_classes=3))
        viz.overlay_mask(image, mask)
        affinity = dhr_refine.propagation.feature_affinity(features)
        dhr_refine.random_walk(cams, affinity)
        for call, name in (
            (lambda: dhr_refine.sinkhorn_ot(cams[None], method="pot"), "method='pot' needs ot"),
            (lambda: dhr_refine.random_walk(cams, affinity, within=0.4), "random_walk(within=...) needs"),
            (lambda: metrics.inter_class_share(mask), "inter_class_share needs scipy.ndimage"),
        ):
            try:
                call()
            except ImportError as error:
                assert str(error).startswith(name) and ": pip install " in str(error), error
            else:
                raise AssertionError(name)
    """
    done = subprocess.run([sys.executable, "-c", dedent(code)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
