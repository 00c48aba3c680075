"""The parts of examples/train_wss.py that are no news to who has trained a network before."""
