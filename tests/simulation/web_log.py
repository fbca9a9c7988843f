"""What the web servers of a simulated world write: lines of session events into logs that rotate."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

import orjson

from tests.support.fake_files import FakeFiles

COUNTRIES: Final = ("USA", "USA", "France", "Japan", None)


class WebLog:
    """One log file and what was written into it; every good line has a number of its own in the field `n`."""

    def __init__(self, disk: FakeFiles, path: str, chance: random.Random, sessions: Sequence[str]) -> None:
        self.disk = disk
        self.path = path
        self.numbers: list[int] = []
        self.bad_lines = 0
        self.rotations = 0
        self._chance = chance
        self._sessions = sessions
        self._country = {each: chance.choice(COUNTRIES) for each in sessions}

    def create(self) -> None:
        """Make the empty file."""
        self.disk.write_log(self.path, b"")

    def write(self, number: int) -> None:
        """Write one event as a line, sometimes in two parts, sometimes with a bad line before it."""
        session = self._chance.choice(self._sessions)
        event = {
            "session_id": session,
            "country": self._country[session],
            "n": number,
            "browse_history": [
                {
                    "product_code": f"S{number % 7}",
                    "quantity": self._chance.choice([1, 2, "3"]),
                    "in_shopping_cart": True,
                }
            ],
        }
        if self._chance.random() < 0.03:
            self.bad_lines += 1
            self.disk.write_log(self.path, b'{"session_id": broken\n')
        if self._chance.random() < 0.1:
            event["padding"] = "x" * self._chance.randint(1, 3_000)
        self.numbers.append(number)
        self.disk.write_log(self.path, orjson.dumps(event) + b"\n")

    def rotate(self) -> None:
        """Rename the log and begin a new one under its name, as logrotate does without `copytruncate`."""
        self.rotations += 1
        self.disk.rename(self.path, f"{self.path}.{self.rotations}")
        self.disk.write_log(self.path, b"")
