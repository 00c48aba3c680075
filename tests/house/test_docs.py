"""What can be checked of the documentation without building it: names, links, code blocks, titles."""

from __future__ import annotations

import ast
import fnmatch
import inspect
import re
from pathlib import Path

import pytest
from api_pages import API, DOCS, documented, read, resolve
from places import ROOT

PAGES = sorted([*DOCS.glob("*.md"), *API])
EXAMPLES = sorted((ROOT / "examples").glob("plot_*.py"))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("name", documented())
def test_api_entry_exists_and_is_documented(name):
    assert inspect.getdoc(resolve(name))


@pytest.mark.parametrize("path", EXAMPLES, ids=relative)
def test_example_is_ready_for_the_gallery(path):
    text = read(path)
    docstring = ast.get_docstring(ast.parse(text))
    assert docstring, "the gallery shows the module docstring"
    title, line, *body = docstring.splitlines()
    assert set(line) == {"="}, "the title needs a line below it"
    assert len(line) == len(title), "the line below the title must be as long as the title"
    assert " ".join(body).strip(), "one sentence says what the page teaches"
    assert "\n# %%\n" in text, "cells are separated by # %%"
    for underlined, rule in re.findall(r"^# (\S.*)\n# (-{3,})$", text, re.M):
        assert len(underlined) == len(rule), underlined


def slug(heading: str) -> str:
    """The anchor that MyST and GitHub give to a heading."""
    plain = re.sub(r"[`*]|\]\([^)]*\)|\[", "", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def without_code(text: str) -> str:
    return re.sub(r"^(`{3,})(?!\{).*?^\1$", "", text, flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    text = without_code(read(page))
    slugs = {slug(heading) for heading in re.findall(r"^#+ (.+)$", text, re.M)}
    return slugs | set(re.findall(r"^\(([\w-]+)\)=$", text, re.M))


def links(page: Path) -> list[str]:
    found = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", without_code(read(page))))
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def source(page: Path, target: str) -> Path:
    """The file behind a link: pages of the gallery are made from the examples."""
    path = (page.parent / target).resolve() if target else page
    if path.parent == DOCS / "gallery":
        name = "GALLERY_HEADER.rst" if path.name == "index.rst" else f"{path.stem}.py"
        return ROOT / "examples" / name
    return path


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CHANGELOG.md", *PAGES], ids=relative)
def test_links_resolve(page):
    for link in links(page):
        target, _, anchor = link.partition("#")
        path = source(page, target)
        assert path.exists(), link
        if anchor and path.suffix == ".md":
            assert anchor in anchors(path), link


@pytest.mark.parametrize("path", EXAMPLES, ids=relative)
def test_references_of_examples_resolve(path):
    text = read(path)
    for target in re.findall(r":doc:`(?:[^`<]*<)?([^`>]+)>?`", text):
        page = DOCS / f"{target[1:]}.md" if target.startswith("/") else path.parent / f"{target}.py"
        assert page.exists(), target
    for name in re.findall(r"(?<!`)`(dhr_refine[\w.]*)`", text):
        assert resolve(name) is not None, name


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_roles_resolve(page):
    for name in re.findall(r"\{py:\w+\}`(?:[^`<]*<)?~?(dhr_refine[\w.]*)>?`", read(page)):
        assert resolve(name) is not None, name


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=relative)
def test_python_blocks_compile(page):
    for block in re.findall(r"^```python\n(.*?)^```$", read(page), re.M | re.S):
        compile(block, relative(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("page", [DOCS / "index.md", DOCS / "api" / "index.md"], ids=relative)
def test_every_page_is_in_a_table_of_contents(page):
    entries = []
    for block in re.findall(r"^```\{toctree\}\n(.*?)^```$", read(page), re.M | re.S):
        entries += [line for line in block.splitlines() if line and not line.startswith(":")]
    for entry in entries:
        if "*" not in entry:
            assert source(page, f"{entry}.md").exists() or source(page, f"{entry}.rst").exists(), entry
    for other in page.parent.glob("*.md"):
        listed = other == page or any(fnmatch.fnmatch(other.stem, entry) for entry in entries)
        assert listed, f"{relative(other)} is in no table of contents"


PICTURES = sorted((DOCS / "images").glob("*.svg"))


@pytest.mark.parametrize("path", [DOCS / "architecture.md", *PICTURES], ids=relative)
def test_files_that_the_architecture_names_are_there(path):
    """Each below the package or below a folder of it, as a row names the folder once for several files."""
    package = ROOT / "src" / "dhr_refine"
    folders = [package, ROOT, *(folder for folder in package.rglob("*") if folder.is_dir())]
    named = set(re.findall(r"[\w*./]*\w[\w*]*(?:\.py\b|/(?!\w))", read(path)))
    assert len(named) >= 3
    gone = [name for name in named if not any(any(folder.glob(name.rstrip("/"))) for folder in folders)]
    assert [name for name in gone if "BACKEND" not in name] == []
