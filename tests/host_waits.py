"""Counts wherever a value reaches the host, which would wait there for an accelerator."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Waits(TorchDispatchMode):
    """Operators whose result, or its shape, the host has to know."""

    def __init__(self):
        super().__init__()
        self.seen = []
        self.muted = False

    def note(self, name):
        if not self.muted:
            self.seen.append(name)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        masks = name in ("index", "index_put_", "index_put") and any(
            part is not None and part.dtype == torch.bool for part in args[1]
        )
        if masks or name in ("_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2"):
            self.note(name)
        return function(*args, **(kwargs or {}))


def watch_tensors(monkeypatch):
    """Count what the tensors' own methods bring to the host as well; returns the counter."""
    mode = Waits()
    for name in ("tolist", "cpu"):
        original = getattr(torch.Tensor, name)

        def noted(self, *rest, _name=name, _original=original):
            mode.note(_name)
            return _original(self, *rest)

        monkeypatch.setattr(torch.Tensor, name, noted)
    return mode
