"""dhr_refine: refine pseudo masks for weakly-supervised semantic segmentation."""

__version__ = "0.1.0"
