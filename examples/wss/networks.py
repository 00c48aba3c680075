"""The networks: a pretrained backbone with CAM head and decoder, and a frozen ViT for USS features."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dhr_refine.errors import UserError, reading, writing
from dhr_refine.files.writing import write_atomic
from dhr_refine.pretrained import Classifier, VisionTransformer
from dhr_refine.pretrained.fetch import VIT_SHA256, cache_dir, vit_file
from wss.run import Run, to_bytes

if TYPE_CHECKING:
    from wss.data import Sample


class Features:
    """USS features of full images: a frozen ViT, computed once per image and kept on disk."""

    def __init__(self, folder: Path, networks: str):
        """Features of the ViT, or (``networks`` "tiny") mean colours on its grid."""
        self.networks = networks
        recipe = VIT_SHA256[:12] if networks == "pretrained" else "colours"
        self.depth = 384 if networks == "pretrained" else 3
        self.folder = folder / f"uss-{recipe}"

    def grid(self, size: Sequence[int], cell: int = 8) -> tuple[int, int]:
        """Cells that cover a crop: the ViT's 14 pixels of a full image become about 8 of a crop."""
        return max(1, round(size[0] / cell)), max(1, round(size[1] / cell))

    def path(self, image: Tensor) -> Path:
        """Where the features of an image are kept: its content decides."""
        content = str(tuple(image.shape)).encode() + image.contiguous().numpy().tobytes()
        return self.folder / f"{hashlib.sha256(content).hexdigest()[:24]}.pt"

    def read(self, image: Tensor) -> Tensor:
        """(D, u, v) float16 features that ``prepare`` has written."""
        with reading(path := self.path(image), "start the script again, which makes it anew"):
            features = torch.load(path, map_location="cpu", weights_only=True)
            fits = isinstance(features, Tensor) and features.dtype == torch.half and features.ndim == 3
            if (
                not fits
                or len(features) != self.depth
                or 0 in features.shape
                or not features.isfinite().all()
            ):
                raise ValueError(f"it holds no features ({self.depth}, u, v) of half precision")
        return features

    def prepare(self, samples: Sequence[Sample], vit: Path | None, run: Run) -> None:
        """Compute what is missing or damaged, every process its share."""
        with writing(self.folder, "--cache"):
            self.folder.mkdir(parents=True, exist_ok=True)
        network: Callable[[Tensor], Tensor] | None = None
        for sample in run.track(samples[run.rank :: run.world], "USS features of the full images"):
            image = sample.load()
            try:
                self.read(image)
                continue
            except UserError:
                path = self.path(image)
            if network is None:
                network = self._colours if self.networks == "tiny" else self._vit(vit, run.device)
            with run.device:  # the ViT's constants are made on the default device
                features = network(image.to(run.device))[0]
            with writing(path, "--cache"):
                write_atomic(path, to_bytes(features.half().cpu()))
        run.wait()

    def _vit(self, vit: Path | None, device: torch.device) -> VisionTransformer:
        transformer = VisionTransformer.load(vit_file(cache_dir(), vit))
        transformer.network.to(device)
        return transformer

    def _colours(self, image: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(image[None] / 255, self.grid(image.shape[-2:], 14))


class Output(NamedTuple):
    """What the network says about a batch."""

    pooled: Tensor  # (B, C) classification logits, the CAMs' mean
    cams: Tensor  # (B, C, h, w) at stride 32
    logits: Tensor  # (B, C + 1, 2h, 2w) segmentation at stride 16, background first
    levels: list[Tensor]  # WSS features at stride 16 and 32


class Pyramid(nn.Module):
    """EfficientNet-lite0, all but its last five blocks frozen, and a light decoder on strides 16 and 32."""

    def __init__(self, networks: str):
        """Build the backbone; a decoder has to be added."""
        super().__init__()
        if networks == "tiny":
            self.backbone: nn.Module = TinyBackbone()
            self.depths, trained = (16, 32), list(self.backbone.parameters())
        else:
            self.backbone = net = Classifier.load().network
            self.depths = (112, 1280)
            # Their batch norms keep ImageNet's statistics (eval mode), only their factors are trained.
            trained = [*net._blocks[11:].parameters(), *net._conv_head.parameters(), *net._bn1.parameters()]
        for parameter in trained:
            parameter.requires_grad_(True)

    def add_decoder(self, labels: int) -> None:
        """Layers from both levels to logits, which start from zero."""
        self.fine, self.coarse = (nn.Conv2d(depth, 128, 1) for depth in self.depths)
        self.decoder = nn.Sequential(
            nn.GroupNorm(8, 128),  # no batch statistics: crops do not depend on each other, nor do ranks
            nn.ReLU(),
            nn.Conv2d(128, 128, 3, padding=1),
            nn.GroupNorm(8, 128),
            nn.ReLU(),
            nn.Conv2d(128, labels, 1),
        )
        nn.init.zeros_(self.decoder[-1].weight)
        nn.init.zeros_(self.decoder[-1].bias)

    def levels(self, images: Tensor) -> list[Tensor]:
        """Features of stride 16 and 32 of images (B, 3, H, W) of 0..255 with sides a multiple of 32."""
        images = images.float().contiguous(memory_format=torch.channels_last)
        if isinstance(self.backbone, TinyBackbone):
            return self.backbone(images)
        return Classifier(self.backbone).levels(images)

    def decode(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """Logits at the stride of the finer level."""
        above = F.interpolate(self.coarse(coarse), fine.shape[-2:], mode="bilinear")
        return self.decoder(self.fine(fine) + above)


class Segmenter(Pyramid):
    """EfficientNet-lite0 with a CAM head and a light decoder."""

    def __init__(self, classes: int, networks: str, head: tuple[Tensor, Tensor] | None):
        """Build the backbone, the CAM head (from ``head``, else from zero) and the decoder."""
        super().__init__(networks)
        self.head = nn.Conv2d(self.depths[1], classes, 1)
        if head is not None:
            self.head.load_state_dict({"weight": head[0][:, :, None, None], "bias": head[1]})
        elif networks == "pretrained":  # "tiny" keeps random weights, so that its CAMs show something
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)
        self.add_decoder(classes + 1)

    def forward(self, images: Tensor) -> Output:
        """Run a batch (B, 3, H, W) of 0..255 with sides a multiple of 32."""
        fine, coarse = levels = self.levels(images)
        maps = self.head(coarse)
        # The bias says how frequent a class is, not where it sits: CAMs go without it.
        cams = maps - self.head.bias[:, None, None]
        # The decoder adds to the classifier's logits, against 0 for the background: hundreds of steps are too
        # few to learn a segmentation from nothing.
        start = F.interpolate(maps.detach(), fine.shape[-2:], mode="bilinear")
        logits = self.decode(fine, coarse) + F.pad(start, (0, 0, 0, 0, 1, 0))
        return Output(maps.mean((2, 3)), cams, logits, levels)

    def parameter_groups(self, rate: float) -> list[dict[str, Any]]:
        """For the optimiser: the pretrained blocks learn ten times slower than heads and decoder."""
        return parameter_groups(self, rate, "backbone.")


def parameter_groups(network: nn.Module, rate: float, *slow: str) -> list[dict[str, Any]]:
    """For an optimiser: parameters whose names begin like one of those learn ten times slower."""
    trained = [(name, part) for name, part in network.named_parameters() if part.requires_grad]
    groups = {0.1 * rate: [p for name, p in trained if name.startswith(slow)]}
    groups[rate] = [p for name, p in trained if not name.startswith(slow)]
    return [{"params": params, "initial_lr": initial} for initial, params in groups.items() if params]


class TinyBackbone(nn.Module):
    """Two untrained convolutions, to try the loop in seconds (``--networks tiny``)."""

    def __init__(self):
        """Stride 16 and stride 32."""
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 16, stride=16), nn.Conv2d(16, 32, 2, stride=2)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Both levels."""
        fine = self.first((images - 127) / 128).relu()
        return [fine, self.second(fine).relu()]


def load_head(path: Path | None, classes: int, groups: list[list[int]] | None) -> Any:
    """Weight and bias of the CAM head: from a file, from ImageNet's classes, or None to start from zero."""
    if path is not None:
        with reading(f"--head {path}", "pass a torch file with the tensors weight and bias"):
            head = torch.load(path, map_location="cpu", weights_only=True)
            parts = [head[name].detach().float() for name in ("weight", "bias")]
        for name, part, shape in zip(("weight", "bias"), parts, ((classes, 1280), (classes,))):
            if part.shape != shape:
                raise UserError(
                    f"--head {path} has {name} {tuple(part.shape)}, not {shape}: train one for these classes"
                )
            if not part.isfinite().all():
                raise UserError(f"--head {path} has NaN or infinity in {name}: train it anew")
        return tuple(parts)
    if groups is not None:
        last: Any = Classifier.load().network._fc
        means = [(last.weight[group].mean(0), last.bias[group].mean()) for group in groups]
        return torch.stack([weight for weight, _ in means]), torch.stack([bias for _, bias in means])
    return None
