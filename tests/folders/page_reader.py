"""What a browser finds in a page: its tags, its texts and where it would look for more."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser

import numpy as np
from PIL import Image

_VOID = {"meta", "img", "br", "link", "input", "hr"}


class PageReader(HTMLParser):
    """Fails where tags are not closed in order; keeps images, texts and every attribute."""

    def __init__(self, page: str):
        """Read a whole page."""
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.cards: list[dict[str, list]] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "article":
            self.cards.append({"texts": [], "images": []})
        if tag == "img" and self.cards:
            self.cards[-1]["images"].append(dict(attrs))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.texts.append(data)
        if self.cards and "article" in self.open:
            self.cards[-1]["texts"].append(data)

    @property
    def titles(self) -> list[str]:
        """Ids of the cards."""
        return [next(text for text in card["texts"] if text.strip()) for card in self.cards]

    def addresses(self) -> list[str]:
        """Everything that a browser would fetch or go to."""
        names = ("src", "href", "srcset", "action", "data", "poster", "background", "xlink:href")
        return [value for _, attrs in self.tags for name, value in attrs.items() if name in names]


def pixels_of(image: dict[str, str]) -> np.ndarray:
    """The pixels of an image of the page."""
    head, data = image["src"].split(",")
    assert head == "data:image/jpeg;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).astype(int)
