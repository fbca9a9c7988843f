"""The generated reference says what the code says, and all of it."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest
import typer

from consumer.status import SHARD_TRANSITIONS
from infra import reference
from shared import errors
from shared.errors import ConfigurationError
from shared.settings import ConsumerSettings, ProducerSettings


def _commands() -> list[Any]:
    found: list[Any] = []
    for name, module in reference._APPS:
        found += _leaves(name, typer.main.get_command(importlib.import_module(module).app))
    return found


def _leaves(path: str, command: Any) -> list[Any]:
    children = getattr(command, "commands", {})
    if not children:
        return [(path, command)]
    return [leaf for name, child in children.items() for leaf in _leaves(f"{path} {name}", child)]


def test_pages_are_what_the_code_says() -> None:
    """The committed pages equal what the generator writes now; `make docs` brings them up to date."""
    assert reference.stale_pages() == []


def test_a_changed_page_is_stale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The check names a page that is missing or differs, and only that one."""
    for name, write in reference.PAGES.items():
        (tmp_path / name).write_text(write())
    assert reference.stale_pages(tmp_path) == []
    (tmp_path / "errors.md").write_text(reference.write_errors().replace("yes", "no"))
    (tmp_path / "cli.md").unlink()
    assert reference.stale_pages(tmp_path) == [tmp_path / "cli.md", tmp_path / "errors.md"]


def test_the_diagram_of_states_is_what_the_code_says(tmp_path: Path) -> None:
    """The page about leases draws each transition of the code, and one that is changed by hand is stale."""
    page = reference.LEASES.read_text()
    assert not reference.is_diagram_stale()
    assert all(f"{old.value} --> {new.value}: " in page for old, new in SHARD_TRANSITIONS)
    (tmp_path / "leases.md").write_text(page.replace("replaying --> reading", "replaying --> paused"))
    assert reference.is_diagram_stale(tmp_path / "leases.md")
    with pytest.raises(ConfigurationError, match="no place"):
        reference.write_states("# Leases")


def test_check_fails_with_the_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--check` exits 1 and names each stale page and the command that writes it; anything else is a usage error."""
    monkeypatch.setattr(reference, "stale_pages", lambda: [tmp_path / "cli.md"])
    assert reference.main(["--check"]) == 1
    assert capsys.readouterr().err == f"error: `{tmp_path}/cli.md` is not what the code says\n\nhint: make docs\n"
    assert reference.main(["--chekc"]) == 2
    assert capsys.readouterr().out == ""


def test_help_does_not_depend_on_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same page is written on any terminal and under any settings of the environment."""
    page = reference.write_commands()
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("HEADRACE_APP", "other")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert reference.write_commands() == page
    assert "\x1b" not in page


def test_every_setting_is_listed_with_its_meaning() -> None:
    """Each field of both settings has its environment variable on the page, and a description."""
    page = reference.write_settings()
    for prefix, kind in (("HEADRACE_PRODUCER_", ProducerSettings), ("HEADRACE_", ConsumerSettings)):
        for name, field in kind.model_fields.items():
            assert f"| `{prefix}{name.upper()}` |" in page
            assert field.description, name


def test_every_error_is_listed() -> None:
    """Each class of the error tree is on the page, once."""
    page = reference.write_errors()
    for name, kind in inspect.getmembers(errors, inspect.isclass):
        if issubclass(kind, errors.HeadraceError):
            assert page.count(f"| `{name}` | `{kind.__bases__[0].__name__}` |") == 1, name


def test_every_command_explains_itself() -> None:
    """Each command's help ends with an example, and each of its options says what it does."""
    for path, command in _commands():
        assert "Example: " in (command.help or ""), path
        for parameter in command.params:
            if parameter.name != "help":
                assert parameter.help, f"{path} {parameter.name}"
