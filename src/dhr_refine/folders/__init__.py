"""Whole folders: from files of images, CAMs and features to files of masks."""
