"""The command ``dhr-refine``, also as ``python -m dhr_refine``: Ctrl-C is one line from start to end."""

from __future__ import annotations

import sys

from . import interrupts


def main() -> int:
    """Run the command line of this process and return its exit code: see :func:`dhr_refine.cli.main`."""
    interrupts.end_at_once("dhr-refine: stopped\n")
    from .cli import main as run  # argparse and all verbs

    try:
        code = run()
    except KeyboardInterrupt:  # a second one, while the first was put in words
        code = interrupts.STOPPED
    interrupts.end_from_here(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
