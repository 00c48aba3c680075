"""Machine code on disk: never that of other sources, never a damaged one."""

from __future__ import annotations

import ast
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

import dhr_refine

PACKAGE = Path(dhr_refine.__file__).parent

pytest.importorskip("numba", reason="needs numba: pip install numba")

# --- the fingerprint of the sources -------------------------------------------------------------------


def modules() -> dict[str, Path]:
    """Every module of the package by its full name."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(name: str, every: dict[str, Path]) -> set[str]:
    """Modules of the package that a module imports anywhere, or takes names from."""
    package = name if every[name].name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(every[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")
            base = ".".join(above[: len(above) - node.level + 1]) if node.level else ""
            base = ".".join(filter(None, [base, node.module]))
            # A name may be a submodule, or something in the package's own file.
            found |= {
                f"{base}.{alias.name}" if f"{base}.{alias.name}" in every else base for alias in node.names
            }
    return found & every.keys()


def compiles(path: Path) -> bool:
    """Whether a module holds functions for numba: compiled ones, or generators of machine code."""
    marks = {"compiled", "inlined", "intrinsic", "_intrinsic", "njit", "jit", "register_model", "overload"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            used = node.decorator_list
        elif isinstance(node, ast.Call):
            used = [node]
        else:
            continue
        for mark in used:
            if isinstance(mark, ast.Name) and mark.id == "overload":
                continue  # of typing: numba's is called
            mark = mark.func if isinstance(mark, ast.Call) else mark
            name = mark.attr if isinstance(mark, ast.Attribute) else getattr(mark, "id", None)
            if name in marks and not (
                isinstance(mark, ast.Attribute) and ast.unparse(mark.value) == "triton"
            ):
                return True
    return False


def test_the_fingerprint_covers_all_that_machine_code_is_made_of():
    from dhr_refine.compiled import jit

    every = modules()
    needed = {name for name, path in every.items() if compiles(path)}
    # The search finds something: a module of each part that has compiled loops.
    for part in ("compiled.simd", "compiled.barrier", "transport.", "maps.", "crf.backends.numba."):
        assert any(name.startswith(f"dhr_refine.{part}") for name in needed), part
    waiting = list(needed)
    while waiting:
        further = imported(waiting.pop(), every) - needed
        needed |= further
        waiting += further
    assert "dhr_refine.crf.unary" in needed  # constants
    missing = {every[name] for name in needed} - set(jit.find_sources(PACKAGE))
    assert not missing


def test_the_fingerprint_follows_sources_and_nothing_else(tmp_path):
    from dhr_refine.compiled import jit

    twin = tmp_path / "dhr_refine"
    shutil.copytree(PACKAGE, twin, ignore=shutil.ignore_patterns("__pycache__"))
    before = jit.digest_sources(twin)
    assert before == jit.SOURCES
    covered = jit.find_sources(twin)
    for path in covered:
        content = path.read_bytes()
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        assert jit.digest_sources(twin) != before, path
        path.write_bytes(content)
    assert jit.digest_sources(twin) == before
    others = set(twin.rglob("*.py")) - set(covered)
    assert {twin / "refine.py", twin / "crf/inference.py", *twin.glob("viz/*.py")} <= others
    for path in others:
        path.write_text("")
    assert jit.digest_sources(twin) == before


def test_the_fingerprint_tells_files_apart(tmp_path):
    from dhr_refine.compiled import jit

    folder = tmp_path / "compiled"
    folder.mkdir()
    seen = set()
    for first, second in (("ab", "c"), ("a", "bc"), ("c", "ab")):
        (folder / "one.py").write_text(first)
        (folder / "two.py").write_text(second)
        seen.add(jit.digest_sources(tmp_path))
    assert len(seen) == 3


# --- damaged files ------------------------------------------------------------------------------------


def cut(length):
    def damage(path):
        content = path.read_bytes()
        path.write_bytes(content[: length if length >= 0 else len(content) + length])

    return damage


def cut_in_half(path):
    os.truncate(path, path.stat().st_size // 2)


def flip(place):
    def damage(path):
        content = bytearray(path.read_bytes())
        content[place if isinstance(place, int) else int(place * len(content))] ^= 16
        path.write_bytes(content)

    return damage


def replace(content):
    return lambda path: path.write_bytes(content)


def without_digest(path):
    path.write_bytes(path.read_bytes()[32:])


DAMAGE = {
    "empty": cut(0),
    "one byte": cut(1),
    "less than a digest": cut(31),
    "the digest alone": cut(32),
    "the digest and a byte": cut(33),
    "half": cut_in_half,
    "all but a byte": cut(-1),
    "first byte": flip(0),
    "a byte of the digest": flip(20),
    "first byte of the content": flip(32),
    "a byte at a third": flip(1 / 3),
    "a byte in the middle": flip(0.5),
    "last byte": flip(-1),
    "more at the end": lambda path: path.write_bytes(path.read_bytes() + b"."),
    "garbage": replace(np.random.default_rng(0).bytes(5000)),
    "numba's own format": without_digest,
    "a pickle": replace(pickle.dumps({})),
    "gone": Path.unlink,
}


@pytest.mark.parametrize("damage", list(DAMAGE.values()), ids=list(DAMAGE))
@pytest.mark.parametrize("which", ["index", "one file of code", "all files"])
def test_a_damaged_file_is_written_anew(compiling, which, damage):
    index, code = compiling.files("nbi"), compiling.files("nbc")
    assert (len(index), len(code)) == (1, 2)
    chosen = {"index": index, "one file of code": code[:1]}
    for path in chosen.get(which) or [path for path in compiling.cache.rglob("*") if path.is_file()]:
        damage(path)
    assert compiling.run() == ((1, 1) if which == "one file of code" else (0, 2))
    assert compiling.run() == (2, 0)


@pytest.mark.parametrize("pair", ["codes", "index and code", "indices", "codes of two functions"])
def test_files_that_changed_places_are_written_anew(compiling, pair):
    (index,), code = compiling.files("nbi"), compiling.files("nbc")
    (other,), others = (sorted(compiling.cache.rglob(f"module.shifted*.{end}")) for end in ("nbi", "nbc"))
    one, two = {
        "codes": code, "index and code": (index, code[0]), "indices": (index, other),
        "codes of two functions": (code[0], others[0]),
    }[pair]  # fmt: skip
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    assert compiling.run()[1] > 0
    assert compiling.run() == (2, 0)


@pytest.mark.parametrize("ending", ["nbi", "nbc"])
def test_what_cannot_be_read_is_compiled(compiling, ending):
    for path in compiling.files(ending):
        path.unlink()
        path.mkdir()
    assert compiling.run() == (0, 2)
    for path in compiling.files(ending):
        path.rmdir()
    assert compiling.run() == (0, 2)
    assert compiling.run() == (2, 0)


def full_after(size):
    """A file may have so many bytes."""
    return f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, -1))"


# Lines that a process runs before its first call; and what of the machine code is on disk afterwards.
FAILURES = {
    "no room": (full_after(0), 0),
    "room for a part": (full_after(100), 0),
    "room for the index": (full_after(2000), 0),
    "no renaming": ("def refuse(*_): raise PermissionError\nos.replace = refuse", 0),
    "the folder is gone": ("import shutil; shutil.rmtree(config.CACHE_DIR)", 2),
    "a file is in its place": (
        "import shutil; shutil.rmtree(config.CACHE_DIR); open(config.CACHE_DIR, 'w').close()",
        0,
    ),
}


@pytest.mark.parametrize(("failure", "kept"), list(FAILURES.values()), ids=list(FAILURES))
@pytest.mark.parametrize("before", ["nothing", "damaged files"])
def test_what_cannot_be_written_is_no_error(compiling, before, failure, kept):
    pytest.importorskip("resource", reason="limits of a process are a matter of POSIX")
    for path in list(compiling.cache.rglob("*.nb?")):
        path.unlink() if before == "nothing" else cut_in_half(path)
    assert compiling.run(failure) == (0, 2)
    assert not list(compiling.cache.rglob("*.tmp"))
    if compiling.cache.is_file():
        compiling.cache.unlink()
    assert compiling.run() == (kept, 2 - kept)
    assert compiling.run() == (2, 0)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_leave_to_write(compiling):
    folder = compiling.files("nbi")[0].parent
    compiling.files("nbc")[0].write_bytes(b"")
    folder.chmod(0o500)
    try:
        compiling.run()
    finally:
        folder.chmod(0o700)
    compiling.run()
    assert compiling.run() == (2, 0)


def test_code_of_an_older_source_is_not_taken_for_that_of_a_newer_one(not_compiled):
    # The index is that of the new source already, the code could not be written.
    assert not_compiled.run() == (0, 2)
    source = not_compiled.module.read_text()
    not_compiled.module.write_text(source.replace("OFFSET = 5", "OFFSET = 6"))
    failing = """
