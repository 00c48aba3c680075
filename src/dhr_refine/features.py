"""Features from what people have: tokens of a ViT as a map, and outputs of layers inside a model."""

from __future__ import annotations

import copy
import difflib
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from .checks import check_count, check_tensor, describe, read_ints

__all__ = ["capture_layers", "tokens_to_map"]

# Tokens in front of the patches in common ViTs: none, class, class and distillation, class and 4 registers.
_USUAL_PREFIXES = (0, 1, 2, 5)


def tokens_to_map(
    tokens: Tensor, *, grid: tuple[int, int] | None = None, prefix: int | None = None
) -> Tensor:
    """Arrange the patch tokens of a vision transformer as a feature map.

    Parameters
    ----------
    tokens : Tensor, (B, N, D)
        Output of a transformer: ``prefix`` class and register tokens, then h * w patch tokens row by row.
    grid : (int, int), optional
        Rows h and columns w of patches, image height and width divided by the patch size. Default: a square.
        Always pass it for inputs that are not square, since a number of tokens does not tell a shape: one
        class token and 15 x 17 patches are as many as 16 x 16 patches.
    prefix : int, optional
        Number of tokens in front of the patches: ``model.num_prefix_tokens`` in timm, ``1 +
        config.num_register_tokens`` in Hugging Face transformers. Default: what ``grid`` leaves over, or the
        only one of 0, 1, 2 and 5 that leaves a square.

    Returns
    -------
    Tensor, (B, D, h, w)
        A view of ``tokens``: dtype, device and gradients are kept.

    Raises
    ------
    ValueError, TypeError
        ``tokens`` is no (B, N, D) tensor, or N does not fit ``grid`` and ``prefix``, or several prefixes fit.

    Examples
    --------
    >>> import torch
    >>> from dhr_refine.features import tokens_to_map
    >>> tokens_to_map(torch.rand(2, 1 + 14 * 14, 384)).shape
    torch.Size([2, 384, 14, 14])
    >>> tokens_to_map(torch.rand(2, 5 + 24 * 32, 384), grid=(24, 32), prefix=5).shape
    torch.Size([2, 384, 24, 32])
    """
    check_tensor(tokens, "tokens", "(B, N, D)", ndim=3, plain=False)
    count = tokens.shape[1]
    if prefix is not None:
        check_count(prefix, "prefix", 0)
    if grid is None:
        prefix, side = _find_square(count, prefix)
        rows, columns = side, side
    else:
        rows, columns = read_ints(grid, "grid", "(rows, columns)", 1)
        left = count - rows * columns
        if (prefix is None and left not in _USUAL_PREFIXES) or (prefix is not None and left != prefix):
            raise ValueError(
                f"grid {rows} x {columns} has {rows * columns} patches, but tokens has {count} and prefix is "
                f"{prefix}: {left} tokens are left over; pass the grid of patches (image size divided by the "
                "patch size) and the number of tokens in front of them"
            )
        prefix = left
    return tokens[:, prefix:].transpose(1, 2).unflatten(2, (rows, columns))


def _find_square(count: int, prefix: int | None) -> tuple[int, int]:
    """The prefix and the side of the square that the other tokens fill."""
    found = []
    for candidate in _USUAL_PREFIXES if prefix is None else (prefix,):
        side = math.isqrt(max(0, count - candidate))
        if side > 0 and side * side == count - candidate:
            found.append((candidate, side))
    if len(found) == 1:
        return found[0]
    if prefix is not None:
        raise ValueError(
            f"tokens has {count} tokens, {prefix} of them in front, and the other {count - prefix} fill no "
            "square: pass grid=(rows, columns) of patches, or the right prefix"
        )
    if found:
        fits = " or ".join(f"prefix={p} with {side} x {side} patches" for p, side in found)
        raise ValueError(f"tokens has {count} tokens, which may be {fits}: pass prefix or grid")
    raise ValueError(
        f"tokens has {count} tokens, which is no square after {', '.join(map(str, _USUAL_PREFIXES))} tokens "
        "in front: pass grid=(rows, columns) of patches, or prefix"
    )


class _Captured(dict[str, Any]):
    """Outputs by layer name; a layer that did not run says so."""

    def __missing__(self, name: str) -> Any:
        raise KeyError(
            f"{name}: not captured. Capture it by name, and run the model inside the with block "
            "(torch.compile may skip the hooks: capture on the model as it was before compiling)"
        )


