"""What PAMR and PAR have in common."""

from __future__ import annotations

import copy

import pytest
import torch
from photos import photo, scores

from dhr_refine import pamr, par
from dhr_refine.adaptive import weights

TOOLS = pytest.mark.parametrize("tool", [pamr, par])


@TOOLS
def test_runs_in_float32_under_autocast(tool):
    image, probs = photo("coffee", 30, 40), scores(3, 30, 40)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = tool(image, probs)
    assert torch.equal(result, tool(image, probs))


@TOOLS
@pytest.mark.parametrize("iterations", [0, 3])
def test_inputs_stay_untouched(tool, iterations):
    image = (photo("coffee", 30, 40).permute(1, 2, 0) / 255).permute(2, 0, 1)
    probs = scores(3, 40, 30).transpose(1, 2).requires_grad_()
    before = copy.deepcopy((image, probs.detach()))
    result = tool(image, probs, iterations=iterations)
    assert not result.requires_grad
    assert result.data_ptr() != probs.data_ptr()
    assert torch.equal(image, before[0])
    assert torch.equal(probs.detach(), before[1])
    assert torch.equal(result, tool(image.contiguous(), probs.detach().contiguous(), iterations=iterations))


@TOOLS
def test_parts_of_the_softmax_change_no_digit(tool, monkeypatch):
    image, probs = photo("coffee", 131, 257), scores(2, 131, 257)  # more than two parts and a rest
    results = []
    for pixels in (2**13, 2**10, 2**20):
        monkeypatch.setattr(weights, "_PIXELS", pixels)
        results.append(tool(image, probs, iterations=2))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
