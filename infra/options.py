"""Options that several sub-commands of `headrace` share; nothing heavy is imported, as `--help` has to be quick."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any

import typer


class Output(Enum):
    """What goes to stdout at the end."""

    TEXT = "text"
    JSON = "json"


def setting(flag: str, meaning: str, *, default: str = "", variable: str = "") -> Any:
    """Return the option of a consumer setting: its environment variable is the setting's, its default is shown only.

    The option's own default is None, so that the setting decides (see shared.settings).
    """
    name = variable or flag.removeprefix("--").replace("-", "_").upper()
    return typer.Option(flag, help=meaning, envvar=f"HEADRACE_{name}", show_default=default or False)


OutputOption = Annotated[Output, typer.Option("--output", help="`json` ends stdout with one JSON object.")]
AppOption = Annotated[str | None, setting("--app", "Application name: its lease table.", default="headrace")]
