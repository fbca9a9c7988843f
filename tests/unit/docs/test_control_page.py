"""The page on steering a group shows commands and options that exist, and names events that the code says."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "how-to" / "control.md").read_text()


def test_each_command_line_is_one() -> None:
    """Each command has a section of the reference, and its options are listed there."""
    reference = (ROOT / "docs" / "reference" / "cli.md").read_text()
    lines = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
    assert len(lines) >= 15
    for line in lines:
        words = line.split()
        depth = 3 if words[1] in {"deadletters", "kcl"} else 2
        section = reference.partition(f"\n## {' '.join(words[:depth])}\n")[2].partition("\n## ")[0]
        assert section, line
        for option in re.findall(r"(?<!\S)--[a-z-]+", line):
            assert option in section, line


def test_each_event_is_said_somewhere() -> None:
    """Each name of a log event or metric on the page is in the code."""
    code = "".join(path.read_text() for path in (ROOT / "consumer").rglob("*.py"))
    for name in re.findall(r"`(?:headrace_)?((?:retention)_[a-z_]+)`", PAGE):
        assert f'"{name}"' in code, name


def test_each_state_is_named() -> None:
    """The states on the page are those of the code, all of them."""
    code = (ROOT / "infra" / "control" / "status.py").read_text()
    states = set(re.findall(r'return "([a-z ]+)"|"([a-z]+)" if row|else "([a-z ]+)"|state="([a-z ]+)"', code))
    for state in {each for group in states for each in group if each}:
        assert f"`{state}`" in PAGE, state
