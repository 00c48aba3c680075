"""What is said of folders of masks.

``selection.py`` reads the masks of an image. ``scores.py`` and ``tables.py`` are the report of an evaluation;
``ranking.py`` picks images to show, ``cards.py`` is what a page says of each, ``page.py`` the page around
them.
"""