@contextmanager
def capture_layers(
    model: nn.Module, names: str | Sequence[str], *, detach: bool = True
) -> Iterator[dict[str, Any]]:
    """Capture what named layers of a model return, without changing the model.

    Parameters
    ----------
    model : nn.Module
        Any module; one wrapped in DistributedDataParallel or DataParallel is looked into.
    names : str or sequence of str
        Dotted names as in ``model.named_modules()``, such as ``"layer4"`` or ``"blocks.11.attn"``; of the
        wrapped module, without ``module.``, where there is a wrapper.
    detach : bool
        Cut what is captured from the graph. False keeps gradients.

    Yields
    ------
    dict
        Name to the output of that layer at its latest call; filled when the model runs inside the ``with``
        block, and still there after it. A layer called several times in one forward keeps the last output.
        Tensors are copies, safe from in-place operations that follow (a ReLU after a convolution); tuples,
        lists, dictionaries and the outputs of Hugging Face transformers keep their type.

    Raises
    ------
    ValueError, TypeError
        ``names`` that are no text, or that the model does not have: the message lists the nearest ones. A
        forward under DataParallel on several devices, where each layer runs once per device on a part of the
        batch.

    Notes
    -----
    The hooks are removed at the end of the block, also after an error.

    Examples
    --------
    >>> import torch
    >>> from dhr_refine.features import capture_layers
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 20, 1))
    >>> with capture_layers(model, ["1"]) as captured:
    ...     cams = model(torch.rand(2, 3, 16, 16))
    >>> captured["1"].shape
    torch.Size([2, 8, 14, 14])
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {describe(model)}: pass the model itself")
    wanted = _read_names(names)
    while isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        model = model.module
    layers = dict(model.named_modules(remove_duplicate=False))
    for name in wanted:
        if name not in layers:
            raise ValueError(f"names holds {name!r}, which the model does not have: {_near(name, layers)}")
    captured = _Captured()
    handles = []
    try:
        for name in wanted:
            handles.append(layers[name].register_forward_hook(_make_hook(name, captured, detach)))
        yield captured
    finally:
        for handle in handles:
            handle.remove()


def _read_names(names: Any) -> list[str]:
    """The names of one layer or several."""
    wanted = [names] if isinstance(names, str) or not isinstance(names, Iterable) else list(names)
    if not all(isinstance(name, str) for name in wanted):
        raise TypeError(
            f"names must be a name or a list of names, got {describe(names)}: pass names as in "
            "model.named_modules(), 'layer4' say"
        )
    return wanted


def _near(name: str, layers: dict[str, nn.Module]) -> str:
    """Name a few layers that may have been meant."""
    known = [layer for layer in layers if layer]
    # Children of the deepest part that exists first, then names that look alike.
    parent = name
    while parent and parent not in layers:
        parent = parent.rpartition(".")[0]
    inside = [layer for layer in known if parent and layer.rpartition(".")[0] == parent]
    bare = [layer for layer in known if layer == name.removeprefix("module.")]
    alike = difflib.get_close_matches(name, known, n=5, cutoff=0.5)
    near = list(dict.fromkeys([*bare, *alike, *inside[:12]]))
    if near:
        return f"did you mean one of {', '.join(map(repr, near))}?"
    top = [layer for layer in known if "." not in layer][:12]
    return f"it has {', '.join(map(repr, top)) or 'no layers'}; see model.named_modules()"


def _make_hook(name: str, captured: dict[str, Any], detach: bool) -> Any:
    def keep(module: nn.Module, _: Any, output: Any) -> None:
        if getattr(module, "_is_replica", False):
            raise ValueError(
                f"model runs {name!r} on several devices (DataParallel), each on a part of the batch: "
                "use DistributedDataParallel or one device, or return the features from forward"
            )
        captured[name] = _copy(output, detach)

    return keep


def _copy(value: Any, detach: bool) -> Any:
    """Copy the tensors of a nested output, so that later in-place operations do not reach them."""
    if isinstance(value, Tensor):
        return (value.detach() if detach else value).clone()
    if isinstance(value, dict):
        # Assigning keeps subclasses whole, ModelOutput of transformers among them.
        copied = copy.copy(value)
        for key, entry in value.items():
            copied[key] = _copy(entry, detach)
        return copied
    if isinstance(value, (tuple, list)):
        entries = [_copy(entry, detach) for entry in value]
        return type(value)(*entries) if hasattr(value, "_fields") else type(value)(entries)
    return value
