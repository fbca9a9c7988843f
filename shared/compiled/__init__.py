"""The compiled part of headrace, if there is one: what is done per record, with the results of Python's in less time.

It is there where a C compiler was when headrace was installed (`hatch_build.py`); `HEADRACE_COMPILED=off` goes without
it. Whatever has a faster way through it keeps its way in Python, and tests hold both against each other.
"""

from __future__ import annotations

import importlib
import os
import warnings
from pathlib import Path
from typing import Final, cast

from shared.compiled.columns import Columns
from shared.compiled.sources import sources_digest

OFF: Final = "off"


def _load() -> Columns | None:
    if os.environ.get("HEADRACE_COMPILED", "").lower() == OFF:
        return None
    try:
        columns = cast("Columns", importlib.import_module("shared.compiled._columns"))
    except ImportError:
        return None
    if sources_digest(Path(__file__).parent) != columns.SOURCES:  # in a checkout that was moved on
        message = "headrace goes without its compiled part, which was made of other sources; `make setup` makes it anew"
        warnings.warn(message, RuntimeWarning, stacklevel=2)
        return None
    return columns


COLUMNS: Final = _load()
