"""The parts of the package know only the parts below them, and no file or function holds too much.

Each rule is a function that reads a package and returns complaints. It is held against the package, and
against a small package that breaks it.
"""

from __future__ import annotations

import ast
import graphlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest
from places import ROOT
from source_tree import Package, exported, functions, imports, read_package

SOURCE = ROOT / "src" / "dhr_refine"

# Lowest first. A part is a file or a folder; it imports only from lower layers or from itself, and parts of
# one layer do not know each other. An import inside a function, one for type checkers alone, and a module
# named in a text for importlib count as well: they too say which part knows which.
LAYERS = {
    "": (
        ("extras", "interrupts", "version"),
        ("errors", "checks", "compiled"),
        ("label_names", "maps", "palettes", "tables"),
        ("features", "training", "metrics", "files"),  # what stands beside the step
        ("discriminant", "pooling", "propagation", "transport"),
        ("recipe",),
        ("crf", "adaptive"),
        ("edges",),
        ("rebalance", "inputs", "pydensecrf"),
        ("crops", "energy_loss", "memory", "rebalance_calls"),
        ("keywords",),
        ("base_masks", "keep", "seed", "steps"),
        ("refine",),
        ("viz",),
        ("datasets", "pretrained"),
        ("sam",),
        ("folders",),
        ("api",),
        ("__init__",),  # the package's own names
        ("demo",),
        ("commands",),
        ("cli",),
        ("__main__",),
    ),
    "folders": (
        ("runs",),
        ("work", "review"),
        ("settings",),
        ("boundaries", "evaluate", "features", "show"),
        ("plans",),
        ("check", "masks"),
    ),
    "crf": (
        ("geometry", "images", "recent", "terms", "unary", "labels"),
        ("backends", "scores"),
        ("energies", "lattice"),
        ("volumes",),
        ("inference", "kept", "permutohedral"),
    ),
}
# Parts that must stay of use alone, whatever lies below them.
ONLY = {
    "features": {"checks"},
    "training": {"checks"},
    "metrics": {"checks", "extras", "tables"},
    "files": {"checks", "errors"},
}
# Modules named like what their package's __init__ exports, which then hides them.
HIDDEN: dict[str, str] = {}
MOST_LINES = 500
LONG_FILES: dict[str, str] = {}
MOST_LINES_OF_FUNCTION = 60  # without the docstring
LONG_FUNCTIONS = {
    "transport/lean_numba.py _sweep": "its inner function alone, which makes code for each number of classes",
    "transport/lean_numba.py _sweep.typed": "one pass over the pixels, written for LLVM in the order it runs",
}
PRIVATE: dict[str, str] = {}


def circles(package: Package) -> list[str]:
    """Modules that import each other while they are imported."""
    graph: dict[str, set[str]] = {name: set() for name in package}
    for module in package.values():
        for found in imports(module, package):
            if not found.at_once:
                continue
            # Importing a.b.c imports a and a.b first, unless they are on their way: the importer's own.
            parts = found.target.split(".")
            parents = [".".join(parts[:count]) for count in range(1, len(parts))]
            graph[module.name] |= {p for p in parents if not f"{module.name}.".startswith(f"{p}.")}
            graph[module.name].add(found.target)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return [f"modules import each other in a circle: {' <- '.join(error.args[1])}"]
    return []


def upward_imports(package: Package, layers: dict[str, tuple[tuple[str, ...], ...]]) -> Iterator[str]:
    """Imports of a part from its own layer or a higher one, and parts that no layer has."""
    root = next(iter(package)).partition(".")[0]
    for folder, order in layers.items():
        base = f"{root}.{folder}".rstrip(".")
        level = {part: number for number, layer in enumerate(order) for part in layer}

        def part_of(name: str, base: str = base) -> str | None:
            if name == base:
                return "__init__"
            return name[len(base) + 1 :].partition(".")[0] if name.startswith(f"{base}.") else None

        level.setdefault("__init__", len(order))
        unknown = {part for name in package if (part := part_of(name)) and part not in level}
        for part in sorted(unknown):
            yield (
                f"{base}.{part} is in no layer: add it to LAYERS[{folder!r}] in tests/house/test_layers.py, "
                "in a higher layer than all that it imports and a lower one than all that import it"
            )
        for module in package.values():
            for found in imports(module, package):
                own, other = part_of(module.name), part_of(found.target)
                if own is None or other is None or own == other or {own, other} & unknown:
                    continue
                if level[other] >= level[own]:
                    yield f"{module.place(found.line)} imports {found.target}, which is not below {own}"


