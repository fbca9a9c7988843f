"""The option `--version` of every command."""

from __future__ import annotations

# typer reads the annotations at run time; the version itself is looked up only when it is asked for.
from typing import Annotated

import typer


def _show_version(value: bool) -> None:
    from shared.version import show_version  # noqa: PLC0415

    if show_version(is_wanted=value):
        raise typer.Exit


VersionOption = Annotated[
    bool, typer.Option("--version", help="Print the version and end.", callback=_show_version, is_eager=True)
]
