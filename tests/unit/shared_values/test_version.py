"""What `--version` tells, of each command."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from shared import version

BIN = Path(sys.executable).parent
LINE = re.compile(r"headrace [0-9]+\.[0-9]+\.[0-9]+ \((not )?compiled\), CPython [0-9.]+")


@pytest.mark.parametrize("command", ["headrace", "producer_from_cli", "consumer_from_cli"])
def test_each_command_tells_its_version(command: str) -> None:
    """One line on stdout, and nothing else is asked for."""
    done = subprocess.run([BIN / command, "--version"], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert LINE.fullmatch(done.stdout.rstrip("\n"))


def test_it_tells_whether_the_compiled_part_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report without it leaves out what decides about half of the cost."""
    monkeypatch.setattr(version, "COLUMNS", None)
    assert "(not compiled)" in version.version_text()
    monkeypatch.setattr(version, "COLUMNS", object())
    assert "(compiled)" in version.version_text()
