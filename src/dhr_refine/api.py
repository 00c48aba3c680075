"""The package's public names, in one list: what ``dhr_refine`` offers at its top."""

from .adaptive import pamr, par
from .base_masks import base_mask, two_threshold_mask
from .crf import DenseCRFLattice, PermutohedralLattice, dense_crf, probs_from_labels
from .discriminant import ClassDiscriminant
from .energy_loss import dense_energy_loss
from .features import capture_layers, tokens_to_map
from .files import Cams, read_cams
from .memory import ClassMemory
from .pooling import ClassCentroids, class_avg_pool
from .propagation import random_walk
from .rebalance_calls import Rebalanced, uss_rebalance, wss_rebalance
from .recipe import Recipe
from .refine import RefineSteps, refine_mask, refine_steps
from .training import View, has_labels, has_split_labels
from .transport import ConvergenceWarning, TransportPlan, sinkhorn_ot

__all__ = [
    "Cams",
    "ClassCentroids",
    "ClassDiscriminant",
    "ClassMemory",
    "ConvergenceWarning",
    "DenseCRFLattice",
    "PermutohedralLattice",
    "Rebalanced",
    "Recipe",
    "RefineSteps",
    "TransportPlan",
    "View",
    "base_mask",
    "capture_layers",
    "class_avg_pool",
    "dense_crf",
    "dense_energy_loss",
    "has_labels",
    "has_split_labels",
    "pamr",
    "par",
    "probs_from_labels",
    "random_walk",
    "read_cams",
    "refine_mask",
    "refine_steps",
    "sinkhorn_ot",
    "tokens_to_map",
    "two_threshold_mask",
    "uss_rebalance",
    "wss_rebalance",
]
