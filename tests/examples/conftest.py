"""The scripts in reach, and what they say of their users' errors."""

from __future__ import annotations

import sys

import pytest
from places import ROOT

sys.path.append(str(ROOT / "examples"))


@pytest.fixture
def one_line(capsys):
    """Run the main function of a script; the one line on standard error that it ends with, after its name."""

    def start(main, words, code):
        capsys.readouterr()
        try:
            found = main(list(words))
        except SystemExit as exit_:
            found = exit_.code
        message = capsys.readouterr().err
        assert found == code, message
        assert message.count("\n") == 1, message
        name, colon, _ = message.partition(":")
        assert colon
        assert name.split()[0] == main.__module__
        return message

    return start
