"""Statistics of the classes over a data set, which clean the class averages of each of its images.

``class_memory.py`` holds the public object: it sums features by class and solves the sums into the
discriminant that the step asks (``dhr_refine/discriminant.py``). ``sums.py`` adds, ``solving.py`` solves,
``storage.py`` turns the sums into plain arrays and back; ``samples.py`` checks what a data set is given as.
"""

from .class_memory import ClassMemory, as_discriminant

__all__ = ["ClassMemory", "as_discriminant"]
