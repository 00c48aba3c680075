"""Tiles of an image: the order in which the compiled loops go through its pixels.

Pixels are numbered tile by tile, and column by column inside a tile: a vertex is then touched by pixels that
follow each other closely.
"""

from __future__ import annotations

from dhr_refine.compiled.jit import compiled

# Rows and columns of a tile: its values stay in the first cache during one step of the mean field.
TILE_ROWS, TILE_COLUMNS = 8, 16
TILE = TILE_ROWS * TILE_COLUMNS


@compiled
def tiles_across(width):
    """Number of tiles in a row of them."""
    return -(-width // TILE_COLUMNS)


@compiled
def tile_box(tile, height, width):
    """First row, number of rows, first column and number of columns of a tile."""
    across = tiles_across(width)
    y, x = tile // across * TILE_ROWS, tile % across * TILE_COLUMNS
    return y, min(TILE_ROWS, height - y), x, min(TILE_COLUMNS, width - x)


@compiled
def tile_count(height, width):
    """Number of tiles of an image."""
    return -(-height // TILE_ROWS) * tiles_across(width)
