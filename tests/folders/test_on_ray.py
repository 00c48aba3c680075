"""Work shared out by Ray: the results of the plain path, and what becomes of images whose processes die."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from collections import Counter
from functools import partial

import numpy as np
import pytest
from ray_tasks import Copying
from saved_models import make_stages, save

from dhr_refine.errors import UsageError, UserError
from dhr_refine.files import write_mask
from dhr_refine.folders import RunOptions, refine_folder
from dhr_refine.folders.features import features_folder
from dhr_refine.folders.runs.job import Run, given_up
from dhr_refine.folders.runs.on_ray import run_on_ray
from dhr_refine.folders.runs.worker import Worker

needs_ray = [
    pytest.mark.slow,
    # It warns of itself, whatever is called, and leaves its processes and pipes to the garbage collector.
    pytest.mark.filterwarnings("ignore:::ray"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason='needs Ray: pip install "ray[data]"'),
]


def start(task, keys, **options):
    """What becomes of images, by their ids."""
    given = {"address": "", "jobs": 2, "device": "cpu", "marks": task.out, "give_up": given_up, **options}
    outcomes = list(run_on_ray(partial(Worker, task), keys, **given))
    assert sorted(outcome.key for outcome in outcomes) == sorted(keys)
    left = [path.name for path in task.out.glob(".*")]
    if task.deadly or task.deadly_once:
        # A killed process may leave the file that it was writing, which a later run removes. Marks go.
        left = [name for name in left if not name.startswith(".image_")]
    assert left == []
    return {outcome.key: outcome for outcome in outcomes}


def statuses(found):
    return Counter(outcome.status for outcome in found.values())


@pytest.fixture
def keys():
    return [f"image_{number:02d}" for number in range(20)]


@pytest.fixture(scope="module")
def tasks_at_hand():
    """Processes of Ray find the tasks of these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
        yield


