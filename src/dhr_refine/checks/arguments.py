"""Argument checks shared by every public function: each names the argument, what came and the fix."""

from __future__ import annotations

import math
import os
import reprlib
import sys
import warnings
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Numbers that are looked at together: they stay in a core's second cache.
_PART = 2**17
_PACKAGE = __name__.partition(".")[0]
# Where the frames of this package are, and those of what may wrap its functions.
_INNER = tuple(f"{Path(file).parent}{os.sep}" for file in (str(Path(__file__).parent), torch.__file__))


def describe(value: object) -> str:
    """Say in a few words what an argument is, for error messages."""
    if isinstance(value, Tensor):
        return f"a {value.dtype} tensor of shape {tuple(value.shape)}"
    if isinstance(value, np.ndarray):
        return f"a NumPy {value.dtype} array of shape {value.shape}"
    return f"{type(value).__name__} {reprlib.repr(value)}"


def show(value: object) -> str:
    """The repr of an option, or what it is where that is long."""
    return describe(value) if isinstance(value, (Tensor, np.ndarray)) else reprlib.repr(value)


def show_shapes(result: Any) -> str:
    """Short repr of a named tuple of tensors: their shapes, not their numbers; of anything else its type."""

    def shown(value: Any) -> str:
        return str(tuple(value.shape)) if hasattr(value, "shape") else type(value).__name__

    parts = (f"{name}={shown(getattr(result, name))}" for name in result._fields)
    return f"{type(result).__name__}({', '.join(parts)})"


def check_tensor(
    value: object,
    name: str,
    shape: str,
    *,
    ndim: int | tuple[int, ...],
    floating: bool = False,
    plain: bool = True,
) -> Tensor:
    """Return ``value`` if it is a tensor of the wanted rank (and kind), else raise with its name.

    ``plain``: its numbers are read, so it must have some, and not be within a transform of torch.func.
    """
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{name} must be a torch.Tensor of shape {shape}, got {describe(value)}: {way_to_tensor(value)}"
        )
    if value.is_nested:
        raise TypeError(
            f"{name} must be a dense tensor, got a nested one: call {called()} on each of {name}.unbind()"
        )
    if value.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, got {value.layout}: call .to_dense() on it")
    ranks = (ndim,) if isinstance(ndim, int) else ndim
    if value.ndim not in ranks:
        fix = "add or remove axes to match"
        if "mask" in name and value.ndim == max(ranks) + 1:
            fix = f"call {_way_to_labels(value)} on it"
        raise ValueError(f"{name} must have shape {shape}, got {describe(value)}: {fix}")
    if floating and not value.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {describe(value)}: call .float() on it")
    if plain:
        check_plain(value, name)
    return value


def unbound(value: Any) -> Any:
    """The parts of a nested tensor as the list that they are; anything else as it came."""
    return list(value.unbind()) if isinstance(value, Tensor) and value.is_nested else value


def _way_to_labels(value: Tensor) -> str:
    """How masks with an axis too many, of one channel or one-hot, become labels."""
    first = value.ndim - 3
    axis = first if value.shape[first] == 1 or 1 < value.shape[first] <= value.shape[-1] else -1
    return f".{'argmax' if value.shape[axis] > 1 else 'squeeze'}({axis})"


def way_to_tensor(value: object) -> str:
    """How what a caller passed becomes a tensor, in words."""
    if value is None:
        return "it cannot be left out"
    if isinstance(value, Mapping):
        return "stack its maps with torch.stack, or pass one of its values"
    if isinstance(value, (list, tuple)) and any(isinstance(part, Tensor) for part in value):
        return "stack its tensors with torch.stack"
    if isinstance(value, np.ndarray) and (min(value.strides, default=0) < 0 or not value.dtype.isnative):
        return (
            f"convert it with torch.as_tensor(numpy.array(..., dtype='{value.dtype.kind}{value.itemsize}'))"
        )
    if hasattr(value, "__array_interface__") and not isinstance(value, np.ndarray):
        return "convert it with torch.as_tensor(numpy.array(...))"  # a picture of Pillow
    return "convert it with torch.as_tensor"


def check_same(value: Tensor, name: str, other: Tensor, other_name: str, *, batched: bool = True) -> None:
    """Raise unless two tensors share the batch size, where they have a batch axis, and the device."""
    if batched and value.shape[0] != other.shape[0]:
        raise ValueError(
            f"{name} has batch size {value.shape[0]} but {other_name} has {other.shape[0]}: "
            "pass the same images in both"
        )
    if value.device != other.device:
        raise ValueError(
            f"{name} is on {value.device} but {other_name} is on {other.device}: "
            f"move {name} with .to({other_name}.device)"
        )


