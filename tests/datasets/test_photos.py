"""The photos that ship in packages."""

from __future__ import annotations

import socket

import pytest
import torch

from dhr_refine.datasets.photos import PHOTOS


@pytest.mark.parametrize("key", PHOTOS)
def test_photos_ship_with_packages_and_carry_tags(key, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("a photo was asked for over the network")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    photo = PHOTOS[key]
    image = photo.load()
    assert image.dtype == torch.uint8
    assert image.ndim == 3
    assert image.shape[0] == 3
    assert min(image.shape[1:]) >= 300
    assert image.float().std() > 20
    assert photo.names[0] == "background"
    assert all(0 <= index < 1000 for group in photo.tags.values() for index in group)
    indices = [index for group in photo.tags.values() for index in group]
    assert len(indices) == len(set(indices))