replace = os.replace
def refuse_code(source, target):
    if str(target).endswith(".nbc"):
        raise OSError
    replace(source, target)
os.replace = refuse_code
"""
    assert not_compiled.run(failing, [18, 12.5]) == (0, 2)
    assert not_compiled.run(expected=[18, 12.5]) == (0, 2)
    assert not_compiled.run(expected=[18, 12.5]) == (2, 0)


def test_a_file_says_for_which_key_it_is(tmp_path):
    from dhr_refine.compiled.cache import _CheckedFile

    file = _CheckedFile(str(tmp_path), "function", "stamp")
    file.save("int", "code of int")
    (name,) = file._load_index().values()
    assert file.load("int") == "code of int"
    # Another process has given the same name to another key's file.
    file._save_index({"float": name})
    assert file.load("float") is None
    file.save("float", "code of float")
    assert file.load("float") == "code of float"
    assert _CheckedFile(str(tmp_path), "function", "other stamp").load("float") is None


def test_compiles_without_a_cache_folder(monkeypatch):
    from dhr_refine.compiled import jit

    def refuse(function, sources):
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr(jit, "CheckedCache", refuse)
    function = jit.compiled(lambda value: value + 1)
    assert function(2) == 3
    assert function._cache.cache_path is None


def test_ctrl_c_does_not_break_off_the_compiler(monkeypatch):
    # Code of which a part is missing may never return: what the caller's thread needs is compiled aside.
    import threading

    from dhr_refine.compiled import jit

    threads = []
    aside = jit.aside

    def watched(function):
        return aside(lambda: threads.append(threading.current_thread()) or function())

    monkeypatch.setattr(jit, "aside", watched)
    double = jit.compiled(lambda x: 2 * x)
    assert (double(1), double(2), double(1.5)) == (2, 4, 3.0)
    assert len(threads) == 2  # one for each type
    assert threading.main_thread() not in threads
