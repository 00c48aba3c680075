"""The parts of examples/benchmark_quality.py: samples, ways to refine them, and the figures of both.

``samples.py`` loads images with CAMs, features and base masks, from own files or the networks of
``dhr_refine.pretrained``; ``evaluation.py`` refines them and counts pixels; ``figures.py`` makes tables with
standard errors of the counts; ``fingerprints.py`` tells the cache when code has changed, ``kept.py`` whether
its files are what their names say.
"""
