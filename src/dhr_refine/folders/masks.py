"""``refine_folder``: from folders of images, CAMs and features to a folder of refined masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from ..datasets.classes import Background, ClassSet
from ..edges import Boundary
from ..recipe import Recipe
from .plans import MaskPlan, plan_masks
from .runs.job import Run
from .runs.options import PathLike, RunOptions
from .runs.report import FolderReport
from .work.dialect import find_dialect
from .work.learn import ROUNDS
from .work.remembered import Remembered
from .work.sources import CamBackground

MEMORY = "memory"
"""Folder beside the masks for the class memory that a run learned."""


def refine_folder(
    images: PathLike,
    *,
    cams: PathLike,
    out: PathLike,
    masks: PathLike | None = None,
    uss: PathLike | None = None,
    uss_model: str | None = None,
    wss: PathLike | Sequence[PathLike] = (),
    wss_model: str | None = None,
    tags: PathLike | Mapping[str, Sequence[int]] | None = None,
    classes: str | int | ClassSet = "voc",
    background: Background | None = None,
    ignore_index: int = 255,
    cam_background: CamBackground | None = None,
    base_score: float | Literal["power"] = 0.2,
    alpha: float = 1.0,
    boundary: Boundary | str = "crf",
    recipe: Recipe | Literal["default", "paper", "released"] = "default",
    tau: float = 0.8,
    reg: float = 0.1,
    memory: PathLike | Literal["auto"] | None = None,
    rounds: int = ROUNDS,
    save_memory: PathLike | None = None,
    palette: bool = False,
    save_probs: bool = False,
    allow_pickle: bool = False,
    device: str = "cpu",
    run: RunOptions | None = None,
) -> FolderReport:
    """Refine the base masks of a data set, one file after the other.

    What is finished is skipped, so that the same call goes on where a stopped one was. An image that fails is
    listed, and the others go on.

    Parameters
    ----------
    images : str or path
        Folder of images, or of a data set: VOC2012, COCO, ``{data}/{domain}/image``. Files belong together by
        their names without suffix.
    cams : str or path
        Folder of CAM files in any form that :func:`read_cams` takes.
    out : str or path
        Folder for the masks, 8-bit PNGs whose values are the labels, 255 where unknown.
    masks : str or path, optional
        Folder of base masks, index PNGs or arrays. Default: they are made of the CAMs with ``base_score``
        and ``boundary`` (:func:`base_mask`) and kept in ``out/base``.
    uss : str or path, optional
        Folder of USS features, one array (D, u, v) a file.
    uss_model : str, optional
        Instead of ``uss``, the name of a network as ``load_extractor`` takes it. With ``memory="auto"`` its
        features are kept in ``out/uss``.
    wss : str, path or sequence, optional
        Folders of the classifier's features, one or several levels (D, h, w) a file.
    wss_model : str, optional
        Instead of ``wss``, the name of a network. Default: the USS features serve for both.
    tags : str, path or mapping, optional
        Image tags in any form that ``read_tags`` takes, or 0-based classes by id. Default: the keys of the
        CAM files.
    classes : str, int or ClassSet
        The labels: "voc", "coco", "context", "ade", "stuff", or their number with the background.
    background : {"first", "last", "none"}, optional
        Where the background's label is. Default: as the data set has it, "first" for a number.
    ignore_index : int
        Label of unknown pixels, 0 to 255.
    cam_background : {"first", "none"}, optional
        What number 0 means in CAM files, as in :func:`read_cams`. Default: found out by looking at many.
    base_score, alpha : float
        Background score of base masks made here, and the exponent if it is "power".
    boundary : {"crf", "pamr", "par"}, None, callable or "sam:DIR"
        Boundary tool, as in :func:`refine_mask`. "sam:DIR": the CRF, then votes of the segments of each image
        (:func:`dhr_refine.sam.segment_voting`) in a folder, which has a file for each image or a folder of
        masks (:func:`dhr_refine.sam.read_segments`); base masks made here get the CRF alone.
    recipe : Recipe, or "default", "paper", "released"
        Choices of the step.
    tau, reg : float
        As in :func:`refine_mask`.
    memory : str, path or "auto", optional
        File of a :class:`ClassMemory`. "auto": one of these images, learned in ``rounds + 1`` passes and kept
        as ``out/memory/all.npz``.
    rounds : int
        Passes after the first.
    save_memory : str or path, optional
        Another file for that memory.
    palette : bool
        Whether ``out/colour`` gets copies with the colours of VOC.
    save_probs : bool
        Whether ``out/probs`` gets the probabilities, .npz with ``keys`` (K,) labels and ``prob`` (K, H, W).
    allow_pickle : bool
        Unpickle whatever files hold, which can run any code: only for files that you wrote.
    device : str
        Device of the step. On an accelerator images of one size are worked on together.
    run : RunOptions, optional
        Which images, and by how many processes.

    Returns
    -------
    FolderReport
        Counts, failures, warnings and time; ``out/dhr_refine.json`` has them too, with all arguments.

    Raises
    ------
    UserError
        Something that is wrong for all images: an argument, a folder, results of other arguments in ``out``.
    ValueError, TypeError
        A number or a choice that no image could be refined with.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> import torch
    >>> from dhr_refine.folders import refine_folder
    >>> from dhr_refine.files import write_mask
    >>> folder = tempfile.TemporaryDirectory()
    >>> here = Path(folder.name)
    >>> for name in ("images", "cams", "uss"):
    ...     (here / name).mkdir()
    >>> write_mask(here / "images" / "a.png", torch.zeros(32, 32))
    >>> np.save(here / "cams" / "a.npy", {14: np.random.rand(8, 8)})
    >>> np.save(here / "uss" / "a.npy", np.random.rand(16, 8, 8))
    >>> report = refine_folder(here / "images", cams=here / "cams", uss=here / "uss", out=here / "out")
    >>> report.done
    1
    >>> folder.cleanup()
    """
    return carry_out(plan_masks(**locals()))


def carry_out(plan: MaskPlan) -> FolderReport:
    """All passes over the images: base masks, memory, refinement."""
    sources, base, memory, run = plan.task.sources, plan.base, plan.memory, plan.run
    memory.check(sources.classes)
    keys = run.choose(lambda: sources.cam_files.keys())
    with Run("masks", plan.out, plan.arguments, run) as started:
        remembered = Remembered(plan.out / MEMORY, keys, run.place)
        # What a run makes it removes; what it is given it keeps, wherever that is.
        made = [plan.task.outputs]
        made += [base.outputs] if sources.masks is None else []
        made += [plan.features.outputs] if memory.is_learned and sources.uss is None else []
        started.make_room(keys, made, remembered.remove)
        dialect = find_dialect(sources, sources.cam_files.keys())
        started.record.extra["cam_background"] = dialect._asdict()
        sources = replace(sources, cam_background=dialect.background)
        if sources.masks is None:
            base.outputs.make_folders()
            base = replace(base, sources=sources)
            keys = started.step(base, keys, device=base.device, what="base masks")
            sources = replace(sources, masks=base.outputs.folder)
        path = None if memory.is_learned or memory.given is None else Path(memory.given)
        if memory.is_learned:
            if sources.uss is None:  # seven passes read them
                features = plan.features
                features.outputs.make_folders()
                keys = started.step(features, keys, device=features.device, what="USS features")
                sources = replace(sources, uss=features.outputs.folder)
            path = remembered.find(sources, keys, run, started.tally, rounds=memory.rounds)
            memory.keep(path)
            keys = started.left(keys)
        uss_model = None if sources.uss is not None else plan.task.uss_model
        task = replace(plan.task, sources=sources, memory=path, uss_model=uss_model)
        started.step(task, keys, device=task.device, what="masks", last=True)
    return started.report()
