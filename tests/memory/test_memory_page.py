"""docs/memory.md: every way to use a memory runs as it stands there, and does what the page says."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch
from places import ROOT
from scenes import make_scene

import dhr_refine
from dhr_refine import ClassMemory

PAGE = (ROOT / "docs" / "memory.md").read_text(encoding="utf-8")
CLASSES = 20


def blocks(title: str) -> list[str]:
    """The code blocks of a section."""
    (section,) = (part for part in re.split(r"^## ", PAGE, flags=re.MULTILINE) if part.startswith(title))
    return re.findall(r"^```python\n(.*?)^```", section, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def scenes():
    return [make_scene(seed, classes=CLASSES, lost=(6,) if seed % 3 else ()) for seed in range(8)]


@pytest.fixture
def names():
    """What every block may use of the library."""
    kept = {name: getattr(dhr_refine, name) for name in ("ClassMemory", "refine_mask", "refine_steps")}
    return {name: without_crf(value) if name.startswith("refine") else value for name, value in kept.items()}


def without_crf(function):
    return lambda *args, **options: function(*args, boundary=None, **options)


def stacked(scenes):
    """All scenes as one batch: CAMs, base masks, USS and WSS features, images, tags."""
    levels = [torch.stack(level) for level in zip(*(scene.wss for scene in scenes))]
    fields = ([getattr(scene, name) for scene in scenes] for name in ("cams", "mask", "uss", "image"))
    cams, base, uss, images = map(torch.stack, fields)
    return cams, base, uss, levels, images, [scene.tags for scene in scenes]


def test_offline(scenes, names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved = {}
    by_key = dict(enumerate(scenes))
    names |= {
        "keys": list(by_key),
        "tags": {key: scene.tags for key, scene in by_key.items()},
        "load_uss": lambda key: by_key[key].uss,
        "load_mask": lambda key: by_key[key].mask,
        "load_cams": lambda key: by_key[key].cams,
        "load_wss": lambda key: by_key[key].wss,
        "load_image": lambda key: by_key[key].image,
        "save_mask": saved.__setitem__,
    }
    (block,) = blocks("Offline")
    exec(block, names)
    assert saved.keys() == by_key.keys()
    cams, base, uss, wss, images, tags = stacked(scenes)
    memory = ClassMemory.fit([{"uss_features": uss, "masks": base, "labels": tags}], num_classes=21)
    expected = names["refine_mask"](cams, base, uss, wss, images, labels=tags, memory=memory)
    assert torch.equal(torch.stack([saved[key] for key in by_key]), expected)


def test_in_a_training_loop(scenes, names):
    seen = []
    cams, base, uss, wss, images, tags = stacked(scenes)

    def part(rows):
        return SimpleNamespace(uss=uss[rows], images=images[rows], tags=tags[rows], rows=rows)

    names |= {
        "uss_dim": uss.shape[1],
        "loader": [part(slice(0, 4)), part(slice(4, 8)), part(slice(0, 4))],
        "forward": lambda batch: (cams[batch.rows], [level[batch.rows] for level in wss], base[batch.rows]),
        "step": seen.append,
    }
    loop, shared = blocks("In a training loop")
    exec(loop, names)
    plain = names["refine_mask"](
        cams[:4], base[:4], uss[:4], [w[:4] for w in wss], images[:4], labels=tags[:4]
    )
    assert torch.equal(seen[0], plain)  # four images are too few
    assert not torch.equal(seen[2], plain)
    names |= {"batch": part(slice(0, 4)), "cams": cams[:4], "base": base[:4], "wss": [w[:4] for w in wss]}
    exec(shared, names)
    assert torch.equal(names["masks"], seen[2])


def test_on_the_images_at_hand(scenes, names, capsys):
    cams, base, uss, wss, images, tags = stacked(scenes)
    names |= {"cams": cams, "base": base, "uss": uss, "wss": wss, "images": images, "tags": tags}
    (block,) = blocks("On the images at hand")
    exec(block, names)
    assert "torch.Size([8, 3, 8, 11])" in capsys.readouterr().out
