"""How work on images is carried out: which images, by how many processes, and what is kept of a run.

``options.py`` says what a caller can choose. ``worker.py`` does the work on some images, reading ahead and
writing behind; ``pool.py`` calls it in several processes of which some may die, ``on_ray.py`` on a cluster.
``job.py`` is a whole run, with its ``record.py`` beside the results, ``progress.py`` and ``report.py``;
``outcomes.py`` is what became of an image.
"""
