"""The dense CRF on a CUDA device in fused Triton kernels.

``launch.py`` brings the lattices of the torch backend into the kernels' form and launches the kernels of
every pass. ``kernels.py`` holds these, in Triton's language: splat, blur, and slice up to the softmax. It is
imported, and Triton with it, when the first of them is launched.
"""

from .launch import TritonKernel, build_bilateral, build_gaussian, mean_field

__all__ = ["TritonKernel", "build_bilateral", "build_gaussian", "mean_field"]
