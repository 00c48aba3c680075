"""Random programs of calls: made of plain numbers, run on any implementation of the interface."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st
from originals import Interface
from photos import photo

NORMALIZATIONS = ("NO_NORMALIZATION", "NORMALIZE_BEFORE", "NORMALIZE_AFTER", "NORMALIZE_SYMMETRIC")
KERNELS = ("CONST_KERNEL", "DIAG_KERNEL", "FULL_KERNEL")


class Call(NamedTuple):
    """One ``addPairwise...``."""

    method: str
    arguments: dict[str, Any]
    kernel: str
    normalization: str


class Program(NamedTuple):
    """A field and what is done to it."""

    height: int
    width: int
    energies: np.ndarray  # (labels, pixels) float32
    calls: tuple[Call, ...]
    iterations: int

    def build(self, interface: Interface, *, flat: bool = False) -> Any:
        """The field with all its energies and terms; ``flat`` is the class without a size."""
        dcrf = interface.densecrf
        labels, pixels = self.energies.shape
        field = dcrf.DenseCRF(pixels, labels) if flat else dcrf.DenseCRF2D(self.width, self.height, labels)
        field.setUnaryEnergy(self.energies)
        for call in self.calls:
            getattr(field, call.method)(
                **call.arguments,
                kernel=getattr(dcrf, call.kernel),
                normalization=getattr(dcrf, call.normalization),
            )
        return field

    def run(self, interface: Interface, *, flat: bool = False) -> np.ndarray:
        """The marginals."""
        return np.array(self.build(interface, flat=flat).inference(self.iterations))


def make_image(kind: str, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A uint8 image (height, width, 3)."""
    if kind == "photo":
        return np.ascontiguousarray(photo("astronaut", height, width).permute(1, 2, 0).numpy())
    if kind == "noise":
        return rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    if kind == "blocks":  # few colours: many pixels share their place among them
        coarse = rng.integers(0, 3, (-(-height // 5), -(-width // 5), 3)) * 100
        return np.kron(coarse, np.ones((5, 5, 1)))[:height, :width].astype(np.uint8)
    return np.full((height, width, 3), rng.integers(0, 256), np.uint8)


def make_energies(kind: str, labels: int, pixels: int, rng: np.random.Generator) -> np.ndarray:
    """Energies (labels, pixels) float32."""
    if kind == "probabilities":
        probs = rng.dirichlet(np.full(labels, 0.5), pixels).T
        return -np.log(np.clip(probs, 1e-5, 1)).astype(np.float32, order="C")
    if kind == "any":  # negative ones too
        return (4 * rng.standard_normal((labels, pixels))).astype(np.float32)
    if kind == "impossible":
        energies = (3 * rng.random((labels, pixels))).astype(np.float32)
        energies[rng.random(energies.shape) < 0.3] = np.inf
        energies[rng.integers(labels, size=pixels), np.arange(pixels)] = 1
        return energies
    energies = np.full((labels, pixels), 1.9, np.float32)  # labels of a map, and pixels that know nothing
    sure = rng.random(pixels) < 0.8
    energies[rng.integers(labels, size=pixels)[sure], np.flatnonzero(sure)] = 0.35
    return energies


def _compat(kind: str, labels: int, scale: float, rng: np.random.Generator) -> Any:
    if kind == "number":
        return float(scale)
    if kind == "diagonal":
        return (-scale * rng.random(labels)).astype(np.float32)
    # Not symmetric, as nothing says that it has to be.
    return (scale * (rng.random((labels, labels)) - np.eye(labels))).astype(np.float32)


@st.composite
def programs(draw: st.DrawFn, *, most_terms: int = 3) -> Program:
    """Two to forty labels, up to three terms in any order, each of any kind."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    height, width = draw(st.integers(1, 60)), draw(st.integers(1, 60))
    labels = draw(st.one_of(st.integers(2, 5), st.integers(6, 40)))
    image = make_image(draw(st.sampled_from(["photo", "noise", "blocks", "flat"])), height, width, rng)
    kind = draw(st.sampled_from(["probabilities", "any", "impossible", "labels"]))
    calls = []
    for method in draw(
        st.lists(st.sampled_from(["Gaussian", "Bilateral", "Energy"]), min_size=0, max_size=most_terms)
    ):
        normalization = draw(st.sampled_from(NORMALIZATIONS))
        # Without normalisation the kernel's sum, up to the number of pixels, is part of the weight.
        scale = draw(st.floats(0.1, 10)) / (height * width if normalization == NORMALIZATIONS[0] else 1)
        compat = _compat(
            draw(st.sampled_from(["number", "number", "diagonal", "matrix"])), labels, scale, rng
        )
        arguments: dict[str, Any] = {"compat": compat}
        deviations = st.one_of(st.integers(1, 80), st.floats(0.7, 80))
        if method != "Energy":
            arguments["sxy"] = draw(deviations | st.tuples(deviations, deviations))
        if method == "Bilateral":
            colours = st.integers(3, 60) | st.floats(3, 60)
            arguments |= {"srgb": draw(colours | st.tuples(colours, colours, colours)), "rgbim": image}
        if method == "Energy":
            arguments["features"] = _features(draw(st.integers(1, 6)), height, width, rng)
        calls.append(Call(f"addPairwise{method}", arguments, draw(st.sampled_from(KERNELS)), normalization))
    energies = make_energies(kind, labels, height * width, rng)
    return Program(height, width, energies, tuple(calls), draw(st.integers(0, 10)))


def _features(count: int, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Features (count, pixels): some smooth over the image, some noise."""
    rows, columns = np.indices((height, width)).reshape(2, -1) / rng.uniform(1, 30, (2, 1))
    smooth = rng.standard_normal((count, 2)) @ np.stack([rows, columns])
    noise = rng.standard_normal((count, height * width)) * rng.uniform(0, 1, (count, 1))
    return np.ascontiguousarray(smooth + noise, dtype=np.float32)
