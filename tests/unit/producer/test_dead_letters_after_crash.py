"""The producer's dead letters stay readable line by line, whatever an earlier process left at the end of the file."""

from __future__ import annotations

import orjson

from producer.dead_letters import DeadLetters
from shared.clock import SystemClock
from tests.support.fake_files import FakeFiles


async def test_a_torn_line_of_an_earlier_process_does_not_swallow_the_next_one() -> None:
    """Found by the simulation: a torn append, a restart, and the first dead letter was glued to the torn one."""
    disk = FakeFiles()
    torn = b'{"file": "/var/log/web.log", "off'
    await disk.append("state/dead-letters.ndjson", torn, durable=True)
    letters = DeadLetters(disk, SystemClock(), "state", "/var/log/web.log")
    letters.add(7, "malformed-event", "not JSON", b"broken")
    await letters.flush()
    first, second = (disk.content("state/dead-letters.ndjson") or b"").splitlines()
    assert first == torn
    assert orjson.loads(second)["offset"] == 7


async def test_whole_lines_are_continued_without_a_gap() -> None:
    """A file that ends as it should gets no empty line."""
    disk = FakeFiles()
    for offset in (1, 2):
        letters = DeadLetters(disk, SystemClock(), "state", "web.log")
        letters.add(offset, "malformed-event", "not JSON", b"broken")
        await letters.flush()
    lines = (disk.content("state/dead-letters.ndjson") or b"").split(b"\n")
    assert [orjson.loads(line)["offset"] for line in lines if line] == [1, 2]
    assert len(lines) == 3
