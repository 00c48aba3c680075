"""Breaks the package on purpose, one small change at a time, and counts how many changes the tests notice.

    python tests/mutants.py --count 200 --seed 0 --jobs 2
    python tests/mutants.py --count 40 --modules pooling rebalance --json mutants.json
    python tests/mutants.py --count 40 --modules pooling rebalance --again mutants.json

A mutant is the package with one change: ``<`` becomes ``<=``, a sign turns, a statement goes. Its tests run
in a process of their own, where an import hook puts the changed module in the place of the true one: no file
changes, so that numba finds its machine code on disk. A mutant is killed if a test fails or the tests take
far too long. One that survives shows a gap in the tests, unless it does the same as the true code for every
input that is allowed; such mutants are judged by a person, and listed with the reason in
``equivalent_mutants.json``.

Not changed: docstrings, annotations, assertions, texts, what stands in a ``raise`` or a decorator, and
modules that numba compiles (each mutant would be compiled for minutes; tests compare their results with
torch, POT and pydensecrf).
"""

from __future__ import annotations

import argparse
import ast
import functools
import hashlib
import importlib.abc
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "dhr_refine"
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.json")
VARIABLE = "DHR_REFINE_MUTANT"
LEAST_RATE = 0.9

# The files of each part, and the tests that are to notice a change in it: the quick and the close ones first.
FILES = {
    "pooling": ["pooling.py"],
    "rebalance": ["rebalance.py", "rebalance_calls.py"],
    "memory": ["discriminant.py", "memory/**/*.py"],
    "refine": ["refine.py", "seed.py", "crops.py", "steps.py"],
    "transport": ["transport/**/*.py"],
    "metrics": ["metrics/**/*.py"],
}
REFINE = [
    f"tests/step/test_refine{topic}.py"
    for topic in ("_reference", "_degenerate", "_batches", "_boundary", "_options", "")
]
STEP = ["tests/step/test_golden.py", *REFINE, "tests/step/test_waits.py"]
API = "tests/house/test_api.py"
TESTS = {
    "pooling": ["tests/step/test_pooling.py", "tests/step/test_rebalance.py", API, *STEP],
    "rebalance": ["tests/step/test_rebalance.py", API, *STEP],
    "memory": ["tests/memory"],
    "refine": ["tests/step/test_recipe.py", API, *STEP, "tests/inputs", "tests/step/test_devices.py"],
    "transport": [
        "tests/transport/test_plans.py",
        "tests/transport/test_transport_gradients.py",
        "tests/transport/test_transport_errors.py",
        "tests/transport",
        API,
        "tests/step/test_rebalance.py",
        "tests/step/test_golden.py",
    ],
    "metrics": ["tests/metrics"],
}
COMPILED = "*_numba.py"


class Mutant(NamedTuple):
    """One change of one file."""

    part: str
    path: str  # within the package
    function: str
    line: int
    before: str
    after: str
    source: str  # of the whole file, changed

    @property
    def key(self) -> str:
        """What stays the same when other lines of the file change."""
        return f"{self.path} {self.function}: {self.before} -> {self.after}"


# How code is changed: (start, end, text) replaces the bytes of a file from start to end.

Edit = tuple[int, int, str]
OPERATORS = {
    ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="), ast.NotEq: ("!=", "=="), ast.Is: ("is", "is not"), ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"), ast.NotIn: ("not in", "in"), ast.And: ("and", "or"), ast.Or: ("or", "and"),
    ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "/"), ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"), ast.Mod: ("%", "*"), ast.Pow: ("**", "*"), ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
}  # fmt: skip
NAMES = [
    ("min", "max"), ("amin", "amax"), ("argmin", "argmax"), ("minimum", "maximum"), ("any", "all"),
    ("floor", "ceil"), ("zeros", "ones"), ("zeros_like", "ones_like"), ("clamp_min", "clamp_max"),
    ("clamp_min_", "clamp_max_"), ("triu", "tril"), ("sum", "mean"), ("exp", "log"), ("argmax", "amax"),
    ("nanmean", "mean"), ("logical_and", "logical_or"), ("cumsum", "cumprod"),
]  # fmt: skip
OTHER_NAME = {name: other for one, two in NAMES for name, other in ((one, two), (two, one))}
# Methods that leave a tensor a tensor: without the call the code still runs.
DROPPED = (
    *("abs", "clamp", "clamp_min", "clamp_max", "clamp_min_", "clamp_max_", "clone", "contiguous", "detach"),
    *("double", "exp", "float", "flip", "log", "long", "nan_to_num", "relu", "round", "sqrt", "to"),
)