def check_filled(value: Tensor, name: str, *, batched: bool = True) -> None:
    """Raise if an axis, other than the batch where there is one, has length 0."""
    if 0 in value.shape[batched:]:
        axes = "axis but the batch" if batched else "axis"
        raise ValueError(f"{name} is empty, got {describe(value)}: every {axes} needs entries")


def check_data(value: Tensor, name: str) -> None:
    """Raise if a tensor has a shape but no numbers."""
    if value.is_meta:
        raise TypeError(f"{name} is on the meta device, which holds no data: pass {name} of another device")


def check_plain(value: Tensor, name: str, *, graded: bool = False) -> None:
    """Raise for a tensor whose numbers nobody may see, within a transform of torch.func or as a fake.

    ``graded``: transforms that take gradients are allowed, where the numbers can be read.
    """
    if torch.compiler.is_compiling():  # the compiler's own fakes become plain where it hands over
        return
    try:
        without = value.device.type == "cpu" and value.numel() > 0 and _has_no_place(value)
        value.data_ptr() if not without else None
    except (RuntimeError, NotImplementedError):
        if graded and _can_be_read(value):
            return
        raise TypeError(
            f"{name} is within a transform such as torch.func.vmap or grad, without memory of its own: "
            f"call {called()} outside, on plain tensors with a batch axis"
        ) from None
    if without:
        raise TypeError(
            f"{name} is a tensor without numbers, of FakeTensorMode, torch.func.functionalize or the like: "
            f"call {called()} outside, on plain tensors"
        )


def _has_no_place(value: Tensor) -> bool:
    """Whether a tensor of the host has no memory there: a fake, or wrapped by torch.func.functionalize."""
    return value.untyped_storage().device.type == "meta" or value.data_ptr() == 0


def _can_be_read(value: Tensor) -> bool:
    """Whether a transform lets the numbers be seen: grad and jvp do, vmap does not."""
    try:
        value.detach().flatten()[:1].sum().item()
    except RuntimeError:
        return False
    return True


def warn(text: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line that called this package, beyond PyTorch's frames around its functions."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_INNER):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, category, stacklevel=level)


def called() -> str:
    """The name of the public function, method or class that the caller of this package called."""
    frame, found = sys._getframe(1), sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith(f"{_PACKAGE}.") and not module.startswith(f"{_PACKAGE}.compiled"):
            found = frame
        frame = frame.f_back
    name = found.f_code.co_name
    return name if name != "__init__" else type(found.f_locals["self"]).__name__


def check_levels(
    features: Tensor | Sequence[Tensor], name: str, shape: str = "(B, D, h, w)", *, batched: bool = True
) -> list[Tensor]:
    """Return one map or a sequence of maps as a list of checked (B, D, h, w) tensors, or (D, h, w)."""

    def check(level: object, part: str) -> Tensor:
        tensor = check_tensor(level, part, shape, ndim=3 + batched, floating=True)
        check_filled(tensor, part, batched=batched)
        return tensor

    if isinstance(features, Tensor):
        return [check(features, name)]
    if not isinstance(features, Sequence) or isinstance(features, (str, bytes)) or len(features) == 0:
        fix = way_to_tensor(features) if isinstance(features, np.ndarray) else "pass at least one map"
        if isinstance(features, Mapping):
            fix = f"pass list({name}.values())"
        raise TypeError(
            f"{name} must be a tensor {shape} or a list of levels, got {describe(features)}: {fix}"
        )
    return [check(level, f"{name}[{position}]") for position, level in enumerate(features)]


def check_magnitude(value: Tensor, name: str) -> None:
    """Raise if a tensor holds NaN, infinity or numbers whose squares overflow float32 (waits once)."""
    if not math.isfinite(float(float32_norm(value))):
        raise_magnitude(value, name)


def float32_norm(value: Tensor, order: float = 2) -> Tensor:
    """Norm of all entries in float32: NaN or infinite where an entry is, or where squares overflow."""
    value = value.detach()
    wide = value.float() if value.dtype == torch.float64 else value
    if wide.numel() == 0:
        return torch.zeros((), dtype=torch.float32, device=wide.device)
    if order == math.inf:  # ten times as fast on a CPU as vector_norm
        low, high = torch.aminmax(wide)
        return torch.maximum(-low, high).float()
    return torch.linalg.vector_norm(wide, order, dtype=torch.float32)


def raise_magnitude(value: Tensor, name: str) -> None:
    """Say what makes the norm of a tensor infinite or NaN."""
    check_finite(value, name)
    raise ValueError(
        f"{name} holds numbers too large for float32 arithmetic (largest {float(value.abs().max()):.3g}): "
        "scale it down"
    )


def check_finite(value: Tensor, name: str) -> None:
    """Raise if a tensor holds NaN or infinity (waits for the device once)."""
    # A sum is NaN or infinite if any term is: one pass and no boolean copy. Finite values can
    # overflow the sum, so only a suspicious sum pays for the exact test.
    value = value.detach()
    if not math.isfinite(float(value.sum())) and not bool(torch.isfinite(value).all()):
        raise ValueError(
            f"{name} holds NaN or infinity: find the layer that produced it, or pass "
            f"{way_to_finite(value, name)}"
        )


def way_to_finite(value: Tensor, name: str) -> str:
    """What makes a tensor finite, and small enough where it held infinity."""
    limits = ", posinf=0, neginf=0" if bool(value.isinf().any()) else ""
    return f"torch.nan_to_num({name}{limits})"


def find_extent(values: Tensor) -> tuple[float, float]:
    """Least and largest entry, NaN where an entry is, 0 of nothing (waits for the device once)."""
    if values.numel() == 0:
        return 0.0, 0.0
    values = values.detach()
    if values.device.type == "cpu" and values.dtype == torch.float32:
        # By NumPy on the calling thread alone: torch's own threads would go on spinning for a while on cores
        # that compiled loops need next. Part by part, so that the second look finds a part in the cache.
        array = values.resolve_neg().numpy()
        parts = [array]
        if values.is_contiguous():
            parts = [array.reshape(-1)[start : start + _PART] for start in range(0, array.size, _PART)]
        lows, highs = zip(*((part.min(), part.max()) for part in parts), strict=True)
        return float(np.min(lows)), float(np.max(highs))
    # Autocast would bring the two to one type, and fails on the half type that is not its own.
    with torch.autocast(device_type=values.device.type, enabled=False):
        low, high = torch.stack(torch.aminmax(values)).tolist()
    return low, high


def check_positive(value: float, name: str) -> None:
    """Raise unless a number is finite and above zero."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {describe(value)}: pass a Python float")
    if not 0 < value <= sys.float_info.max:
        raise ValueError(f"{name} must be above 0 and finite, got {show(value)}: pass a positive number")


def check_range(value: float, name: str, low: float, high: float) -> None:
    """Raise unless ``low <= value <= high``."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {describe(value)}: pass a Python float")
    if not low <= value <= high:
        raise ValueError(
            f"{name} must lie in [{low}, {high}], got {show(value)}: pass a number in that range"
        )