def imports_beside(package: Package, only: dict[str, set[str]]) -> Iterator[str]:
    """Imports of a part that is to know a few parts alone from others."""
    for module in package.values():
        own = module.name.split(".")[1:2]
        for found in imports(module, package):
            other = found.target.split(".")[1:2]
            if own and own[0] in only and other != own and not set(other) & only[own[0]]:
                place = module.place(found.line)
                yield f"{place} imports {found.target}: {own[0]} knows {only[own[0]]} alone"


def hidden_modules(package: Package) -> Iterator[str]:
    """Modules named like what their package exports: the name stands for the one or the other."""
    for name, module in package.items():
        if module.path.name != "__init__.py":
            continue
        for export in sorted(exported(module)):
            if f"{name}.{export}" in package:
                yield f"{name}.{export}"


def long_files(package: Package) -> Iterator[str]:
    """Files that hold more lines than a reader takes in."""
    for module in package.values():
        if len(module.path.read_text(encoding="utf-8").splitlines()) > MOST_LINES:
            yield _within(module.path, package)


def long_functions(package: Package) -> Iterator[str]:
    """Functions of more lines than a reader takes in."""
    for module in package.values():
        for name, lines in functions(module):
            if lines > MOST_LINES_OF_FUNCTION:
                yield f"{_within(module.path, package)} {name}"


def _within(path: Path, package: Package) -> str:
    return path.relative_to(next(iter(package.values())).path.parent).as_posix()


def mute_folders(package: Package) -> list[str]:
    """Folders that do not say what they hold: no ``__init__``, or one without a docstring."""
    mute = []
    for folder in sorted({module.path.parent for module in package.values()}):
        own = [module for module in package.values() if module.path == folder / "__init__.py"]
        if not own or not ast.get_docstring(own[0].tree):
            mute.append(folder.name)
    return mute


def private_names(package: Package) -> Iterator[str]:
    """Names with a leading underscore that one module takes from another, by import or by attribute."""

    def private(name: str) -> bool:
        return name.startswith("_") and not name.startswith("__")

    for module in package.values():
        modules = {}
        for found in imports(module, package):
            name = found.target.rpartition(".")[2] if found.name is None else found.name
            if private(name):
                yield f"{module.name} imports {name} of {found.target}"
            if found.name is None:
                modules[found.alias] = found.target
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Attribute) and private(node.attr):
                owner = ast.unparse(node.value)
                if owner in modules:
                    yield f"{module.name} uses {node.attr} of {modules[owner]}"


def imports_of_demo(folder: Path) -> Iterator[str]:
    """Lines of scripts that take something from the demo."""
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                names = node.value.split()[:1]  # what importlib is told
            if any(f"{name}.".startswith("dhr_refine.demo.") for name in names):
                yield f"{path.name}:{node.lineno}"


def names_twice(folder: Path) -> list[str]:
    """Names that several test files have: pytest imports them by name alone, and stops at the second."""
    paths = [path for path in folder.rglob("*.py") if path.name != "conftest.py"]
    return sorted(name for name, count in Counter(path.name for path in paths).items() if count > 1)


def complain_of_list(found: Iterator[str], allowed: dict[str, str], name: str) -> list[str]:
    """What is found and not allowed, and what is allowed and no longer found."""
    seen = set(found)
    new = [f"{entry} is not in {name}" for entry in sorted(seen - set(allowed))]
    old = [f"{entry} is no longer needed in {name}: take it out" for entry in sorted(set(allowed) - seen)]
    return new + old


@pytest.fixture(scope="module")
def package() -> Package:
    found = read_package(SOURCE)
    assert len(found) > 30
    return found


def test_no_modules_import_each_other(package):
    assert circles(package) == []


def test_parts_import_from_below(package):
    assert list(upward_imports(package, LAYERS)) == []


def test_parts_beside_the_step_know_few_others(package):
    assert list(imports_beside(package, ONLY)) == []


def test_no_module_hides_behind_a_name_that_its_package_exports(package):
    assert complain_of_list(hidden_modules(package), HIDDEN, "HIDDEN") == []


