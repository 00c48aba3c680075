"""Everything public says what it takes, gives, refuses and looks like in use, and stands on a page."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import re
import sys
from collections.abc import Callable
from textwrap import dedent
from typing import Any, NamedTuple

import numpy as np
import pytest
from api_pages import documented, documented_modules, public, resolve
from torch import Tensor

import dhr_refine

MODULES = (
    "crf",
    "errors",
    "features",
    "files",
    "folders",
    "metrics",
    "propagation",
    "pydensecrf",
    "pydensecrf.densecrf",
    "pydensecrf.utils",
    "sam",
    "training",
    "transport",
    "viz",
)
# Classes that callers make by calling them; all others are results that they read, or have a method for it.
MADE_BY_CALLERS = {
    "ConstUnary",
    "DenseCRF",
    "DenseCRF2D",
    "DenseCRFLattice",
    "LogisticUnary",
    "MaskScores",
    "Recipe",
    "RunOptions",
}
# What is still missing. It must go; it must not grow.
MISSING = {
    "show_tau": ["shape of values"],
}

# At least one comma, so that no remark in brackets passes for a shape: (B,), (H, W), (B, sum of D, 3).
SHAPE = re.compile(r"\([\w'.*+ -]{1,9},(?: ?[\w'.*+ -]{1,9},)*(?: ?[\w'.*+ -]{1,9})?\)|\bsame shape\b")
REFERENCE = re.compile(r":(?:func|class|meth):`~?([\w.]+)`")
LIKE = re.compile(r"\bas ``(\w+)``")


def sections(text: str) -> dict[str, str]:
    """Numpydoc sections of a docstring, by their titles."""
    parts = re.split(r"^(\S.*)\n-{3,}\n", f"{text}\n", flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def entries(section: str) -> dict[str, str]:
    """What a section says of each name: type and description."""
    found = {}
    for entry in re.split(r"^(?=\S)", section, flags=re.M):
        head, _, rest = entry.partition("\n")
        names, _, kind = head.partition(" : ")
        found |= {name.strip().lstrip("*"): f"{kind}\n{rest}".strip() for name in names.split(",")}
    return found


def lacks_of(name: str, thing: Any) -> list[str]:
    """What the docstring of a public name lacks; nothing where it is a constant."""
    if inspect.isclass(thing):
        return class_lacks(thing, made=name in MADE_BY_CALLERS)
    return function_lacks(thing) if callable(thing) else []


def function_lacks(function: Callable[..., Any]) -> list[str]:
    text = inspect.getdoc(function)
    if not text:
        return ["docstring"]
    found = sections(text)
    lacks = [title for title in ("Raises", "Examples") if title not in found]
    if ">>> " not in found.get("Examples", ">>> "):
        lacks.append("an example that runs")
    if inspect.signature(function).return_annotation != "None" and not {"Returns", "Yields"} & set(found):
        lacks.append("Returns")
    return lacks + parameters_lack(function, found)


def parameters_lack(function: Callable[..., Any], found: dict[str, str]) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    annotations = {p.name: p.annotation for p in parameters if p.name != "self"}
    return parts_lack(annotations, entries(found.get("Parameters", "")), function)


def class_lacks(kind: type, *, made: bool) -> list[str]:
    text = inspect.getdoc(kind) if "__doc__" in vars(kind) else None
    if not text:
        return ["docstring"]
    found = sections(text)
    lacks = [title for title in ("Raises", "Examples") if made and title not in found]
    if own := fields(kind):
        described = entries(found.get("Attributes", "")) | field_texts(kind)
        lacks += parts_lack(own, described, kind)
    elif made:
        lacks += parameters_lack(kind, found)
    for name, member in vars(kind).items():
        if name.startswith("_") or name in own:
            continue
        text = inspect.getdoc(member)
        if (isinstance(member, (property, classmethod)) or inspect.isfunction(member)) and not text:
            lacks.append(f"docstring of {name}")
        elif isinstance(member, classmethod) or inspect.isfunction(member):
            own_lacks = parameters_lack(getattr(kind, name), sections(text or ""))
            lacks += [f"{lack} of {name}" for lack in own_lacks]
    return lacks


def fields(kind: type) -> dict[str, Any]:
    """Annotations of the fields of a dataclass or named tuple."""
    if dataclasses.is_dataclass(kind):
        return {field.name: field.type for field in dataclasses.fields(kind)}
    bases = [inspect.get_annotations(base) for base in reversed(kind.__mro__)]
    annotations = {name: text for base in bases for name, text in base.items()}
    return {name: annotations[name] for name in getattr(kind, "_fields", ())}


def field_texts(kind: type) -> dict[str, str]:
    """The text that stands below each field in the source of a class."""
    found = {}
    for base in kind.__mro__:
        if base.__module__ != kind.__module__:
            continue
        (tree,) = ast.parse(dedent(inspect.getsource(base))).body
        assert isinstance(tree, ast.ClassDef)
        for field, below in zip(tree.body, tree.body[1:]):
            if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
                found[ast.unparse(field.target)] = str(ast.literal_eval(below.value))
    return found


def parts_lack(annotations: dict[str, Any], described: dict[str, str], owner: Any) -> list[str]:
    """Parameters or fields without a description, and tensors or arrays among them without a shape."""
    lacks = []
    for name, annotation in annotations.items():
        text = followed(name, described.get(name, ""))
        like = LIKE.search(text)
        if not text:
            lacks.append(f"description of {name}")
        elif SHAPE.search(text) or (like and like[1] in described):
            continue
        elif holds_arrays(annotation, owner):
            lacks.append(f"shape of {name}")
    return lacks


def followed(name: str, text: str) -> str:
    """What is said of a parameter; where that is "As in ...", what is said of it there."""
    if not text.startswith("As in :"):
        return text
    said = ""
    for path in REFERENCE.findall(text):
        first, *rest = path.split(".")
        docstring = inspect.getdoc(functools.reduce(getattr, rest, all_public()[first])) or ""
        said += entries(sections(docstring).get("Parameters", "")).get(name, "")
    return said


def holds_arrays(annotation: Any, owner: Any) -> bool:
    """Whether an annotation, as a type or as its text, names tensors or arrays."""
    scope = vars(sys.modules[owner.__module__])
    try:
        kind = eval(annotation, scope) if isinstance(annotation, str) else annotation
    except NameError:  # what type checkers alone import
        kind = annotation
    # What callers pass as a function says in its text what it is given; RefineSteps has shapes of its own.
    words = re.sub(r"Callable\[\[.*?\], .*?\]|RefineSteps\[list\[.*?\]\]", "", repr(kind))
    return re.search(r"\bTensor\b|\bndarray\b", words) is not None


def all_public() -> dict[str, Any]:
    """Every public name, once: of the package itself, else of its module."""
    found = {name: getattr(dhr_refine, name) for name in dhr_refine.__all__}
    for module in MODULES:
        for name in public(f"dhr_refine.{module}"):
            thing = resolve(f"dhr_refine.{module}.{name}")
            if not any(thing is other for other in found.values()):
                found[name] = thing
    return found


NAMES = all_public()


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_documented(name):
    assert lacks_of(name, NAMES[name]) == MISSING.get(name, [])


def test_what_is_missing_is_public():
    assert set(MISSING) <= set(NAMES)
    assert set(NAMES) >= MADE_BY_CALLERS


def test_modules_with_a_page_are_among_the_public_ones():
    assert documented_modules() <= {f"dhr_refine.{module}" for module in MODULES}


@pytest.mark.parametrize("module", [f"dhr_refine.{module}" for module in MODULES])
def test_the_page_of_a_module_names_what_it_offers(module):
    """A module without a page of its own is documented among the package's names."""
    names = public(module)
    if module in documented_modules():
        scope = f"{module}."
        found = [name[len(scope) :] for name in documented() if name.startswith(scope)]
        assert {name for name in found if "." not in name} == set(names)
    assert set(names) <= set(NAMES)


