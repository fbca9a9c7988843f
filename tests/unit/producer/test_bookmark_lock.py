"""One producer at a time goes by a bookmark: a second one would send everything under other ids, or move it back."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from producer.bookmark_lock import lock_bookmark
from shared.errors import ConfigurationError
from shared.telemetry import SilentTelemetry


class Ears(SilentTelemetry):
    """Keeps warnings."""

    def __init__(self) -> None:
        super().__init__()
        self.warnings: list[str] = []

    def warning(self, event: str, **fields: Any) -> None:
        """Keep the name."""
        self.warnings.append(event)


def test_a_bookmark_in_use_is_refused_until_it_is_given_up(tmp_path: Path) -> None:
    """A second producer is told what holds it up; once the first has ended, it is welcome. Other bookmarks are free."""
    ears = Ears()
    path = str(tmp_path / "bookmarks" / "a.json")
    with lock_bookmark(path, ears), lock_bookmark(f"{path}2", ears):
        with pytest.raises(ConfigurationError, match="in use by another producer") as caught, lock_bookmark(path, ears):
            pytest.fail("two producers have one bookmark")
        assert "--state-dir" in caught.value.hint
    with lock_bookmark(path, ears):
        pass
    assert ears.warnings == []


@pytest.mark.parametrize("broken", ["open", "flock"])
def test_where_nothing_can_be_locked_it_goes_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """A disk that is full or knows no locks keeps no log from being followed; it is said that nothing guards it."""

    def fail(*_: object) -> int:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(*((os, "open", fail) if broken == "open" else (fcntl, "flock", fail)))
    ears = Ears()
    with lock_bookmark(str(tmp_path / "a.json"), ears):
        pass
    assert ears.warnings == ["bookmark_not_locked"]