def check_count(value: int, name: str, least: int) -> None:
    """Raise unless ``value`` is a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an int, got {describe(value)}: pass a whole number")
    if int(value) < least:
        raise ValueError(f"{name} must be at least {least}, got {show(value)}: pass a larger number")


def check_ignore_index(value: int) -> None:
    """Raise unless ``ignore_index`` is a whole number."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"ignore_index must be an int, got {describe(value)}: pass 255, or -1 for none")
    if not -(2**63) <= value < 2**63:
        raise ValueError(
            f"ignore_index must be a label of 64 bits, got {show(value)}: pass 255, or -1 for none"
        )


def exact_labels(masks: Tensor) -> Tensor:
    """Labels in a type that holds every label: to torch, 255 of 8 bits equals -1, and 0 equals 256."""
    if masks.is_floating_point() or masks.is_complex():
        return masks
    return masks.long()


def check_choice(value: str, name: str, choices: tuple[str, ...]) -> None:
    """Raise unless ``value`` is one of the named choices."""
    if not isinstance(value, str) or value not in choices:
        wanted = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"{name} must be one of {wanted}, got {show(value)}: choose one of them")


def _is_plain(value: Tensor) -> bool:
    return value.layout == torch.strided and not value.is_meta


def read_ints(value: Any, name: str, form: str, least: int | None = None) -> Any:
    """Return whole numbers as a tuple, as many as ``form`` such as "(H, W)" names, none below ``least``."""
    entries = value
    if isinstance(value, np.ndarray) or (isinstance(value, Tensor) and _is_plain(value)):
        entries = value.tolist()
    count = form.count(",") + 1
    if not isinstance(entries, Sequence) or isinstance(entries, str) or len(entries) != count:
        raise TypeError(f"{name} must be {form}, got {describe(value)}: pass {count} whole numbers")
    try:
        numbers = tuple(int(entry) for entry in entries)
    except (TypeError, ValueError, OverflowError):
        numbers = None
    if numbers is None or numbers != tuple(entries):
        raise ValueError(f"{name} must hold whole numbers, got {show(value)}: round them first")
    if least is not None and min(numbers) < least:
        raise ValueError(f"{name} must hold numbers of at least {least}, got {show(value)}: pass {form}")
    return numbers
