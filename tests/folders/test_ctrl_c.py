"""Ctrl-C at any moment of a command: one line and code 130, whatever is imported or waited for."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from textwrap import dedent

import pytest
from small_sets import command, write_set

from dhr_refine import cli, interrupts

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")

# Ctrl-C waits until the command listens: what Python does before is not the command's.
START = """
import signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
print("up", flush=True)
from dhr_refine import interrupts
interrupts.end_at_once("dhr-refine: stopped\\n")
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
"""
COMMAND = START + "from dhr_refine.__main__ import main\nsys.exit(main())"
# A command that works on what follows.
WORK = START + "import ctypes, os, threading, time\nfrom dhr_refine.errors import run_command\n"


def interrupted(code, delay, *arguments):
    """Code and errors of a process that hears Ctrl-C after some seconds, and its workers with it.

    It hears it twice, as one that a wrapper has started.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", dedent(code), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    time.sleep(delay)
    os.killpg(process.pid, signal.SIGINT)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    return process.returncode, errors


def ran(code):
    """Code and errors of a process that interrupts itself."""
    answer = subprocess.run([sys.executable, "-c", dedent(code)], capture_output=True, text=True, timeout=60)
    return answer.returncode, answer.stderr


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.1, 0.2, 0.5])
@pytest.mark.parametrize("arguments", [["--help"], ["masks", "--help"], ["--version"]])
def test_help_may_be_interrupted(delay, arguments):
    assert interrupted(COMMAND, delay, *arguments) in [(130, "dhr-refine: stopped\n"), (130, ""), (0, "")]


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("delay", [0.05, 0.3, 1.0, 2.0, 3.5, 5.0])
def test_a_run_may_be_interrupted(delay, jobs, tmp_path):
    (tmp_path / "set").mkdir()
    line = command(write_set(tmp_path / "set", 40), tmp_path / "out", "--jobs", jobs)
    code, errors = interrupted(COMMAND, delay, *line)
    if (code, errors) not in [(0, ""), (130, "")]:
        assert code == 130
        assert errors.startswith("dhr-refine: stopped")
        assert errors.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.5, 2.0, 4.0])
def test_the_demo_may_be_interrupted(delay, tmp_path):
    code, errors = interrupted(
        COMMAND, delay, "demo", "--out", tmp_path, "--cache", tmp_path, "--vit", "none"
    )
    assert errors.count("\n") <= 1
    assert "Traceback" not in errors
    assert code == 130 or (code == 1 and "none" in errors)  # there is no such file


def test_an_import_that_catches_interrupts_ends_all_the_same():
    code = (
        START
        + """
        try:
            os = __import__("os")
            os.kill(os.getpid(), signal.SIGINT)
        except BaseException:
            pass
        """.replace("\n        ", "\n")
    )
    assert ran(code) == (130, "dhr-refine: stopped\n")


WORKS = {
    "raised": "os.kill(os.getpid(), signal.SIGINT)",
    # As imports and compilers do.
    "translated": "try:\n  os.kill(os.getpid(), signal.SIGINT)\nexcept BaseException:\n  raise ValueError",
    # Foreign code that calls back goes on.
    "swallowed": "ctypes.CFUNCTYPE(None)(lambda: os.kill(os.getpid(), signal.SIGINT))()\ntime.sleep(50)",
    "held": "with interrupts.held():\n  os.kill(os.getpid(), signal.SIGINT)\n  os.write(1, b'held')",
}


@pytest.mark.parametrize("what", list(WORKS))
def test_work_is_stopped_with_one_line(what):
    job = WORKS[what].replace("\n", "\n    ")
    code = f"def job():\n    interrupts.raise_from_here()\n    {job}\n    time.sleep(50)\n"
    assert ran(f"{WORK}{code}sys.exit(run_command('x', job, stopped='stopped'))") == (130, "x: stopped\n")


