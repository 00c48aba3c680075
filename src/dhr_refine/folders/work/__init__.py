"""What is done with an image of a folder.

``sources.py`` reads its files, ``dialect.py`` finds out how CAM files count, ``outputs.py`` writes its masks.
``base.py`` makes a base mask, ``refine.py`` refines it; ``presets.py`` are the field's CRFs. ``learn.py``
makes a class memory of all images, which ``remembered.py`` keeps.
"""
