"""The command line ``dhr-refine``: one verb for each job, see ``commands``."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from . import __version__, commands, interrupts
from .commands.arguments import Parser
from .errors import run_command

# The module of each verb in ``commands``, in the order of a job.
_VERBS = {
    "check": "check",
    "masks": "masks",
    "crf": "crf",
    "features": "features",
    "eval": "evaluate",
    "show": "show",
    "tags": "tags",
    "demo": "demo",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns the exit code: 0 all done, 1 impossible here (a package, the disk), 2 usage, 3 some images failed,
    130 stopped by Ctrl-C.
    """
    arguments = _parser().parse_args(argv)
    stopped = "stopped; what is finished is kept, and the same command goes on from here"
    return run_command("dhr-refine", lambda: _run(arguments), stopped=stopped)


def _run(arguments: argparse.Namespace) -> object:
    # Every verb needs it, and its import makes other errors of an interrupt.
    importlib.import_module("torch")
    interrupts.raise_from_here()
    return arguments.run(arguments)


def _parser() -> Parser:
    parser = Parser(
        prog="dhr-refine", description="Refine pseudo masks for weakly-supervised semantic segmentation."
    )
    parser.add_argument("--version", action="version", version=f"dhr-refine {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for name, module in _VERBS.items():
        verb = importlib.import_module(f"{commands.__name__}.{module}")
        description = getattr(verb, "DESCRIPTION", verb.HELP)
        added = verbs.add_parser(name, help=verb.HELP, description=description)
        verb.add_arguments(added)
        added.set_defaults(run=verb.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
