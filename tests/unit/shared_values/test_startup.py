"""A Ctrl-C while a command still imports what it needs ends it like one that comes later: a message, no traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shared.startup import end_at_once_on_interrupt, interrupt_as_usual

PROJECT = Path(__file__).parents[3]
INTERRUPTING_IMPORT = """
import importlib.abc, os, signal, sys

class Interrupting(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
sys.argv = ["command", "--stream", "x", *{arguments!r}]
from {package}.entry import main
main()
"""


@pytest.mark.parametrize(
    ("package", "module", "arguments"),
    [
        ("producer", "typer", []),
        ("consumer", "typer", []),
        ("infra", "typer", []),
        ("producer", "botocore", ["--json-string", '{"session_id": "a"}']),
        ("consumer", "aiobotocore", []),
    ],
)
def test_an_interrupt_during_an_import_is_a_message(package: str, module: str, arguments: list[str]) -> None:
    """Wherever the import of a command is interrupted, its user sees one error and a hint, and the exit code is 130."""
    script = INTERRUPTING_IMPORT.format(module=module, package=package, arguments=arguments)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, cwd=PROJECT, check=False
    )
    assert done.returncode == 130, done.stderr
    assert done.stderr.startswith("error: Interrupted")
    assert "\n\nhint: " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_command_that_ignores_interrupts_goes_on_doing_so() -> None:
    """A shell script starts what it puts into the background with SIGINT ignored: Ctrl-C is for the script."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        end_at_once_on_interrupt()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_work_is_interrupted_as_usual() -> None:
    """Once there is work, SIGINT raises KeyboardInterrupt again; a handler of somebody else's is left in place."""
    before = signal.getsignal(signal.SIGINT)
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        end_at_once_on_interrupt()
        interrupt_as_usual()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        interrupt_as_usual()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("locale", [{"LC_ALL": "C", "PYTHONUTF8": "0"}, {"PYTHONIOENCODING": "ascii"}])
def test_data_are_utf_8_in_any_locale(locale: dict[str, str]) -> None:
    """What stands in records reaches stdout as it is, also where the terminal's encoding could not write it."""
    script = "from shared.startup import open_standard_streams as o; o(); print('\\xe9 \\ud83d')"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        timeout=60,
        cwd=PROJECT,
        check=False,
        env=os.environ | locale,
    )
    assert (done.stdout, done.stderr) == (b"\xc3\xa9 \\ud83d\n", b"")
