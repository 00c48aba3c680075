"""An accelerator to test with where there is none: tensors that claim to be on one, worked on by the CPU.

Finds what a real device would refuse or do at a price: an operator that is given tensors of both places, and
values that reach the host without being asked for. It finds nothing about kernels, speed or precision.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend


class _Module:
    """What torch asks a device's module: the device is there only while it is pretended."""

    present = False

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return self.present

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return int(self.present)

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        pass

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]


_setup_privateuseone_for_python_backend("pretend", _Module())
DEVICE = torch.device("pretend", 0)


class DeviceTensor(Tensor):
    """A tensor that says it is on the device; ``host`` holds its numbers."""

    host: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> DeviceTensor:
        wrapper = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            values.size(),
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=DEVICE,
        )
        wrapper.host = values
        return wrapper

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"DeviceTensor({self.host!r})"

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{function} outside of PretendDevice")


class PretendDevice(TorchDispatchMode):
    """Runs operators on tensors of the device; refuses to mix them with those of the host."""

    def __enter__(self) -> PretendDevice:
        """Show the device; torch has no tolist for tensors of other classes."""
        _Module.present = True
        self._tolist = Tensor.tolist
        Tensor.tolist = lambda tensor: self._tolist(getattr(tensor, "host", tensor))  # type: ignore[method-assign]
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        """Give torch its own back."""
        _Module.present = False
        Tensor.tolist = self._tolist  # type: ignore[method-assign]
        super().__exit__(*error)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        flat, structure = tree_flatten((args, kwargs))
        tensors = [entry for entry in flat if isinstance(entry, Tensor)]
        ours = [entry for entry in tensors if isinstance(entry, DeviceTensor)]
        name = function.overloadpacket.__name__
        moves = name in ("_to_copy", "copy_")
        hosts = [entry for entry in tensors if not isinstance(entry, DeviceTensor) and entry.ndim > 0]
        if ours and hosts and not moves:
            raise RuntimeError(f"{function} mixes tensors of the device and of the host")
        target = kwargs.get("device")
        on_device = bool(ours) if target is None else torch.device(target).type == DEVICE.type
        if name == "copy_":
            on_device = isinstance(args[0], DeviceTensor)
        plain = [entry.host if isinstance(entry, DeviceTensor) else entry for entry in flat]
        bare_args, bare_kwargs = tree_unflatten(plain, structure)
        if target is not None:
            bare_kwargs["device"] = torch.device("cpu")
        result = function(*bare_args, **bare_kwargs)
        if not on_device:
            return result
        known = {id(entry.host): entry for entry in ours}

        def wrap(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            return known[id(value)] if id(value) in known else DeviceTensor(value)

        return tree_map(wrap, result)


# torch.tensor(numbers, device=...) works below the modes.
_LIBRARY = torch.library.Library("aten", "IMPL")


def _empty_strided(size: Any, stride: Any, **options: Any) -> Tensor:
    options["device"] = "cpu"
    return DeviceTensor(torch.empty_strided(size, stride, **options))


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    getattr(target, "host", target).copy_(getattr(source, "host", source))
    return target


_LIBRARY.impl("empty_strided", _empty_strided, "PrivateUse1")
_LIBRARY.impl("_copy_from", _copy_from, "PrivateUse1")

# Autograd counts the devices once, at the first backward pass of a process, and makes a thread for each.
_Module.present = True
torch.zeros((), requires_grad=True).backward()
_Module.present = False

# Autocast leaves the operators of this device as they are.
_EVERYTHING = torch.library.Library("_", "IMPL")
_EVERYTHING.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
