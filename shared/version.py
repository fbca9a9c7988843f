"""Which headrace this is: what to name in a report, and whether it has its compiled part."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Final

from shared.compiled import COLUMNS
from shared.terminal import write_data

_NAME: Final = "headrace"


def version_text() -> str:
    """Return one line, e.g. `headrace 0.1.0 (compiled), Python 3.11.7`."""
    part = "compiled" if COLUMNS is not None else "not compiled"
    return f"{_NAME} {metadata.version(_NAME)} ({part}), {platform.python_implementation()} {platform.python_version()}"


def show_version(*, is_wanted: bool) -> bool:
    """Write the line to stdout, if it is wanted; return whether it was. Raises OutputError."""
    if is_wanted:
        write_data(version_text())
    return is_wanted
