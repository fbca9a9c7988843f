"""The how-to page on faults says what the reader of the files takes."""

from __future__ import annotations

import re
from pathlib import Path

from infra.cloud.core.fault_file import _EFFECTS, parse_faults
from infra.cloud.fault_files import SHIPPED

PAGE = (Path(__file__).parents[3] / "docs" / "how-to" / "misbehave.md").read_text(encoding="utf-8")


def test_the_example_is_a_valid_file() -> None:
    """The file that the page shows loads as it stands."""
    example = re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert example is not None
    plan = parse_faults(example[1].encode())
    assert (len(plan.rules), len(plan.steps), len(plan.reshards)) == (2, 2, 1)


def test_every_effect_and_file_is_on_the_page() -> None:
    """The tables list all effects and all ready-made files, and no others."""
    effects = PAGE.split("### What happens", 1)[1].split("### Reshards", 1)[0]
    assert set(re.findall(r"^\| `(\w+)` \|", effects, re.MULTILINE)) == set(_EFFECTS)
    files = PAGE.split("| ready-made |", 1)[1].split("## A file", 1)[0]
    assert tuple(re.findall(r"^\| `([\w-]+)` \|", files, re.MULTILINE)) == SHIPPED
