"""The dense CRF on a CUDA device in fused Triton kernels.

``launch.py`` brings the torch backend's lattices into the kernels' form and launches them; ``kernels.py``
is written in Triton's language and imported with Triton, when the first kernel is launched.
"""

from .launch import TritonKernel, build_bilateral, build_gaussian, mean_field

__all__ = ["TritonKernel", "build_bilateral", "build_gaussian", "mean_field"]
