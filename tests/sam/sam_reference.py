"""Slow NumPy oracles of dhr_refine.sam, pixel by pixel, from the papers and the docstrings."""

from __future__ import annotations

import numpy as np


def encode(mask: np.ndarray) -> list[int]:
    """COCO's run lengths of a mask (H, W): zeros first, column by column."""
    counts, current, length = [], False, 0
    for value in mask.T.reshape(-1):
        if value != current:
            counts.append(length)
            current, length = value, 0
        length += 1
    return [*counts, length]


def compress(counts: list[int]) -> str:
    """COCO's text of run lengths, one character after the other."""
    text = ""
    for place, count in enumerate(counts):
        rest = count - counts[place - 2] if place > 2 else count
        while True:
            bits, rest = rest & 31, rest >> 5
            done = rest == (-1 if bits & 16 else 0)
            text += chr(48 + bits + (0 if done else 32))
            if done:
                break
    return text


def decode(counts: list[int], size: tuple[int, int]) -> np.ndarray:
    """The mask (H, W) of run lengths, run by run."""
    flat, value = [], False
    for count in counts:
        flat += [value] * count
        value = not value
    return np.array(flat).reshape(size[1], size[0]).T


def vote(
    labels: np.ndarray, probs: np.ndarray, masks: np.ndarray, power: int = 2, own: float = 0.1
) -> np.ndarray:
    """Numbers of the classes (H, W) by votes of masks (M, H, W); ``labels`` K takes no part and stays."""
    count = len(probs)
    known = labels < count
    scores = own * probs.astype(float)
    for mask in masks:
        if not (mask & known).any():
            continue
        mean = probs[:, mask & known].mean(axis=1)
        ranked = sorted(mean, reverse=True) + [0.0] * (count == 1)
        scores[:, mask] += ((ranked[0] - ranked[1]) ** power * mean)[:, None]
    result = labels.copy()
    covered = masks.any(axis=0) & known
    result[covered] = scores.argmax(axis=0)[covered]
    return result


def sepl(labels: np.ndarray, masks: np.ndarray, count: int) -> np.ndarray:
    """SEPL's merge of the classes 1 .. count - 1 of a mask (H, W) with masks (M, H, W)."""
    result = np.zeros_like(labels)
    seen = set()
    for number in range(1, count):
        own = labels == number
        if not own.any():
            continue
        taken, covered = np.zeros_like(own), np.zeros_like(own)
        for place, mask in enumerate(masks):
            if place in seen:
                continue
            covered |= mask
            both = (mask & own).sum()
            if 2 * both > mask.sum() or both / own.sum() >= 0.85:
                taken |= mask
                seen.add(place)
        result[taken | (own & ~covered)] = number
    return result


def distances(region: np.ndarray) -> np.ndarray:
    """Distance of each pixel of a region to the nearest pixel outside."""
    rows, columns = np.nonzero(~region)
    result = np.zeros(region.shape)
    for row, column in zip(*np.nonzero(region)):
        result[row, column] = np.sqrt(((rows - row) ** 2 + (columns - column) ** 2).min())
    return result


def regions(labels: np.ndarray, number: int) -> list[np.ndarray]:
    """Regions of a class that hang together by edges or corners, by flooding, in reading order."""
    left, found = labels == number, []
    while left.any():
        start = tuple(np.argwhere(left)[0])
        own, border = np.zeros_like(left), [start]
        own[start] = True
        while border:
            row, column = border.pop()
            for r in range(max(row - 1, 0), min(row + 2, left.shape[0])):
                for c in range(max(column - 1, 0), min(column + 2, left.shape[1])):
                    if left[r, c] and not own[r, c]:
                        own[r, c] = True
                        border.append((r, c))
        found.append(own)
        left &= ~own
    return found