def test_the_pages_name_what_is_public_and_nothing_else():
    """A name of the package may stand on the page of its module."""
    found = {name.rpartition(".")[2] for name in documented() if not is_member(name)}
    assert found == set(NAMES)


def is_member(name: str) -> bool:
    return inspect.isclass(resolve(name.rpartition(".")[0]))


# What the rules say to things that break them, or do not.


class Result(NamedTuple):
    """A result.

    Attributes
    ----------
    told : Tensor, (B, C)
        Its numbers.
    """

    told: Tensor
    below: Tensor
    """(B, C, sum of D) numbers."""
    shapeless: np.ndarray
    """Numbers (which ones is not said)."""
    bare: int


@dataclasses.dataclass
class Made:
    """Something that callers make."""

    count: int
    """How many."""

    @property
    def size(self) -> int:
        return 1

    def act(self, values: Tensor, *, hard: bool) -> None:
        """Act.

        Parameters
        ----------
        values : Tensor
            What to act on.
        """


def good(values: Tensor, like: Tensor | None = None, *others: int) -> Tensor:
    """Do something.

    Parameters
    ----------
    values : Tensor, (B, C)
        What to act on.
    like : Tensor, as ``values``, optional
        What to act like.
    *others
        More.

    Returns
    -------
    Tensor

    Raises
    ------
    ValueError
        Never.

    Examples
    --------
    >>> 1
    1
    """
    return values


def bad(values: Tensor, mode: str) -> Tensor:
    """Do something.

    Parameters
    ----------
    values : Tensor
        What to act on (the values, as it were).

    Examples
    --------
    Left to the reader.
    """
    return values


def mute(values: Tensor) -> None:
    return None


def test_a_docstring_that_lacks_nothing_passes():
    assert function_lacks(good) == []


def test_what_a_docstring_lacks_is_seen():
    assert function_lacks(bad) == [
        "Raises",
        "an example that runs",
        "Returns",
        "shape of values",
        "description of mode",
    ]
    assert function_lacks(mute) == ["docstring"]
    assert class_lacks(Result, made=False) == ["shape of shapeless", "description of bare"]
    assert class_lacks(Made, made=False) == [
        "docstring of size",
        "shape of values of act",
        "description of hard of act",
    ]
    assert class_lacks(Made, made=True)[:2] == ["Raises", "Examples"]


def test_a_reference_to_another_docstring_is_followed():
    described = {"valid": "As in :func:`uss_rebalance`.", "iterations": "As in :func:`uss_rebalance`."}
    annotations = {"valid": "Tensor", "iterations": "int"}
    assert parts_lack(annotations, described, good) == ["description of iterations"]


@pytest.mark.parametrize(
    ("text", "is_shape"),
    [
        ("(B,)", True),
        ("(H, W)", True),
        ("(B, C, sum of D)", True),
        ("(1, D, h', w')", True),
        ("(B)", False),
        ("(at any resolution)", False),
        ("(a mask, that is to say, with labels)", False),
    ],
)
def test_what_counts_as_a_shape(text, is_shape):
    assert bool(SHAPE.search(text)) == is_shape
