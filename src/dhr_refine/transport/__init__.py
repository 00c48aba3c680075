"""Entropic optimal transport between the pixels of an image and its few classes.

The number of classes K is tiny beside the number of pixels N, so the problem is solved in the K class
potentials alone (the semi-dual): the pixel marginals hold exactly at every step, and what remains is a
smooth concave problem in K unknowns, which Newton's method finishes in a handful of passes over the pixels
where Sinkhorn's alternation needs dozens.

``plan.py`` is the public call: ``marginals.py`` reads the masses, ``solver.py`` chooses the method.
``newton.py`` goes through ``lean.py`` (or its compiled counterpart ``lean_numba.py``) and finishes in
``climb.py`` what that leaves; ``sinkhorn.py`` holds the peers. All solve a ``problem.py`` and share its
loop; ``gradients.py`` differentiates the solution, whoever found it. Where the class masses are relaxed, the
problem says what the potentials ask of each class, and the solvers bring the class sums to that. The steps
call ``solver.py`` on input that is checked already. ``released.py`` is no transport: what the released code
has in its place.
"""

from .plan import ConvergenceWarning, TransportPlan, sinkhorn_ot

__all__ = ["ConvergenceWarning", "TransportPlan", "sinkhorn_ot"]