def test_no_file_is_too_long(package):
    assert complain_of_list(long_files(package), LONG_FILES, "LONG_FILES") == []


def test_no_function_is_too_long(package):
    assert complain_of_list(long_functions(package), LONG_FUNCTIONS, "LONG_FUNCTIONS") == []


def test_every_folder_says_what_it_holds(package):
    assert mute_folders(package) == []


def test_private_names_stay_in_their_file(package):
    assert complain_of_list(private_names(package), PRIVATE, "PRIVATE") == []


def test_examples_take_nothing_from_the_demo():
    assert list(imports_of_demo(ROOT / "examples")) == []


def test_files_of_tests_have_names_of_their_own():
    assert names_twice(ROOT / "tests") == []


# What the rules say to small packages that break them, or do not.


@pytest.fixture
def write(tmp_path):
    """Write the files of a package named ``pkg`` and read it."""

    def make(files: dict[str, str]) -> Package:
        for name, text in {"__init__.py": '"""A package."""', **files}.items():
            path = tmp_path / "pkg" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(dedent(text), encoding="utf-8")
        return read_package(tmp_path / "pkg")

    return make


ORDER = {"": (("low", "even"), ("high",))}
CHECKERS_ONLY = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .high import thing"


@pytest.mark.parametrize(
    "line",
    [
        "from .high import thing",
        "from . import high",
        "from pkg.high import thing",
        "import pkg.high",
        "import pkg.high as other",
        "def late():\n    from .high import thing",
        CHECKERS_ONLY,
        "try:\n    from .high import thing\nexcept ImportError:\n    pass",
        "NAME = 'pkg.high'",
        "from .even import thing",
        "from . import thing",  # of the package's __init__, which is above all
    ],
)
def test_an_import_from_above_or_beside_is_seen(write, line):
    package = write({"low.py": line, "high.py": "thing = 1", "even.py": "thing = 1"})
    (complaint,) = upward_imports(package, ORDER)
    assert complaint.startswith("pkg.low:")
    assert complaint.endswith("which is not below low")


def test_an_import_from_below_or_of_the_part_itself_is_fine(write):
    package = write(
        {
            "low.py": "import torch.high",
            "even/__init__.py": "from .inner import thing",
            "even/inner.py": "from .deep.leaf import thing",
            "even/deep/leaf.py": "from ...even import inner",
            "high.py": "from .low import thing\nfrom pkg.even import inner",
            "__init__.py": "from .high import thing",
        }
    )
    assert list(upward_imports(package, ORDER)) == []


def test_relative_imports_are_followed_from_folders(write):
    package = write({"low/deep/leaf.py": "from ...high import thing", "high.py": "thing = 1"})
    assert list(upward_imports(package, ORDER)) == [
        "pkg.low.deep.leaf:1 imports pkg.high, which is not below low"
    ]


def test_a_part_that_is_in_no_layer_is_told_where_to_go(write):
    (complaint,) = upward_imports(write({"new.py": "from .high import x", "high.py": ""}), ORDER)
    assert complaint.startswith("pkg.new is in no layer: add it to LAYERS[''] in tests/house/test_layers.py")


def test_layers_inside_a_folder(write):
    package = write({"crf/unary.py": "from .geometry import x", "crf/geometry.py": "", "crf/__init__.py": ""})
    layers = {"crf": (("unary",), ("geometry",))}
    assert list(upward_imports(package, layers)) == [
        "pkg.crf.unary:1 imports pkg.crf.geometry, which is not below unary"
    ]
    assert list(upward_imports(package, {"crf": (("geometry",), ("unary",))})) == []


def test_a_part_that_knows_more_than_the_checks_is_seen(write):
    package = write({"files.py": "from . import checks, maps", "maps.py": "", "checks.py": ""})
    assert list(imports_beside(package, {"files": {"checks"}})) == [
        "pkg.files:1 imports pkg.maps: files knows {'checks'} alone"
    ]


