"""dhr_refine: refine pseudo masks for weakly-supervised semantic segmentation."""

from .crf import DenseCRFLattice, dense_crf, probs_from_labels
from .pamr import pamr
from .pooling import ClassCentroids, class_avg_pool
from .rebalance import Rebalanced, uss_rebalance, wss_rebalance
from .recipe import Recipe
from .refine import RefineSteps, refine_mask, refine_steps
from .transport import TransportPlan, sinkhorn_ot

__all__ = [
    "ClassCentroids",
    "DenseCRFLattice",
    "Rebalanced",
    "Recipe",
    "RefineSteps",
    "TransportPlan",
    "class_avg_pool",
    "dense_crf",
    "pamr",
    "probs_from_labels",
    "refine_mask",
    "refine_steps",
    "sinkhorn_ot",
    "uss_rebalance",
    "wss_rebalance",
]

__version__ = "0.1.0"
