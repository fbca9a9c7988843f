"""The documents name only what exists: files, functions, commands, settings and other documents."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shared.settings import ConsumerSettings, ProducerSettings

ROOT = Path(__file__).parents[3]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
_LINK = re.compile(r"\]\((?!https?:)([^)#]+)[^)]*\)")
_PLACE = re.compile(r"`((?:shared|producer|consumer|infra|tests|docs)/[\w/.-]*)(?::(\w+))?`")
_VARIABLE = re.compile(r"`(HEADRACE_[A-Z_]+)`")
_COMMAND = re.compile(
    r"^(?:headrace [a-z]+|producer_from_cli|consumer_from_cli)\b.*?(?<!\\)$", re.MULTILINE | re.DOTALL
)
_OTHER_VARIABLES = {"HEADRACE_DEBUG"}


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_links_lead_somewhere(document: Path) -> None:
    """Each relative link of a document leads to a file or folder."""
    for target in _LINK.findall(document.read_text()):
        assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_places_in_the_code_exist(document: Path) -> None:
    """Each file that a document names exists, and defines the function or class that is named with it."""
    for path, symbol in _PLACE.findall(document.read_text()):
        assert (ROOT / path).exists(), path
        if symbol:
            assert re.search(rf"^ *(?:async def|def|class) {symbol}\b", (ROOT / path).read_text(), re.MULTILINE), symbol


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_settings_exist(document: Path) -> None:
    """Each environment variable that a document names is a setting."""
    known = {f"HEADRACE_{name.upper()}" for name in ConsumerSettings.model_fields}
    known |= {f"HEADRACE_PRODUCER_{name.upper()}" for name in ProducerSettings.model_fields}
    for variable in _VARIABLE.findall(document.read_text()):
        assert variable in known | _OTHER_VARIABLES


def test_commands_of_the_readme_exist() -> None:
    """Each command line of the README is a command of the reference, with options that its help lists."""
    reference = (ROOT / "docs" / "reference" / "cli.md").read_text()
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL))
    found = [line.replace("\\\n", " ") for line in _COMMAND.findall(blocks)]
    assert len(found) >= 7
    for line in found:
        command = re.match(r"headrace [a-z]+|\w+_from_cli", line)
        assert command is not None
        section = reference.partition(f"\n## {command[0]}\n")[2].partition("\n## ")[0]
        assert section, command[0]
        for option in re.findall(r"(?<!\S)--[a-z_]+", line):
            assert option.replace("_", "-") in section, line


def test_make_verbs_of_the_contributing_guide_exist() -> None:
    """Each make verb that is explained exists, and each that exists is explained."""
    verbs = set(re.findall(r"^([a-z]+):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE)) - {"help"}
    assert set(re.findall(r"^\| `make ([a-z]+)` \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)) == verbs
