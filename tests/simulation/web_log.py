"""What the web servers of a simulated world write: lines of session events into logs that rotate."""

from __future__ import annotations

import random
from collections.abc import Container, Sequence
from typing import Final

import orjson

from tests.support.fake_files import FakeFiles

DEAD_LETTERS: Final = "/var/lib/headrace/dead-letters.ndjson"
BOOKMARKS: Final = "/var/lib/headrace/bookmarks"
COUNTRIES: Final = ("USA", "USA", "France", "Japan", None)


class WebLog:
    """One log and what was written into it; every good line has a number of its own in the field `n`."""

    def __init__(self, disk: FakeFiles, path: str, chance: random.Random, sessions: Sequence[str]) -> None:
        self.disk = disk
        self.path = path
        self.written: list[tuple[int, str]] = []  # number and session, in the order of writing
        self.numbers: set[int] = set()
        self.bad_lines: list[bytes] = []
        self._chance = chance
        self._sessions = sessions
        self._country = {each: chance.choice(COUNTRIES) for each in sessions}
        self._is_dated = chance.random() < 0.5
        self._is_cut = chance.random() < 0.3  # rotated by `copytruncate` rather than by renaming
        self._rotations = 0
        self._rest = b""
        self._writes_to = path
        self._parts: dict[str, list[int]] = {path: []}  # file -> numbers of its lines

    def create(self) -> None:
        """Make the empty file."""
        self.disk.write_log(self.path, b"")
        self._parts[self.path] = []

    def write(self, number: int) -> None:
        """Write one event as a line, sometimes with a bad or a blank line before it, sometimes a long one."""
        chance = self._chance
        session = chance.choice(self._sessions)
        event = {
            "session_id": session,
            "country": self._country[session],
            "n": number,
            "browse_history": [
                {"product_code": f"S{number % 7}", "quantity": chance.choice([1, 2, "3"]), "in_shopping_cart": True}
            ],
        }
        lines = b""
        if chance.random() < 0.03:
            self.bad_lines.append(b'{"session_id": broken-%d' % number)
            lines += self.bad_lines[-1] + b"\n"
        if chance.random() < 0.02:
            lines += b"\n"
        if chance.random() < 0.1:
            event["padding"] = "x" * chance.randint(1, 3_000)
        lines += orjson.dumps(event) + b"\n"
        self.written.append((number, session))
        self.numbers.add(number)
        self._parts[self._writes_to].append(number)
        self.finish_line()
        cut = chance.randint(1, len(lines) - 1) if chance.random() < 0.2 else len(lines)
        self.disk.write_log(self._writes_to, lines[:cut])
        self._rest = lines[cut:]

    def finish_line(self) -> None:
        """Write the rest of a line of which only a part was written so far."""
        rest, self._rest = self._rest, b""
        if rest:
            self.disk.write_log(self._writes_to, rest)

    def rotate(self) -> bool:
        """Rename the log as logrotate does, numbered or dated; the web server goes on writing into the renamed file.

        False if it has not reopened its log since the last time.
        """
        if self._is_cut or self._writes_to != self.path:
            return False
        self.finish_line()
        self._rotations += 1
        if self._is_dated:
            target = f"{self.path}-202611{self._rotations:02d}"
        else:
            for number in range(self._rotations - 1, 0, -1):
                if f"{self.path}.{number}" in self._parts:
                    self._rename(f"{self.path}.{number}", f"{self.path}.{number + 1}")
            target = f"{self.path}.1"
        self._rename(self.path, target)
        self._writes_to = target
        return True

    @property
    def size(self) -> int:
        """How many bytes the file of that name has now."""
        return len(self.disk.content(self.path) or b"")

    def cut(self, arrived: Container[int]) -> bool:
        """Cut the log to nothing as `copytruncate` does, if nothing can get lost by it; return whether it was."""
        numbers = self._parts[self.path] if self._is_cut else []
        if self._rest or not numbers or not all(each in arrived for each in numbers):
            return False
        self.disk.truncate(self.path)
        numbers.clear()
        return True

    def _rename(self, path: str, target: str) -> None:
        self.disk.rename(path, target)
        self._parts[target] = self._parts.pop(path)

    def reopen(self) -> None:
        """Begin the new file, as the web server does on its signal."""
        if self._writes_to != self.path:
            self.finish_line()
            self._writes_to = self.path
            self.create()

    def remove_read(self, arrived: Container[int], held: Container[int]) -> int:
        """Delete the rotated files whose every line has arrived, as logrotate does by age; return how many.

        `held` are the inodes that the producer's bookmark still names: with those, retention was too short.
        """
        done = [
            path
            for path, numbers in self._parts.items()
            if path not in {self.path, self._writes_to}
            and self.disk.inode(path) not in held
            and all(each in arrived for each in numbers)
        ]
        for path in done:
            self.disk.remove(path)
            del self._parts[path]
        return len(done)