def test_two_at_once_are_one():
    """What closes is not broken off by the second: a pool would wait for processes for ever."""
    code = """
    def job():
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            print("closed", file=sys.stderr)

    interrupts.raise_from_here()
    sys.exit(run_command("dhr-refine", job, stopped="stopped"))
    """
    assert ran(WORK + dedent(code)) == (130, "closed\ndhr-refine: stopped\n")


def test_a_later_one_ends_the_process_at_once():
    code = """
    def job():
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            time.sleep(1.2)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(50)

    interrupts.raise_from_here()
    run_command("dhr-refine", job, stopped="stopped")
    """
    assert ran(WORK + dedent(code)) == (130, "dhr-refine: stopped\n")


def test_a_block_that_is_held_comes_to_its_end():
    answer = subprocess.run(
        [sys.executable, "-c", f"{WORK}interrupts.raise_from_here()\n{WORKS['held']}"],
        capture_output=True,
        text=True,
    )
    assert answer.stdout == "up\nheld"
    assert "KeyboardInterrupt" in answer.stderr


def test_other_errors_in_callbacks_are_told():
    code = f"{WORK}interrupts.raise_from_here()\nctypes.CFUNCTYPE(None)(lambda: 1 / 0)()"
    code, errors = ran(code)
    assert code == 0
    assert "ZeroDivisionError" in errors


@pytest.mark.parametrize("result", [0, 3, 130])
def test_the_end_waits_for_no_thread(result):
    """A second Ctrl-C, or one that comes too late, while Python waits for threads."""
    code = (
        f"{WORK}interrupts.end_from_here({result})\nthreading.Thread(target=time.sleep, args=(60,)).start()"
    )
    assert interrupted(code, 0.5) == (result, "")


def test_output_is_written_before_the_end():
    code = f"{WORK}interrupts.end_from_here(0)\nprint('result')\nos.kill(os.getpid(), signal.SIGINT)"
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=buffered)
    assert (answer.returncode, answer.stdout) == (0, "up\nresult\n")


def test_the_last_moments_are_deaf():
    """What Python does after the last exit handler."""
    code = f"""{WORK}
class Late:
    def __del__(self, kill=os.kill, own=os.getpid(), number=signal.SIGINT):
        kill(own, number)
late = Late()
late.itself = late
sys.modules["late"] = late
interrupts.end_from_here(3)
sys.exit(3)"""
    assert ran(code) == (3, "")


def test_a_process_in_the_background_stays_deaf():
    code = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nfrom dhr_refine import interrupts\n"
    code += "interrupts.end_at_once()\ninterrupts.raise_from_here()\ninterrupts.end_from_here(0)\n"
    assert ran(f"{code}assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN") == (0, "")


def test_a_call_of_the_command_line_leaves_signals_alone(tmp_path, capsys):
    before = signal.getsignal(signal.SIGINT), sys.unraisablehook
    assert cli.main(["check", str(tmp_path), "--cams", str(tmp_path), "--uss", str(tmp_path)]) in (1, 2)
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    interrupts.raise_from_here()
    interrupts.end_from_here(3)
    assert (signal.getsignal(signal.SIGINT), sys.unraisablehook) == before
    capsys.readouterr()


def test_an_interrupted_bar_gives_the_cursor_back(monkeypatch):
    from dhr_refine.folders.runs.progress import Progress

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    bar = Progress(3, "masks")
    monkeypatch.setattr(bar._bar, "add_task", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        bar.__enter__()
    assert not bar._bar.live.is_started


def test_a_command_on_another_thread_runs_and_leaves_ctrl_c_alone():
    code = """
    import signal, sys, threading
    from dhr_refine.__main__ import main

    sys.argv = ["dhr-refine", "tags", "none", "--out", "x.csv"]
    before, codes = signal.getsignal(signal.SIGINT), []
    thread = threading.Thread(target=lambda: codes.append(main()))
    thread.start()
    thread.join()
    assert codes == [2], codes
    assert signal.getsignal(signal.SIGINT) is before
    """
    left, errors = ran(code)
    assert (left, errors.count("\n"), "dhr-refine: " in errors) == (0, 1, True)
