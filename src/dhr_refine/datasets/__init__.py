"""Whole data sets: folders with one file per image, lists of images, and their tags.

``index.py`` finds the files of images, ``layouts.py`` the folders of data sets that hold them; ``folders.py``
reads CAMs, features and masks out of files; ``voc.py`` knows the splits and tags of PASCAL VOC; ``items.py``
reads lists and chooses images; ``tags.py`` reads image tags from any source, with ``tag_words.py`` for lists
and tables and ``coco.py`` for COCO's instances, and all of it becomes what ``tag_table.py`` says; ``rows.py``
reads the lines of lists and tables, ``texts.py`` any text of a data set; ``classes.py`` knows what labels are
called; ``cache.py`` keeps on disk what takes long to compute; ``photos.py`` is a data set of four photos that
ship in PyPI packages. Their errors are :class:`dhr_refine.errors.UserError`, one line that a command can
print.

Internal: not part of the documented library.
"""
