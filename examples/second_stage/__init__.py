"""The parts of examples/train_segmenter.py; the loop, the logs and the checkpoints are those of ``wss``."""
