"""Entropic optimal transport between the pixels of an image and its few classes."""

from .plan import TransportPlan, sinkhorn_ot

__all__ = ["TransportPlan", "sinkhorn_ot"]
