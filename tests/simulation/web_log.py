"""What the web servers of a simulated world write: lines of session events into logs that rotate."""

from __future__ import annotations

import base64
import random
import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from producer.core.line_format import LineFormat
from tests.support.fake_files import FakeFiles

DEAD_LETTERS: Final = "/var/lib/headrace/dead-letters.ndjson"
BOOKMARKS: Final = "/var/lib/headrace/bookmarks"
_VISITS_BEGIN: Final = 1_700_000_000
_BURST_MIN: Final = 1_000_000  # numbers from here on are those of bursts
COUNTRIES: Final = ("USA", "USA", "France", "Japan", None)


def number_of(event: Mapping[str, Any]) -> int | None:
    """Return the number of the line that an event, enriched or not, was made of; None for events of others."""
    if "n" in event:
        return int(event["n"])
    code = event.get("product_code")
    return int(code[1:]) if isinstance(code, str) and code.startswith("n") else None


@dataclass(slots=True)
class _Part:
    """One file of a log: the numbers of its good lines, and its bad lines."""

    numbers: list[int] = field(default_factory=list)
    bad_lines: list[bytes] = field(default_factory=list)
    is_given_up: bool = False


class WebLog:
    """One log and what was written into it; every good line has a number of its own in the field `n`.

    `lost` are the numbers that need not arrive, because of what was done to the files before they were read: cut,
    deleted, or renamed while no bookmark led to them. Nobody promises more (`copytruncate` and early deletion lose
    lines with any reader); the world knows them from its own deeds and from the bookmark, never from the outcome.
    """

    def __init__(
        self,
        disk: FakeFiles,
        path: str,
        chance: random.Random,
        sessions: Sequence[str],
        line_format: LineFormat = LineFormat.JSON,
    ) -> None:
        self.disk = disk
        self.line_format = line_format
        self.path = path
        self.written: list[tuple[int, str]] = []  # number and session, in the order of writing
        self.numbers: set[int] = set()
        self.lost: set[int] = set()
        self.adrift: set[int] = set()  # of files that were cut or deleted too early: may come late, or as another event
        self._chance = chance
        self._sessions = sessions
        self._country = {each: chance.choice(COUNTRIES) for each in sessions}
        self._is_dated = chance.random() < 0.5
        self._is_adrift = True  # the bookmark does not lead to the present file
        self._stale_marks: set[tuple[Any, ...]] = set()
        self._rotations = 0
        self._rest = b""
        self._writes_to = path
        self._parts = {path: _Part()}

    @property
    def bad_lines(self) -> list[bytes]:
        """The bad lines that have to be in the dead letters."""
        return [line for part in self._parts.values() if not part.is_given_up for line in part.bad_lines]

    @property
    def may_lose_lines(self) -> bool:
        """Whether a line stands for the same event without the lines before it.

        A visit belongs to a session that they began: read again without them, it would be another event.
        """
        return self.line_format is LineFormat.JSON

    def create(self) -> None:
        """Make the empty file."""
        self.disk.write_log(self.path, b"")
        self._parts[self.path] = _Part()
        self._stale_marks = self._marks()  # one of them may name this inode, of a file that had it before

    def write(self, number: int) -> None:
        """Write one event as a line, sometimes with a bad or a blank line before it, sometimes a long one."""
        chance = self._chance
        session = chance.choice(self._sessions)
        part = self._parts[self._writes_to]
        lines = b""
        if chance.random() < 0.03:
            part.bad_lines.append(b'{"session_id": broken-%d' % number)
            lines += part.bad_lines[-1] + b"\n"
        if chance.random() < 0.02:
            lines += b"\n"
        padding = "x" * chance.randint(1, 3_000) if chance.random() < 0.1 else ""
        is_json = self.line_format is LineFormat.JSON
        lines += (self._event if is_json else self._visit)(number, session, padding) + b"\n"
        self.written.append((number, session))
        self.numbers.add(number)
        part.numbers.append(number)
        if part.is_given_up:
            self.lost.add(number)
            self.adrift.add(number)
        self.finish_line()
        cut = chance.randint(1, len(lines) - 1) if chance.random() < 0.2 else len(lines)
        self.disk.write_log(self._writes_to, lines[:cut])
        self._rest = lines[cut:]

    def _event(self, number: int, session: str, padding: str) -> bytes:
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
        return orjson.dumps(event | {"padding": padding} if padding else event)

    def _visit(self, number: int, session: str, padding: str) -> bytes:
        """Return a line in Combined Log Format, sometimes with one before it that is no event."""
        moment = time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(_VISITS_BEGIN + number % _BURST_MIN))
        address = f"192.0.2.{self._sessions.index(session)}"
        agent = "Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101 Firefox/128.0"
        line = f'{address} - - [{moment}] "GET /products/n{number}?q={padding} HTTP/1.1" 200 17 "-" "{agent}"'
        if self._chance.random() < 0.1:
            line = f'{address} - - [{moment}] "GET /static/site.css HTTP/1.1" 200 17 "-" "{agent}"\n{line}'
        return line.encode()

    def finish_line(self) -> None:
        """Write the rest of a line of which only a part was written so far."""
        rest, self._rest = self._rest, b""
        if rest:
            self.disk.write_log(self._writes_to, rest)

    @property
    def size(self) -> int:
        """How many bytes the file of that name has now."""
        return len(self.disk.content(self.path) or b"")

    def rotate(self, arrived: Container[int]) -> bool:
        """Rename the log as logrotate does, numbered or dated; the web server goes on writing into the renamed file.

        False if it has not reopened its log since the last time.
        """
        if self._writes_to != self.path:
            return False
        self.finish_line()
        marks = self._marks() - self._stale_marks
        self._is_adrift = self._is_adrift and self.disk.inode(self.path) not in {mark[2] for mark in marks}
        if self._is_adrift:
            self._give_up(self.path, arrived)
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

    def _rename(self, path: str, target: str) -> None:
        self.disk.rename(path, target)
        self._parts[target] = self._parts.pop(path)

    def reopen(self) -> None:
        """Begin the new file, as the web server does on its signal."""
        if self._writes_to != self.path:
            self.finish_line()
            self._writes_to = self.path
            self.create()

    def cut(self, arrived: Container[int]) -> bool:
        """Cut the log to nothing as `copytruncate` does; False if there is nothing to cut."""
        if self._writes_to != self.path or not self.size:
            return False
        self.finish_line()
        self._give_up(self.path, arrived)
        self._parts[self.path] = _Part()
        self.disk.truncate(self.path)
        return True

    def remove_read(self, arrived: Container[int]) -> int:
        """Delete the rotated files whose every line has arrived, as logrotate does by age; return how many."""
        marked = self._marked()
        done = [
            path
            for path in self._rotated()
            if self.disk.inode(path) not in marked and self._is_read(self._parts[path], arrived)
        ]
        for path in done:
            self.disk.remove(path)
            del self._parts[path]
        return len(done)

    def remove_oldest(self, arrived: Container[int]) -> int:
        """Delete the oldest rotated file, read or not; return how many were deleted.

        A reader that has lost its place among the rotated files may go on with the present one.
        """
        rotated = self._rotated()
        if not rotated:
            return 0
        oldest = max(rotated, key=lambda path: int(path.rpartition(".")[2])) if not self._is_dated else min(rotated)
        if self.disk.inode(oldest) in self._marked() or not self._is_read(self._parts[oldest], arrived):
            for path in self._parts:
                if path != self.path:  # also the one that the web server still writes to
                    self._give_up(path, arrived)
            self._is_adrift = True
        self.disk.remove(oldest)
        del self._parts[oldest]
        return 1

    def _rotated(self) -> list[str]:
        return [path for path in self._parts if path not in {self.path, self._writes_to}]

    def _is_read(self, part: _Part, arrived: Container[int]) -> bool:
        """Whether nothing of a file is left to read: an empty one may go before its reader has come to it."""
        return all(each in arrived for each in part.numbers) and not missing_lines(self.disk, part.bad_lines)

    def _give_up(self, path: str, arrived: Container[int]) -> None:
        part = self._parts[path]
        part.is_given_up = True
        self.adrift.update(part.numbers)
        self.lost.update(each for each in part.numbers if each not in arrived)

    def _marked(self) -> set[int]:
        """Return the inodes that the producer's bookmark names."""
        return {mark[2] for mark in self._marks()}

    def _marks(self) -> set[tuple[Any, ...]]:
        bookmarks = [orjson.loads(self.disk.content(each) or b"{}") for each in self.disk.paths(BOOKMARKS)]
        return {tuple(mark) for each in bookmarks for mark in each["files"]}


def missing_lines(disk: FakeFiles, lines: Sequence[bytes]) -> list[bytes]:
    """Return those of the bad lines that are not in the producer's dead letters as whole, readable lines."""
    if not lines:
        return []
    kept: set[bytes] = set()
    for line in (disk.content(DEAD_LETTERS) or b"").splitlines():
        try:
            kept.add(base64.b64decode(orjson.loads(line)["raw_data"]))
        except (ValueError, KeyError, TypeError):
            continue  # a torn append
    return [line for line in lines if line not in kept]
