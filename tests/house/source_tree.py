"""What the source of a package says about itself, read without importing any of it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Module(NamedTuple):
    """A file of a package."""

    name: str  # in full: "dhr_refine.crf.unary"; a folder's __init__ has the name of the folder
    path: Path
    tree: ast.Module

    @property
    def folder(self) -> str:
        """Full name of the package that relative imports start from."""
        return self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]

    def place(self, line: int) -> str:
        """Where to look, for a message."""
        return f"{self.name}:{line}"


class Import(NamedTuple):
    """One name, or one module, that a module takes from another one of the same package."""

    importer: str
    target: str  # the module that is imported
    name: str | None  # what is taken from it; None = the module itself
    alias: str  # what the importer writes for it
    line: int
    at_once: bool  # while the importer itself is imported; else in a function, or for type checkers alone


Package = dict[str, Module]


def read_package(folder: Path) -> Package:
    """All modules below a folder, by their full names."""
    package = {}
    for path in sorted(folder.rglob("*.py")):
        parts = [folder.name, *path.relative_to(folder).with_suffix("").parts]
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        package[name] = Module(name, path, ast.parse(path.read_text(encoding="utf-8")))
    return package


def imports(module: Module, package: Package) -> Iterator[Import]:
    """Every import of one module of the package by another, relative, absolute or by its name as a text."""
    for node, at_once in _nodes(module.tree, at_once=True):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in package:
                    as_name = alias.asname or alias.name
                    yield Import(module.name, alias.name, None, as_name, node.lineno, at_once)
        elif isinstance(node, ast.ImportFrom):
            source = _source(node, module)
            for alias in node.names:
                inner, as_name = f"{source}.{alias.name}", alias.asname or alias.name
                if inner in package:
                    yield Import(module.name, inner, None, as_name, node.lineno, at_once)
                elif source in package:
                    yield Import(module.name, source, alias.name, as_name, node.lineno, at_once)
        elif isinstance(node, ast.Constant) and "." in str(node.value) and node.value in package:
            # What importlib is told; a module that is found by its name is imported late.
            yield Import(module.name, str(node.value), None, "", node.lineno, at_once=False)


def _nodes(node: ast.AST, *, at_once: bool) -> Iterator[tuple[ast.AST, bool]]:
    """Every node below one, and whether it runs when the module is imported."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for part in child.body:
                yield part, False
                yield from _nodes(part, at_once=False)
            for part in child.orelse:
                yield part, at_once
                yield from _nodes(part, at_once=at_once)
            continue
        yield child, at_once
        late = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        yield from _nodes(child, at_once=at_once and not late)


def _source(node: ast.ImportFrom, module: Module) -> str:
    """Full name of what stands after ``from``."""
    if node.level == 0:
        return node.module or ""
    parts = module.folder.split(".")
    return ".".join(parts[: len(parts) - node.level + 1] + ([node.module] if node.module else []))


def exported(module: Module) -> set[str]:
    """Names that a module offers: its ``__all__``, or what it imports where it has none."""
    for node in module.tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    found = [n for n in module.tree.body if isinstance(n, (ast.Import, ast.ImportFrom))]
    return {alias.asname or alias.name for node in found for alias in node.names}


def functions(module: Module) -> Iterator[tuple[str, int]]:
    """Dotted name of every function, and how many lines it has without its docstring."""

    def walk(node: ast.AST, prefix: str) -> Iterator[tuple[str, int]]:
        for child in ast.iter_child_nodes(node):
            inner = prefix
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                inner = f"{prefix}{child.name}."
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield inner[:-1], _length(child)
            yield from walk(child, inner)

    yield from walk(module.tree, "")


def _length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    if ast.get_docstring(function) is not None:
        docstring = function.body[0]
        lines -= (docstring.end_lineno or docstring.lineno) - docstring.lineno + 1
    return lines
