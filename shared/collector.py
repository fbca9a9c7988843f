"""The interpreter's garbage collector in a process that makes millions of small objects, none of them in a cycle."""

from __future__ import annotations

import gc
from typing import Final

# By default a pass is due every 700 new objects, which a page of records makes by the ten thousand, and a full pass
# walks every module that was imported.
_NEW_OBJECTS_MAX: Final = 50_000
_YOUNG_PASSES: Final = 20
_MIDDLE_PASSES: Final = 100


def tune_collector() -> None:
    """Look at new objects seldom, and never again at those that are there: call it once the process is set up."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS_MAX, _YOUNG_PASSES, _MIDDLE_PASSES)