# Functions whose last two arguments are of one kind; elsewhere the first call would fail.
SWAPPED = ("where", "lerp", "addcmul", "addcmul_", "sub", "div", "arange", "divide", "pow", "bincount")


class Text:
    """A source file, with the places of its nodes as offsets in bytes."""

    def __init__(self, path: Path) -> None:
        self.bytes = path.read_bytes()
        self.tree = ast.parse(self.bytes)
        self.starts = [0]
        for line in self.bytes.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))

    def start(self, node: Any) -> int:
        return self.starts[node.lineno - 1] + node.col_offset

    def end(self, node: Any) -> int:
        return self.starts[node.end_lineno - 1] + node.end_col_offset

    def of(self, node: ast.AST) -> str:
        return self.bytes[self.start(node) : self.end(node)].decode()

    def between(self, start: int, end: int, old: str, new: str) -> Edit | None:
        """Replace a word or sign between two nodes, where else only brackets and blanks stand."""
        found = re.search(rf"(?<![\w<>=]){re.escape(old)}(?![\w<>=])", self.bytes[start:end].decode())
        return (start + found.start(), start + found.end(), new) if found else None

    def replace(self, node: ast.AST, new: str) -> Edit:
        return self.start(node), self.end(node), new


def edits(node: ast.AST, text: Text) -> Iterator[Edit | None]:
    """Ways to change one node."""
    if isinstance(node, (ast.Compare, ast.BoolOp, ast.BinOp)):
        yield from operator_edits(node, text)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub, ast.Invert)):
        sign = {ast.Not: "not", ast.USub: "-", ast.Invert: "~"}[type(node.op)]
        yield text.between(text.start(node), text.start(node.operand), sign, "")
    elif isinstance(node, ast.Constant):
        yield from constant_edits(node, text)
    elif isinstance(node, (ast.If, ast.IfExp, ast.While)):
        yield text.replace(node.test, f"not ({text.of(node.test)})")
    elif isinstance(node, ast.Call):
        yield from call_edits(node, text)
    elif isinstance(node, ast.Slice):
        for bound in (node.lower, node.upper):
            if bound is not None and not isinstance(bound, ast.Constant):
                yield text.replace(bound, f"{text.of(bound)} + 1")
                yield text.replace(bound, f"{text.of(bound)} - 1")
    elif isinstance(node, ast.AugAssign) and type(node.op) in OPERATORS:
        old, new = OPERATORS[type(node.op)]
        place = text.end(node.target), text.start(node.value)
        yield text.between(*place, f"{old}=", f"{new}=")
        yield text.replace(node, "pass")
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield text.replace(node, "pass")
    elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        # A value that a name has already stays.
        names = {inner.id for inner in ast.walk(node.value) if isinstance(inner, ast.Name)}
        if node.targets[0].id in names:
            yield text.replace(node, "pass")


def operator_edits(node: ast.Compare | ast.BoolOp | ast.BinOp, text: Text) -> Iterator[Edit | None]:
    if isinstance(node, ast.Compare):
        triples = list(zip([node.left, *node.comparators], node.ops, node.comparators))
    elif isinstance(node, ast.BoolOp):
        triples = [(left, node.op, right) for left, right in zip(node.values, node.values[1:])]
    else:
        triples = [(node.left, node.op, node.right)]
    for left, operator, right in triples:
        if type(operator) in OPERATORS:
            yield text.between(text.end(left), text.start(right), *OPERATORS[type(operator)])


def constant_edits(node: ast.Constant, text: Text) -> Iterator[Edit]:
    if isinstance(node.value, bool):
        yield text.replace(node, str(not node.value))
    elif isinstance(node.value, int):
        yield text.replace(node, str(node.value + 1))
        yield text.replace(node, str(node.value - 1) if node.value else "(-1)")
    elif isinstance(node.value, float):
        yield text.replace(node, repr(2 * node.value or 1.0))


def call_edits(node: ast.Call, text: Text) -> Iterator[Edit]:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name in OTHER_NAME:
        end = text.end(node.func)
        yield end - len(name), end, OTHER_NAME[name]
    if isinstance(node.func, ast.Attribute) and name in DROPPED:
        yield text.replace(node, f"({text.of(node.func.value)})")
    if any(isinstance(argument, ast.GeneratorExp) for argument in node.args):
        return
    positional = [text.of(argument) for argument in node.args]
    named = [text.of(keyword) for keyword in node.keywords]  # type: ignore[arg-type]

    def call(arguments: list[str]) -> Edit:
        return text.replace(node, f"{text.of(node.func)}({', '.join(arguments)})")

    for index in range(len(named)):
        yield call(positional + named[:index] + named[index + 1 :])
    if name in SWAPPED and len(positional) > 1:
        yield call([*positional[:-2], positional[-1], positional[-2], *named])


