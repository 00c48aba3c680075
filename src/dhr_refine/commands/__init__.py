"""The verbs of the command line, one file each, and what their arguments share.

A verb has ``HELP``, one line; ``add_arguments``, which tells a parser its options; and ``run``, which does
the work and returns the exit code. Only ``run`` imports what takes long, so that ``--help`` and ``--version``
answer at once: ``arguments.py`` and the heads of these files know the standard library alone.
"""