@pytest.mark.parametrize(
    "files",
    [
        {"a.py": "from .b import x", "b.py": "from .a import y"},
        {"a.py": "from .b import x", "b.py": "import pkg.c", "c.py": "from pkg import a"},
        {"a.py": "from . import x", "__init__.py": "from .a import y"},
        # a.py imports a file of a folder, whose __init__ comes first and imports a.py.
        {"a.py": "from .f.leaf import x", "f/__init__.py": "from ..a import y", "f/leaf.py": ""},
        {"a.py": "class A:\n    from .b import x", "b.py": "if True:\n    from .a import y"},
    ],
)
def test_a_circle_is_seen(write, files):
    (complaint,) = circles(write(files))
    assert "pkg.a" in complaint


@pytest.mark.parametrize(
    "files",
    [
        {"a.py": "from .b import x", "b.py": "def late():\n    from .a import y"},
        {"a.py": "from .b import x", "b.py": "if TYPE_CHECKING:\n    from .a import y"},
        {"__init__.py": "from .f import x", "f/__init__.py": "from .leaf import x", "f/leaf.py": ""},
    ],
)
def test_what_is_imported_later_makes_no_circle(write, files):
    assert circles(write(files)) == []


def test_a_module_that_its_package_hides_is_seen(write):
    assert list(hidden_modules(write({"__init__.py": "from .act import act", "act.py": ""}))) == ["pkg.act"]
    named = {"f/__init__.py": "from .a import act as act\n__all__ = ['act']", "f/act.py": "", "f/a.py": ""}
    assert list(hidden_modules(write(named | {"__init__.py": ""}))) == ["pkg.f.act"]


def test_a_long_file_and_a_long_function_are_seen(write):
    body = "    x = 1\n" * (MOST_LINES_OF_FUNCTION - 2)
    docstring = '    """\n' + "    many lines\n" * 90 + '    """\n'
    package = write(
        {
            "file.py": "x = 1\n" * (MOST_LINES + 1),
            "short.py": "x = 1\n" * MOST_LINES,
            "f/long.py": f"class A:\n  def act(\n    self\n  ):\n{docstring}{body}",
            "f/fits.py": f"def act(\n):\n{docstring}{body}",
        }
    )
    assert list(long_files(package)) == ["file.py"]
    assert list(long_functions(package)) == ["f/long.py A.act"]


def test_an_entry_that_is_no_longer_needed_is_an_error():
    assert complain_of_list(iter(["a", "b"]), {"b": "", "c": ""}, "LIST") == [
        "a is not in LIST",
        "c is no longer needed in LIST: take it out",
    ]


def test_a_folder_that_says_nothing_is_seen(write):
    package = write({"f/leaf.py": "", "g/__init__.py": "x = 1", "h/__init__.py": '"""Says something."""'})
    assert mute_folders(package) == ["f", "g"]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("from .b import _x", "pkg.a imports _x of pkg.b"),
        ("from . import _c", "pkg.a imports _c of pkg._c"),
        ("def late():\n    from .b import x, _x as x", "pkg.a imports _x of pkg.b"),
        ("from . import b\nb._x()", "pkg.a uses _x of pkg.b"),
        ("from . import b as other\nother._x()", "pkg.a uses _x of pkg.b"),
        ("import pkg.b as other\nother._x()", "pkg.a uses _x of pkg.b"),
        ("import pkg.b\npkg.b._x()", "pkg.a uses _x of pkg.b"),
    ],
)
def test_a_private_name_of_another_file_is_seen(write, line, complaint):
    assert list(private_names(write({"a.py": line, "b.py": "", "_c.py": ""}))) == [complaint]


def test_private_names_of_the_file_itself_and_of_others_are_fine(write):
    text = "import torch\nfrom . import __version__\n_x = torch._C\nclass A:\n    def act(self): self._x = _x"
    assert list(private_names(write({"a.py": text}))) == []


@pytest.mark.parametrize(
    "line",
    [
        "from dhr_refine.demo import models",
        "from dhr_refine.demo.models import require",
        "from dhr_refine import demo",
        "import dhr_refine.demo.run",
        "def late():\n    importlib.import_module('dhr_refine.demo.run')",
    ],
)
def test_an_example_that_takes_from_the_demo_is_seen(tmp_path, line):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "plot.py").write_text(f"import dhr_refine\n{line}")
    assert len(list(imports_of_demo(tmp_path))) == 1


def test_two_files_of_one_name_are_seen(tmp_path):
    for name in ("a/test_one.py", "b/test_one.py", "a/conftest.py", "b/conftest.py", "b/test_two.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert names_twice(tmp_path) == ["test_one.py"]
