"""The demo of the command line: real photos, a real classifier and a real ViT through refine_steps.

``run.py`` does the job, ``report.py`` says what came of it.
"""