@pytest.fixture(scope="module")
def cluster(tasks_at_hand):
    """A local cluster of two processors."""
    import ray

    ray.init("local", num_cpus=2, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    yield ray
    ray.shutdown()


@pytest.mark.usefixtures("cluster")
class TestOnACluster:
    pytestmark = needs_ray

    def test_a_process_that_dies_once_costs_no_image(self, tmp_path, keys):
        found = start(Copying(tmp_path, deadly_once=("image_03", "image_12")), keys)
        assert statuses(found) == {"done": 20}
        assert [(tmp_path / key).read_text() for key in keys] == keys
        assert (tmp_path / "died-image_03").exists()

    def test_images_that_kill_their_processes_are_given_up(self, tmp_path, keys):
        (tmp_path / "image_00").write_text("of an earlier run")
        found = start(Copying(tmp_path, deadly=("image_03", "image_04"), damaged=("image_19",)), keys)
        assert statuses(found) == {"done": 16, "skipped": 1, "failed": 3}
        assert found["image_00"].status == "skipped"
        assert (tmp_path / "image_00").read_text() == "of an earlier run"
        for key in ("image_03", "image_04"):
            assert found[key].stage == "process"
            assert found[key].message == "its process died twice, perhaps for want of memory"
            assert not (tmp_path / key).exists()
        assert (found["image_19"].stage, found["image_19"].message) == ("read", "image_19 is no picture")

    def test_a_full_disk_ends_the_run(self, tmp_path, keys):
        with pytest.raises(
            UserError, match=r"^nothing can be written any more .*No space left .*: make room$"
        ):
            start(Copying(tmp_path, full_at="image_05"), keys)

    def test_what_a_user_can_mend_comes_back_in_one_line(self, tmp_path, keys):
        with pytest.raises(UserError, match=r"^pip install something$"):
            start(Copying(tmp_path, missing=UserError("pip install something")), keys)

    def test_a_fault_comes_back_with_its_traceback(self, tmp_path, keys):
        with pytest.raises(Exception, match=r"(?s)in _work_on.*KeyError: 'a fault'"):
            start(Copying(tmp_path, missing=KeyError("a fault")), keys)

    def test_features_are_those_of_the_plain_path(self, transformers, tmp_path, write_photos):
        photos = write_photos(20)
        (photos / "photo_07.png").write_bytes(b"damaged")
        model = save(make_stages(transformers, "ResNet"), tmp_path / "model")
        plain = features_folder(photos, model=model, out=tmp_path / "plain", run=RunOptions(quiet=True))
        options = RunOptions(jobs=2, ray="", quiet=True)
        report = features_folder(photos, model=model, out=tmp_path / "ray", run=options)
        assert (report.done, report.skipped) == (plain.done, plain.skipped) == (19, 0)
        assert [one.key for one in report.failed] == ["photo_07"]
        files = sorted(path.name for path in (tmp_path / "plain").glob("*.npz"))
        assert len(files) == 19
        assert sorted(path.name for path in (tmp_path / "ray").glob("*.npz")) == files
        for name in files:
            assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
        # What is there stays, on either way.
        (tmp_path / "ray" / files[3]).unlink()
        again = features_folder(photos, model=model, out=tmp_path / "ray", run=options)
        assert (again.done, again.skipped, len(again.failed)) == (1, 18, 1)
        assert (tmp_path / "ray" / files[3]).read_bytes() == (tmp_path / "plain" / files[3]).read_bytes()

    def test_masks_and_memory_are_those_of_the_plain_path(self, tmp_path, monkeypatch):
        rng = np.random.default_rng(0)
        for name in ("images", "cams", "uss"):
            (tmp_path / name).mkdir()
        for number in range(20):
            key = f"image_{number:02d}"
            write_mask(tmp_path / "images" / f"{key}.png", rng.integers(0, 256, (40, 48)))
            np.save(tmp_path / "cams" / f"{key}.npy", {2: rng.random((10, 12)), 7: rng.random((10, 12))})
            np.save(tmp_path / "uss" / f"{key}.npy", rng.random((16, 10, 12)).astype(np.float16))
        (tmp_path / "uss" / "image_05.npy").write_bytes(b"no array")
        given = {"cams": tmp_path / "cams", "uss": tmp_path / "uss", "memory": "auto", "boundary": None}
        for name, ray in (("plain", None), ("ray", "")):
            run = RunOptions(jobs=2, ray=ray, quiet=True)
            report = refine_folder(tmp_path / "images", **given, out=tmp_path / name, run=run)
            assert (report.done, [one.key for one in report.failed]) == (19, ["image_05"])
        files = [path.relative_to(tmp_path / "plain") for path in (tmp_path / "plain").rglob("*.*")]
        results = [path for path in files if path.suffix in (".png", ".npz", ".txt")]
        assert len(results) == 19 + 20 + 2 + 1  # masks, base masks, memory and its list, failures
        for path in results:
            assert (tmp_path / "ray" / path).read_bytes() == (tmp_path / "plain" / path).read_bytes()

    def test_a_cluster_without_a_gpu_says_so(self, tmp_path, keys):
        with pytest.raises(UserError, match=r"the Ray cluster has no GPU by now: .* or --device cpu"):
            start(Copying(tmp_path), keys, jobs=None, device="cuda")

    def test_all_processors_are_used_unless_told(self, tmp_path, keys):
        assert statuses(start(Copying(tmp_path), keys, jobs=None)) == {"done": 20}


@pytest.mark.usefixtures("tasks_at_hand")
class TestOnItsOwn:
    pytestmark = needs_ray

    def test_a_cluster_lives_as_long_as_its_run(self, tmp_path, keys, capfd):
        import ray

        if ray.is_initialized():
            ray.shutdown()
        level = logging.getLogger("ray.data").level
        run = RunOptions(ray="", jobs=2, quiet=True)
        with Run("copy", tmp_path, {}, run) as started:
            for task in (Copying(tmp_path / "one"), Copying(tmp_path / "two")):
                task.out.mkdir()
                assert sorted(started.step(task, keys, device="cpu", what="copies", last=True)) == keys
                assert ray.is_initialized()
        assert not ray.is_initialized()
        assert started.report().done == 40
        assert logging.getLogger("ray.data").level == level
        told = "".join(capfd.readouterr())
        assert "Starting execution" not in told
        assert "Progress bars" not in told

    @pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "auto"])
    def test_a_cluster_that_does_not_answer(self, tmp_path, keys, address):
        with pytest.raises(UserError, match=rf"the Ray cluster {address} cannot be had \(.*\(--ray\)"):
            start(Copying(tmp_path), keys, address=address)


def test_ray_that_is_missing_is_named(tmp_path, keys, monkeypatch):
    for name in ("ray", "ray.data"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=r'by Ray needs ray.*: pip install "ray\[data\]>=2'):
        start(Copying(tmp_path), keys)


@pytest.mark.parametrize("device", ["cuda:1", "mps"])
def test_ray_chooses_the_gpu(tmp_path, keys, device):
    with pytest.raises(UsageError, match=f"with Ray is cpu or cuda, got '{device}': Ray chooses the GPU"):
        start(Copying(tmp_path), keys, device=device)
