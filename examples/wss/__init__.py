"""The parts of examples/train_wss.py that are no news to who has trained a network before.

``arguments.py``, ``loop.py``, ``run.py`` and ``lock.py`` also serve examples/train_segmenter.py.
"""
