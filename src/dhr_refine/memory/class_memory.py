"""ClassMemory: sums of features by class over many images, from which a discriminant is solved."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from typing_extensions import Unpack

from ..checks import check_choice, check_count, check_positive, check_range, describe
from ..compiled import eager, ordinary
from ..discriminant import ClassDiscriminant, recall, standardise
from ..files.regular import show_name
from ..inputs import Background, BoxFormat, Examples, Form, GivenBoxes, Labels, pad, read_examples
from ..pooling import cell_weights
from . import storage
from .samples import check_sample, features_of
from .solving import background_label, solve_sums
from .storage import Covariance, MemoryKeywords
from .sums import Sums

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

# A class of fewer cells in an image is left out there: they are mostly its edges.
_LEAST_CELLS = 2.0
_ROUNDS = 6


class ClassMemory:
    """A memory of the classes: statistics of USS features over the images of a data set.

    The average of a class over one image is only as pure as its mask. Over many images the impurities differ
    and the class stays: the memory sums features by class (:meth:`update`), solves the sums into class means
    and a covariance (:meth:`solve`), and ``refine_mask(..., memory=memory)`` then gives each feature its say
    in a class average by how much it is like that class. It needs no ground truth: tags, base masks and
    features alone.

    Parameters
    ----------
    num_classes : int
        Number of mask labels, the background included: 21 for VOC.
    dim : int
        Channels D of the USS features.
    background : {"first", "last", "none"}
        Where the background's label is, as in :func:`refine_mask`.
    covariance : {"class", "pooled"}
        Second moments of each class, which weigh rare and common classes alike, or two in all, of the
        background and of the foreground: a small form for many classes.
    decay : float
        In (0, 1]: what one more image leaves of the weight of those before; 1 forgets nothing. 0.999 goes by
        the last thousand images or so, for features or masks that change in training.
    least_images : float
        A class seen in fewer images (of decayed weight) takes no part; at least 1.
    shrinkage : float
        Above 0: share of the mean variance that is added to the variance of every direction.
    device : device, optional
        Where the sums are, and the features must be. Default: the CPU.

    Raises
    ------
    ValueError, TypeError
        Anything above violated.

    Notes
    -----
    Size: ``8 * (M * dim**2 + num_classes * (dim + 2))`` bytes, with M matrices of second moments, one for
    each class or two. 21 classes: 25 MB (dim 384), 99 MB (768), 176 MB (1024), pooled 2.4, 9.6, 17 MB.
    171 classes: 202 MB, 808 MB, 1.4 GB, pooled 2.9, 11, 18 MB.

    The sums are float64: up to rounding, the order of the images does not matter (but for ``decay``), nor
    does it matter whether they come one by one, in batches, or through memories that are merged.

    References
    ----------
    Fisher, The use of multiple measurements in taxonomic problems, 1936 (linear discriminants); Ledoit and
    Wolf, A well-conditioned estimator for large-dimensional covariance matrices, 2004 (shrinkage). What it
    resembles in the field: prototype memories and self-training; see :doc:`/memory`.

    Examples
    --------
    >>> import torch
    >>> from dhr_refine import ClassMemory
    >>> generator = torch.Generator().manual_seed(0)
    >>> memory = ClassMemory(num_classes=3, dim=8)
    >>> for _ in range(6):
    ...     features = torch.randn(4, 8, 6, 6, generator=generator)
    ...     masks = torch.randint(0, 3, (4, 24, 24), generator=generator)
    ...     memory.update(features, masks, labels=[[0, 1]] * 4)
    >>> memory
    ClassMemory(3 classes, dim 8, 24 images, 3 classes known)
    """

    @eager
    @ordinary
    def __init__(
        self,
        num_classes: int,
        dim: int,
        *,
        background: Background = "first",
        covariance: Covariance = "class",
        decay: float = 1.0,
        least_images: float = 5,
        shrinkage: float = 0.1,
        device: torch.device | str = "cpu",
    ) -> None:
        """Nothing seen yet."""
        check_choice(background, "background", ("first", "last", "none"))
        check_choice(covariance, "covariance", ("class", "pooled"))
        check_count(num_classes, "num_classes", 1 if background == "none" else 2)
        check_count(dim, "dim", 2)
        check_range(decay, "decay", 0.0, 1.0)
        check_positive(decay, "decay")
        check_range(least_images, "least_images", 1.0, 1e9)
        check_positive(shrinkage, "shrinkage")
        self.num_classes: int = int(num_classes)
        self.dim: int = int(dim)
        self.background: Background = background
        self.covariance: Covariance = covariance
        self.decay: float = float(decay)
        self.least_images: float = float(least_images)
        self.shrinkage: float = float(shrinkage)
        behind = background_label(background, num_classes)
        pooled = covariance == "pooled"
        self._slots = [int(label != behind) if pooled else label for label in range(num_classes)]
        self._sums = Sums.zeros(num_classes, dim, 2 if pooled else num_classes, device)
        self._solved: ClassDiscriminant | None = None

    def __repr__(self) -> str:
        """Say how much it holds."""
        seen = float(self._sums.seen)
        known = int((self.images >= self.least_images).sum())
        return (
            f"ClassMemory({self.num_classes} classes, dim {self.dim}, {seen:.6g} images, "
            f"{known} classes known)"
        )

    @property
    def device(self) -> torch.device:
        """Where the sums are."""
        return self._sums.images.device

    @property
    def images(self) -> Tensor:
        """(num_classes,) float64 number of images of each class, with two cells of it or more."""
        return self._sums.images.clone()

    @property
    def nbytes(self) -> int:
        """Bytes that the sums take."""
        return sum(tensor.nbytes for tensor in self._sums)

    def to(self, device: torch.device | str) -> ClassMemory:
        """A copy on a device.

        Parameters
        ----------
        device : device
            Where to.
        """
        return self._with(self._sums.copy(device))

    def __deepcopy__(self, _: Any) -> ClassMemory:
        """A copy that goes on in any mode: one made in inference mode would stay in it."""
        return self._with(self._sums.copy())

    @eager
    @ordinary
    def update(
        self,
        uss_features: Tensor | Sequence[Tensor],
        masks: Tensor | Sequence[Tensor],
        *,
        labels: Labels | None = None,
        boxes: GivenBoxes = None,
        box_format: BoxFormat | None = None,
        ignore_index: int = 255,
        known: ClassMemory | ClassDiscriminant | None = None,
    ) -> None:
        """Add images.

        Parameters
        ----------
        uss_features : Tensor (B, dim, u, v), floating point; (dim, u, v) of one image; or a list of these
            The features that ``refine_mask`` will be given.
        masks : Tensor (B, H, W) or (H, W), or a list of (H, W)
            Base pseudo masks (or refined ones), labels in ``0 .. num_classes - 1`` or ``ignore_index``.
        labels : Tensor (B, C) or list of index lists, optional
            Image tags in any form that :func:`refine_mask` takes. Mask labels that are no tag of their image
            are left out. Default: the classes that the masks carry.
        boxes, box_format, ignore_index
            As in :func:`refine_mask`.
        known : ClassMemory or ClassDiscriminant, optional
            What is known of the classes already: features count for a class by its posterior among the
            background and the tags of their image. A second pass over the images with the memory of the
            first, and so on, purifies it (:meth:`fit`).

        Raises
        ------
        ValueError, TypeError
            Anything above violated; features of another number of channels, NaN or infinity, labels beyond
            ``num_classes``. Nothing was added then by the call or, of lists, by the entry that is named and
            those behind it.

        Notes
        -----
        The host waits for the device twice for each batch or entry, three times without ``labels``.
        """
        form = Form(self.num_classes, self.dim, self.background, ignore_index, box_format)
        discriminant = as_discriminant(known, "known")
        if discriminant is not None:
            _check_alike(self, discriminant, "known")
        for examples in read_examples(uss_features, masks, labels, boxes, form):
            with torch.autocast(device_type=self.device.type, enabled=False):
                self._add(examples, discriminant)

    def _add(self, examples: Examples, known: ClassDiscriminant | None) -> None:
        features = examples.features
        if features.device != self.device:
            raise ValueError(
                f"uss_features is on {features.device} but the memory on {self.device}: call "
                f"ClassMemory(..., device={str(features.device)!r}), or memory.to(...)"
            )
        tokens = standardise(features)
        weights = cell_weights(examples.labels, features.shape[-2:], num_classes=self.num_classes)
        classes = pad(examples.ids, self.device)
        weights = weights.gather(1, classes.clamp_min(0)[..., None].expand(-1, -1, weights.shape[-1]))
        weights = weights * (classes >= 0)[..., None]
        if known is not None:
            weights = weights * recall(known.to(self.device), tokens, classes).posterior()
        cells = weights.sum(-1, keepdim=True)
        # An image of many cells of a class tells less than so many images of few: they are alike.
        weights = weights * torch.where(cells >= _LEAST_CELLS, cells.clamp_min(1e-12).rsqrt(), 0.0)
        self._sums.add(tokens, weights, examples.ids, self._slots, decay=self.decay)
        self._solved = None

    @eager
    @ordinary
    def merge(self, other: ClassMemory) -> None:
        """Add the images of another memory, of the same data set and features.

        With ``decay`` they count as later ones: those before fade as if the others had been added.

        Parameters
        ----------
        other : ClassMemory
            The other one, which stays what it is; on any device.

        Raises
        ------
        ValueError, TypeError
            ``other`` is no memory of as many classes, the same dim, background and covariance.
        """
        if not isinstance(other, ClassMemory):
            raise TypeError(f"other must be a ClassMemory, got {describe(other)}: pass a memory")
        _check_alike(self, other, "other")
        if other.covariance != self.covariance:
            raise ValueError(
                f"other has covariance {other.covariance!r} but this memory {self.covariance!r}: make both "
                "with the same"
            )
        sums = other._sums.copy() if other is self else other._sums
        # Images of which a memory that fades by d holds n have left 1 - (1 - d) n of what was before.
        fade = (1.0 - (1.0 - self.decay) * sums.seen.to(self.device)).clamp_min(0.0)
        for own, more in zip(self._sums, sums):
            own.mul_(fade).add_(more.to(self.device))
        self._solved = None

    def all_reduced(self, group: ProcessGroup | None = None) -> ClassMemory:
        """The memory of all processes of a distributed run together; this one stays what it is.

        A collective: every process of the group calls it, ``shared = memory.all_reduced()``, and gets the
        same. Without ``torch.distributed`` running, a copy.

        Parameters
        ----------
        group : ProcessGroup, optional
            The processes; default: all.
        """
        sums = self._sums.copy()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            for tensor in sums:
                torch.distributed.all_reduce(tensor, group=group)
        return self._with(sums)

    @eager
    @ordinary
    def solve(self) -> ClassDiscriminant:
        """Class means and covariance from the sums; kept until the memory changes.

        Returns
        -------
        ClassDiscriminant
            On the memory's device. ``refine_mask(memory=...)`` takes it as well as the memory, which it would
            solve anew after each update.

        Raises
        ------
        ValueError
            The sums were loaded and are those of no features.

        Notes
        -----
        With n, s, Q the weight, sum and second moment of each class, the mean is mu = s / n and the
        covariance within the classes S = sum of q (Q / n - mu mu^T), shrunk: S + shrinkage tr(S) / dim I.
        The background has q = 1/2, and all foreground classes that are known together 1/2, equal among
        themselves or, with ``covariance="pooled"``, by n. Float64, by a Cholesky factorisation, about dim^3
        operations. The host waits for the device twice.
        """
        if self._solved is None:
            limits = {"least_images": self.least_images, "shrinkage": self.shrinkage}
            with torch.autocast(device_type=self.device.type, enabled=False):
                self._solved = solve_sums(self._sums, self._slots, self.background, **limits)
        return self._solved

    def state_dict(self) -> dict[str, int | float | str | Tensor]:
        """Its options and sums, for checkpoints: numbers, strings and tensors (copies)."""
        return storage.to_state(self, self._sums)

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Take the sums of a :meth:`state_dict` of a memory of the same options.

        Parameters
        ----------
        state : dict
            What :meth:`state_dict` returned.

        Raises
        ------
        ValueError, TypeError
            ``state`` is none, or of another memory: the message says what differs.
        """
        options = storage.options_of(state)
        for name, came in options.items():
            if came != getattr(self, name):
                raise ValueError(
                    f"state has {name} {came!r} but this memory {getattr(self, name)!r}: make the memory "
                    f"with {name}={came!r}"
                )
        for own, new in zip(self._sums, storage.from_state(state, self._sums)):
            own.copy_(new)
        self._solved = None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to an .npz file, in one piece: a reader sees the old file or the whole new one.

        Parameters
        ----------
        path : str or path
            The file.

        Raises
        ------
        OSError
            The file cannot be written.
        """
        storage.save(path, self.state_dict())

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, device: torch.device | str = "cpu") -> ClassMemory:
        """Read a memory that :meth:`save` wrote; nothing in the file is executed.

        Parameters
        ----------
        path : str or path
            The file.
        device : device
            Where its sums go.

        Raises
        ------
        ValueError
            The file is damaged, or holds no memory.
        OSError
            It cannot be read.
        """
        state = storage.read(path)
        try:
            memory = cls(**storage.options_of(state), device=device)
            memory.load_state_dict(state)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{show_name(path)} holds no memory ({error})") from None
        return memory

    @classmethod
    def fit(
        cls,
        samples: Iterable[Mapping[str, object]] | Callable[[], Iterable[Mapping[str, object]]],
        num_classes: int,
        *,
        rounds: int = _ROUNDS,
        distributed: bool = False,
        **options: Unpack[MemoryKeywords],
    ) -> ClassMemory:
        """Make a memory of a data set, in ``rounds + 1`` passes over its images.

        The first pass takes the masks as they are. In each further one, features count for a class by the
        posterior that the memory of the pass before gives it.

        Parameters
        ----------
        samples : iterable, or function that returns one
            Gives, in each pass anew, the arguments of :meth:`update` for some images, as dictionaries:
            ``{"uss_features": ..., "masks": ..., "labels": ...}``. A list, a Dataset, a DataLoader; a
            generator only as a function that makes it, as it can be read once.
        num_classes : int
            As in :class:`ClassMemory`. ``dim`` is that of the features.
        rounds : int
            Passes after the first: the more, the purer; 0 is a start, and enough for masks that are good.
        distributed : bool
            Whether each process of a ``torch.distributed`` run has its share of the images: the passes go by
            the memory of all of them, which is what every process returns. Each needs an image at least.
        **options
            Of :class:`ClassMemory`.

        Raises
        ------
        ValueError, TypeError
            Anything above violated, no samples at all, or what :meth:`update` raises.

        Examples
        --------
        >>> import torch
        >>> from dhr_refine import ClassMemory
        >>> features = torch.randn(6, 8, 6, 6, generator=torch.Generator().manual_seed(0))
        >>> masks = torch.zeros(6, 24, 24, dtype=torch.long)
        >>> masks[:, 4:20, 4:20] = 2
        >>> sample = {"uss_features": features, "masks": masks, "labels": [[1]] * 6}
        >>> ClassMemory.fit([sample], num_classes=21)
        ClassMemory(21 classes, dim 8, 6 images, 2 classes known)
        """
        check_count(rounds, "rounds", 0)
        if "known" in options or "dim" in options:
            raise TypeError("fit sets dim and known itself: leave them out")
        if isinstance(samples, Iterator) and rounds:
            raise TypeError(
                f"samples must be readable more than once, got {describe(samples)}: pass a list, a "
                "DataLoader, or the function that makes the generator (or rounds=0)"
            )
        memory = cls._pass(samples, num_classes, None, distributed, options)
        for _ in range(rounds):
            memory = cls._pass(samples, num_classes, memory.solve(), distributed, options)
        return memory

    @classmethod
    def _pass(
        cls, samples: Any, num_classes: int, known: ClassDiscriminant | None, distributed: bool, options: Any
    ) -> ClassMemory:
        """One pass of :meth:`fit` over the samples."""
        memory = None
        given: Any = samples() if callable(samples) else samples
        if not isinstance(given, Iterable) and not hasattr(given, "__getitem__"):
            raise TypeError(f"samples must give dicts, got {describe(given)}: pass a list or a DataLoader")
        for position, sample in enumerate(given):
            check_sample(sample, position)
            if memory is None:
                dim, device = features_of(sample)
                memory = cls(num_classes, dim, **({"device": device} | options))
            memory.update(**sample, known=known)
        if memory is None:
            raise ValueError("samples gave no images: pass at least one (a generator only as a function)")
        return memory.all_reduced() if distributed else memory

    def _with(self, sums: Sums) -> ClassMemory:
        """A memory of the same options with other sums."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, _sums=sums, _solved=None)
        return other


def as_discriminant(memory: object, name: str) -> ClassDiscriminant | None:
    """What an argument that takes a memory, its solution or None stands for."""
    if memory is None or isinstance(memory, ClassDiscriminant):
        return memory
    if isinstance(memory, ClassMemory):
        return memory.solve()
    saved = "pass ClassMemory.load(path) for a saved one"
    if isinstance(memory, Mapping):
        saved = "make a ClassMemory and call its load_state_dict with that"
    fix = "pass the memory itself, or call its solve()" if callable(memory) else saved
    raise TypeError(
        f"{name} must be a ClassMemory, what its solve() returns, or None, got {describe(memory)}: {fix}"
    )


def _check_alike(memory: ClassMemory, other: ClassMemory | ClassDiscriminant, name: str) -> None:
    """Raise where two memories do not speak of the same classes and features."""
    for part in ("num_classes", "dim", "background"):
        own, came = getattr(memory, part), getattr(other, part)
        if own != came:
            raise ValueError(
                f"{name} has {part} {came!r} but this memory {own!r}: pass a memory of the same data set and "
                f"features, made with {part}={own!r}"
            )
