"""A class memory of a folder: its images are gone through several times, by several processes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from ...discriminant import ClassDiscriminant
from ...errors import UserError
from ...memory import ClassMemory
from ..runs.job import Tally, given_up
from ..runs.on_ray import lists_on_ray
from ..runs.options import RunOptions
from ..runs.outcomes import Outcome, one_line
from ..runs.pool import Pool
from ..runs.progress import Progress
from .sources import Sources

ROUNDS = 6
"""Passes after the first, as in ``ClassMemory.fit``."""
# Lists of images whose sums are added one after the other. Their number depends on that of the images alone,
# and so do the roundings: the memory does not depend on the number of processes.
_LISTS = 64
_LEAST = 8
# Above this many bytes the second moments of all classes are two matrices.
_LARGE = 2**28


class Learned(NamedTuple):
    """What a list of images comes to."""

    state: dict[str, Any] | None
    """Of their memory, None if none of them has features and tags."""
    failed: list[Outcome]
    images: int
    """How many there were."""


@dataclass(frozen=True)
class Learner:
    """Makes a memory of some images."""

    sources: Sources
    dim: int

    def __call__(self, keys: Sequence[str], known: ClassDiscriminant | None) -> Learned:
        """The memory of these images, by what is known of the classes already."""
        memory, failed = None, []
        for key in keys:
            try:
                image = self.sources.image(key)
                tags = self.sources.tags_of(key)
                mask = self.sources.mask(key, tuple(image.shape[1:]))
                if not tags:
                    continue
                uss = self.sources.uss_of(key)
                memory = memory or new_memory(self.sources, self.dim)
                options: Any = {"ignore_index": self.sources.ignore_index, "known": known}
                memory.update(uss, mask, labels=list(tags), **options)
            except Exception as error:
                failed.append(Outcome(key, "failed", "memory", one_line(error)))
        return Learned(memory and memory.state_dict(), failed, len(keys))

    def close(self) -> None:
        """Nothing is held."""


def new_memory(sources: Sources, dim: int) -> ClassMemory:
    """An empty memory of a data set."""
    classes = sources.classes
    large = 8 * classes.num_classes * dim**2 > _LARGE
    return ClassMemory(
        classes.num_classes, dim, background=classes.background, covariance="pooled" if large else "class"
    )


def learn(
    sources: Sources, keys: Sequence[str], run: RunOptions, tally: Tally, *, rounds: int = ROUNDS
) -> ClassMemory:
    """The memory of the images, in ``rounds + 1`` passes as :meth:`ClassMemory.fit` makes it.

    Parameters
    ----------
    sources : with base masks and USS features of all images
    keys : ids of the images
    run : how many processes to use
    tally : counts the images that fail; those are left out of all further passes
    rounds : passes after the first

    Raises
    ------
    UserError
        No image could be read.
    """
    size = max(_LEAST, -(-len(keys) // _LISTS))
    jobs = run.processes(len(keys), "cpu")
    before = len(tally.failed)
    learner = partial(Learner, sources, _find_dim(sources, keys))
    with (
        Pool(learner, jobs, _give_up) as pool,
        Progress(len(keys) * (rounds + 1), "class memory", quiet=run.quiet) as progress,
    ):
        memory: ClassMemory | None = None
        for _ in range(rounds + 1):
            bad = {outcome.key for outcome in tally.failed}
            chunks = [
                [key for key in keys[start : start + size] if key not in bad]
                for start in range(0, len(keys), size)
            ]
            known = None if memory is None else memory.solve()
            memory = None
            results = pool.run(chunks, known)
            if run.ray is not None:
                options: Any = {"address": run.ray, "jobs": run.jobs, "give_up": _give_up}
                results = lists_on_ray(learner, chunks, known, **options)
            # A list whose process died comes back image by image.
            for state, failed, images in results:
                for outcome in failed:
                    tally.add(outcome)
                for number in range(images):
                    progress.advance("failed" if number < len(failed) else "done")
                memory = _merged(memory, state)
                tally.check(memory is not None, before=before)
            if memory is None:
                break
    if memory is None:
        raise UserError("no image has features and tags: there is nothing to make a memory of")
    return memory


def _merged(memory: ClassMemory | None, state: dict[str, Any] | None) -> ClassMemory | None:
    if state is None:
        return memory
    names = ("num_classes", "dim", "background", "covariance")
    other = ClassMemory(**{name: state[name] for name in names})
    other.load_state_dict(state)
    if memory is None:
        return other
    memory.merge(other)
    return memory


def _find_dim(sources: Sources, keys: Sequence[str]) -> int:
    """The number of channels of the first features that can be read: files of others fail."""
    for key in keys:
        with suppress(Exception):  # whoever reads it for the memory tells why
            return len(sources.uss_of(key))
    return 1


def _give_up(key: str, why: str) -> Learned:
    return Learned(None, [given_up(key, why)], 1)