def changeable(node: ast.AST, function: str = "") -> Iterator[tuple[ast.AST, str]]:
    """Every node that may be changed, with the function that it stands in."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, (ast.Raise, ast.Assert, ast.JoinedStr)):
                continue
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Assign) and ast.unparse(child.targets[0]) == "__all__":
                continue
            inner = function
            if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
                inner = f"{function}.{child.name}".lstrip(".")
            yield child, inner
            yield from changeable(child, inner)


def mutants(part: str) -> Iterator[list[Mutant]]:
    """For every node of a part that can be changed, the ways to do so."""
    for pattern in FILES[part]:
        for path in sorted(SOURCE.glob(pattern)):
            if path.match(COMPILED):
                continue
            text = Text(path)
            for node, function in changeable(text.tree):
                if found := [make(part, path, function, text, edit) for edit in edits(node, text) if edit]:
                    yield found


def make(part: str, path: Path, function: str, text: Text, edit: Edit) -> Mutant:
    """Apply a change."""
    start, end, new = edit
    source = (text.bytes[:start] + new.encode() + text.bytes[end:]).decode()
    first = text.bytes.rfind(b"\n", 0, start) + 1
    last = text.bytes.find(b"\n", end)
    before = text.bytes[first:last].decode()
    after = (text.bytes[first:start] + new.encode() + text.bytes[end:last]).decode()
    within = path.relative_to(SOURCE).as_posix()
    line = text.bytes.count(b"\n", 0, start) + 1
    return Mutant(part, within, function, line, flat(before), flat(after), source)


def is_change(mutant: Mutant) -> bool:
    """Whether a mutant is Python, and not the same as the true code."""
    try:
        return ast.dump(ast.parse(mutant.source)) != meaning(SOURCE / mutant.path)
    except SyntaxError:
        return False


@functools.cache
def meaning(path: Path) -> str:
    return ast.dump(ast.parse(path.read_bytes()))


def flat(code: str) -> str:
    """Code on one line, without its comments."""
    return " ".join(re.sub(r"\s#\s.*", "", code).split())


def choose(parts: list[str], count: int, seed: int) -> list[Mutant]:
    """A sample of mutants, one for each node that is drawn.

    A node's lot depends on the seed and on its own line: changes elsewhere leave most of a sample as it was.
    """

    def lot(text: str) -> str:
        return hashlib.sha256(f"{seed} {text}".encode()).hexdigest()

    nodes = [found for part in parts for found in mutants(part)]
    nodes.sort(key=lambda found: lot(found[0].key))
    chosen: dict[str, Mutant] = {}
    for found in nodes:
        if len(chosen) == count:
            break
        ways = sorted(found, key=lambda mutant: lot(mutant.key))
        mutant = next((way for way in ways if way.key not in chosen and is_change(way)), None)
        if mutant is not None:
            chosen[mutant.key] = mutant
    return list(chosen.values())


# How a mutant is run. In the process of its tests this file is a plugin of pytest, and installs the hook.


class Hook(importlib.abc.MetaPathFinder):
    """Finds one module of the package changed, and leaves all others to Python."""

    def __init__(self, path: str, source: str) -> None:
        self.path, self.source = SOURCE / path, source
        parts = ["dhr_refine", *Path(path).with_suffix("").parts]
        self.name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> Any:
        if fullname != self.name:
            return None
        loader = Changed(fullname, str(self.path))
        loader.source = self.source
        return importlib.util.spec_from_file_location(fullname, self.path, loader=loader)


class Changed(SourceFileLoader):
    """Compiles a text in place of the file."""

    source: str

    def get_code(self, fullname: str) -> Any:
        return compile(self.source, self.path, "exec", dont_inherit=True)


def pytest_configure() -> None:
    """Hypothesis: fewer examples, and no search for the smallest one that fails."""
    from hypothesis import Phase, settings

    phases = (Phase.explicit, Phase.generate)
    settings.register_profile("mutants", deadline=None, derandomize=True, max_examples=20, phases=phases)
    settings.load_profile("mutants")


if VARIABLE in os.environ and __name__ != "__main__":
    sys.meta_path.insert(0, Hook(*json.loads(Path(os.environ[VARIABLE]).read_text(encoding="utf-8"))))


def run_tests(part: str, path: str, source: str, limit: float | None) -> tuple[str, float]:
    """What stops the tests of a part where a file has another source ("" = nothing), and their seconds."""
    start = time.monotonic()
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        json.dump([path, source], file)
        file.flush()
        folders = [str(ROOT / "src"), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
        changed = {VARIABLE: file.name, "PYTHONPATH": os.pathsep.join(folders), "OMP_NUM_THREADS": "1"}
        tests = [test for test in TESTS[part] if (ROOT / test).exists()]
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-x",
            "-q",
            "-p",
            "mutants",
            "-p",
            "no:cacheprovider",
            *tests,
        ]
        try:
            answer = subprocess.run(
                command, cwd=ROOT, env=os.environ | changed, capture_output=True, text=True, timeout=limit
            )
        except subprocess.TimeoutExpired:
            return "timeout", time.monotonic() - start
    seconds = time.monotonic() - start
    if answer.returncode == 0:
        return "", seconds
    stopped = re.search(r"^(?:FAILED|ERROR) ([^\s]+)", answer.stdout, re.M)
    if answer.returncode in (3, 4, 5):  # of pytest itself
        raise RuntimeError(f"{' '.join(command)}\n{answer.stdout}\n{answer.stderr}")
    return stopped[1] if stopped else f"exit status {answer.returncode}", seconds


def time_limits(parts: list[str]) -> dict[str, float]:
    """Seconds that the tests of each part may take; they must pass without a change."""
    limits = {}
    for part in parts:
        first = next(mutants(part))[0].path
        stopped, seconds = run_tests(part, first, (SOURCE / first).read_text(encoding="utf-8"), None)
        if stopped:
            raise SystemExit(f"the tests of {part} must pass before anything is changed: {stopped}")
        print(f"{part}: {seconds:.0f} s for all its tests", flush=True)
        limits[part] = 30 + 4 * seconds
    return limits


def show(mutant: Mutant) -> str:
    return (
        f"src/dhr_refine/{mutant.path}:{mutant.line} {mutant.function}\n"
        f"  - {mutant.before}\n  + {mutant.after}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Count small changes of the package that its tests notice.")
    parser.add_argument("--count", type=int, default=200, help="mutants to make (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="which ones (default: 0)")
    parser.add_argument("--modules", nargs="+", choices=FILES, default=list(FILES), help="parts to change")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time (default: 1)")
    parser.add_argument("--json", type=Path, help="write every mutant and what became of it to this file")
    parser.add_argument(
        "--again", type=Path, help="make the survivors that this file of --json has, no others"
    )
    options = parser.parse_args()
    chosen = choose(options.modules, options.count, options.seed)
    if options.again:
        table = json.loads(options.again.read_text(encoding="utf-8"))
        survived = {entry["key"] for entry in table if entry["killed_by"] == ""}
        chosen = [mutant for mutant in chosen if mutant.key in survived]
    listed = json.loads(EQUIVALENT.read_text(encoding="utf-8"))
    left = [mutant for mutant in chosen if mutant.key not in listed]
    limits = time_limits(sorted({mutant.part for mutant in left}))

    def run(mutant: Mutant) -> str:
        stopped, seconds = run_tests(mutant.part, mutant.path, mutant.source, limits[mutant.part])
        print(f"{'killed' if stopped else 'SURVIVED'} in {seconds:.0f} s: {mutant.key}", flush=True)
        return stopped

    with ThreadPoolExecutor(options.jobs) as pool:
        results = dict(zip((mutant.key for mutant in left), pool.map(run, left), strict=True))
    survivors = [mutant for mutant in left if not results[mutant.key]]
    print("\nSurvivors:", *(map(show, survivors) if survivors else ["none"]), sep="\n")
    print("\npart: killed of those that change what the part does; equivalent")
    for part in [*options.modules, "all"]:
        of_part = [mutant for mutant in chosen if part in (mutant.part, "all")]
        alive = [mutant for mutant in of_part if mutant.key in results]
        killed = sum(bool(results[mutant.key]) for mutant in alive)
        share = f"{killed / len(alive):.1%}" if alive else "-"
        print(f"{part}: {killed} of {len(alive)} ({share}); {len(of_part) - len(alive)}")
    if options.json:
        table = [
            {
                "key": mutant.key,
                "line": mutant.line,
                "killed_by": results.get(mutant.key),
                "equivalent": listed.get(mutant.key),
            }
            for mutant in chosen
        ]
        options.json.write_text(json.dumps(table, indent=1), encoding="utf-8")
    return 0 if len(left) - len(survivors) >= LEAST_RATE * len(left) else 1


if __name__ == "__main__":
    sys.exit(main())
