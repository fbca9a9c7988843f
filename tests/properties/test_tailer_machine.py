"""A log that grows, rotates, is cut and removed while its reader dies and comes back: every line once, in order."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from producer.bookmark import Bookmark, BookmarkStore
from producer.source import Chunk
from producer.tailer import Tailer
from shared.telemetry import SilentTelemetry
from tests.simulation.loop import Process, SimulationLoop
from tests.support.fake_files import FakeFiles
from tests.support.network import PerfectNetwork

LOG = "/logs/access.log"
ROTATE_WAIT_SECONDS = 5.0
LINES_MAX = 300


class LoopClock:
    """The loop's virtual time."""

    def __init__(self, loop: SimulationLoop) -> None:
        self._loop = loop

    def monotonic(self) -> float:
        """Return virtual seconds."""
        return self._loop.time()

    def wall(self) -> float:
        """Return the same."""
        return self._loop.time()


class FailingDisk(PerfectNetwork):
    """Reads return an arbitrary part, a power cut keeps an arbitrary part, and the next calls may fail."""

    def __init__(self) -> None:
        super().__init__(wall=0.0)
        self.chance = random.Random(0)
        self.strikes: dict[str, int] = {}

    def page_length(self, operation: str, length: int) -> int:
        """Return all, or less."""
        return length if self.chance.random() < 0.5 else self.chance.randint(0, length)

    def part(self, whole: int) -> int:
        """Return any part."""
        return self.chance.randint(0, whole)

    def happens(self, kind: str) -> bool:
        """Fail as often as was asked for."""
        if self.strikes.get(kind, 0):
            self.strikes[kind] -= 1
            return True
        return False


@dataclass
class Content:
    """What one file held from its making (or its last cut) on; `ended` once it was cut and its bytes are gone."""

    inode: Any
    ended: bytes | None = None
    is_removed: bool = False

    def lines(self, *, is_last: bool) -> list[bytes]:
        """Return its lines; the rest after the last newline is one too, once another file has come."""
        data = bytes(self.inode.data) if self.ended is None else self.ended
        *whole, rest = data.split(b"\n")
        return [*whole, rest] if rest and not is_last else whole


class Life:
    """One start of the reader; `places` are the ends of the chunks it gave, up to which a bookmark may move."""

    def __init__(self, tailer: Tailer) -> None:
        self.process = Process("reader")
        self.tailer = tailer
        self.chunks: AsyncGenerator[Chunk, None] = tailer.chunks()
        self.places: list[tuple[int, int]] = []


class TailerMachine(RuleBasedStateMachine):
    """The web server, logrotate, the disk, and the reader with its bookmark."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = SimulationLoop()
        self.network = FailingDisk()
        self.disk = FakeFiles(self.network)
        self.store = BookmarkStore(self.disk, "/state/bookmark.json")
        self.contents: list[Content] = []
        self.rotated: list[Content] = []  # newest first, as `.1`, `.2`, ...
        self.count = 0
        self.life: Life | None = None
        self.dead: list[Life] = []  # kept: collecting a generator would run its clean-up, a crash does not
        self.lines: list[tuple[str, int, bytes]] = []  # (source id, offset, line) as first seen
        self.known: dict[tuple[str, int], bytes] = {}
        self.rotations = 0
        self.is_dated = False

    @initialize(seed=st.integers(0, 2**32), is_dated=st.booleans())
    def start(self, seed: int, is_dated: bool) -> None:
        """Begin with a log and a reader."""
        self.network.chance = random.Random(seed)
        self.is_dated = is_dated
        self.append(2, 0)
        self.boot()
        self.read(1)  # a reader that never ran knows nothing of files that were renamed before

    # The web server and logrotate.

    def _text(self, width: int) -> bytes:
        self.count += 1
        return b"%06d%s" % (self.count, b"." * width)

    @property
    def has_log(self) -> bool:
        """Whether the name is taken."""
        return self.disk.content(LOG) is not None

    @precondition(lambda self: self.count < LINES_MAX)
    @rule(count=st.integers(0, 4), part=st.integers(0, 12), width=st.sampled_from([0, 5, 150]))
    def append(self, count: int, part: int, width: int = 0) -> None:
        """Write some lines, and perhaps the beginning of another; makes the file if it was moved away."""
        if self.count >= LINES_MAX:
            return
        if not self.has_log:
            self.disk.write_log(LOG, b"")
            self.contents.append(Content(self.disk._names[LOG]))
        data = b"".join(self._text(width) + b"\n" for _ in range(count))
        self.disk.write_log(LOG, data + (self._text(10)[:part] if part else b""))

    def _name(self, index: int) -> str:
        if self.is_dated:
            return f"{LOG}-20261101{self.rotations - index:06d}"
        return f"{LOG}.{index + 1}"

    @precondition(lambda self: self.has_log and len(self.rotated) < 5)
    @rule(late=st.integers(0, 2), is_made=st.booleans())
    def rotate(self, late: int, is_made: bool) -> None:
        """Rename the log; its writer may still write some lines to it, and makes the new one at once or later."""
        if not self.has_log or len(self.rotated) >= 5:
            return
        is_unnoticed = self._is_cut_unnoticed()
        if is_unnoticed and self.life is None:
            return  # known limit: nothing tells a later start that this file came after the bookmark's
        if not self.is_dated:
            for index in reversed(range(len(self.rotated))):
                self.disk.rename(self._name(index), self._name(index + 1))
        self.rotations += 1
        self.disk.rename(LOG, self._name(0))
        self.rotated.insert(0, self.contents[-1])
        if late:
            self.disk.write_log(self._name(0), b"".join(self._text(0) + b"\n" for _ in range(late)))
        if is_made:
            self.append(0, 0)
        if is_unnoticed:
            self.network.strikes.clear()
            self.read(2)

    def _is_cut_unnoticed(self) -> bool:
        if len(self.contents) < 2 or self.contents[-2].inode is not self.contents[-1].inode:
            return False
        return len(self.lines) <= sum(len(each.lines(is_last=False)) for each in self.contents[:-1])

    @precondition(lambda self: self.rotated)
    @rule()
    def remove(self) -> None:
        """Remove the oldest file, if a later one is being read already; its inode is free for the next file."""
        if not self.rotated:
            return
        oldest = self.rotated[-1]
        index = self.contents.index(oldest)
        done = sum(len(each.lines(is_last=False)) for each in self.contents[: index + 1])
        if len(self.lines) > done:
            oldest.ended = bytes(oldest.inode.data)
            self.disk.remove(self._name(len(self.rotated) - 1))
            self.rotated.pop()

    @precondition(lambda self: self.has_log)
    @rule(count=st.integers(0, 3), width=st.sampled_from([0, 5, 150]))
    def cut(self, count: int, width: int) -> None:
        """Cut the log, if all of it was read and the reader knows (what is not, is lost), and write on."""
        current = self.contents[-1]
        if (
            current.inode.data[-1:] not in (b"", b"\n")
            or not current.inode.data
            or len(self.lines) < len(self.expected)
        ):
            return
        if self.life is not None:
            self.read(2)
            if self.life.tailer._file is None:
                return
        current.ended = bytes(current.inode.data)
        self.disk.truncate(LOG)
        self.contents.append(Content(current.inode))
        if count:
            self.append(count, 0, width)

    # The reader.

    async def _boot(self) -> Life:
        bookmark = await self.store.load() or Bookmark("src")
        return Life(
            Tailer(
                LOG,
                files=self.disk,
                clock=LoopClock(self.loop),
                telemetry=SilentTelemetry(),
                store=self.store,
                bookmark=bookmark,
                line_bytes_max=1000,
                rotate_wait_seconds=ROTATE_WAIT_SECONDS,
            )
        )

    @precondition(lambda self: self.life is None)
    @rule()
    def boot(self) -> None:
        """Start a reader from the bookmark."""
        self.network.strikes.clear()
        self.life = self.loop.run(self._boot())

    async def _read(self, life: Life) -> None:
        chunk = await anext(life.chunks)
        if life.process.alive:
            life.places.append((chunk.generation, chunk.end))
            self._take(chunk)

    @precondition(lambda self: self.life is not None)
    @rule(count=st.integers(1, 4))
    def read(self, count: int) -> None:
        """Take some chunks."""
        for _ in range(count):
            if self.life is not None:
                life = self.life
                task = self.loop.spawn(life.process, lambda life=life: self._read(life))
                self.loop.run(asyncio.wait_for(task, 60.0))

    def _take(self, chunk: Chunk) -> None:
        assert not chunk.overlong
        for offset, line in chunk.lines:
            event_id = (chunk.source_id, offset)
            if event_id in self.known:
                assert self.known[event_id] == line, "two lines have one id"
                continue
            self.known[event_id] = line
            self.lines.append((*event_id, line))
            number = len(self.lines)
            assert [each for _, _, each in self.lines[number - 1 :]] == self.expected[number - 1 : number]

    @precondition(lambda self: self.life is not None and self.life.places)
    @rule(back=st.integers(0, 3))
    def move_bookmark(self, back: int) -> None:
        """Move the bookmark to the end of a chunk, all of it acknowledged."""
        life = self.life
        if life is not None and life.places:
            index = max(0, len(life.places) - 1 - back)
            place = life.places[index]
            del life.places[: index + 1]
            self.loop.run(life.tailer.move_bookmark(*place, b""))

    @precondition(lambda self: self.life is not None)
    @rule(steps=st.integers(0, 25))
    def kill(self, steps: int) -> None:
        """Kill the reader in the middle of a read, at any await."""
        if (life := self.life) is not None:
            life.process.kill_at_step = life.process.steps + steps + 1
            self.loop.spawn(life.process, lambda: self._read(life))
            self.loop.run(asyncio.sleep(1.0))
            self._bury()

    def _bury(self) -> None:
        if self.life is not None:
            self.loop.kill(self.life.process)
            self.dead.append(self.life)
            self.life = None
        for inode in self.disk._inodes.values():
            inode.handles = 0  # the system closes the files of the dead

    @precondition(lambda self: self.has_log and self.count < LINES_MAX)
    @rule(count=st.integers(1, 3))
    def lose_power(self, count: int) -> None:
        """Lines are written and not yet on the platter, nor read, when the power goes: a part of them survives."""
        if not self.has_log:
            return
        self._bury()
        self.disk.write_log(LOG, b"".join(self._text(0) + b"\n" for _ in range(count)), synced=False)
        self.disk.lose_power()

    @rule(kind=st.sampled_from(["read_failed", "disk_full"]), times=st.integers(1, 2))
    def break_disk(self, kind: str, times: int) -> None:
        """Let the next reads, or writes of the bookmark, fail."""
        if self.life is not None:
            self.network.strikes[kind] = times

    # What must hold.

    @property
    def expected(self) -> list[bytes]:
        """All lines that are whole by now, in order."""
        last = len(self.contents) - 1
        return [line for index, each in enumerate(self.contents) for line in each.lines(is_last=index == last)]

    def teardown(self) -> None:
        """A reader that starts again delivers all the rest, in order, and what it resends has the id it had."""
        try:
            if self.contents:
                self._finish()
        finally:
            self.loop.close()

    def _finish(self) -> None:
        if not self.has_log:
            self.append(0, 0)
        self._bury()
        self.boot()
        for _ in range(400):
            if len(self.lines) >= len(self.expected):
                break
            self.read(1)
        self.read(3)
        assert [line for _, _, line in self.lines] == self.expected
        places: dict[str, int] = {}
        for source_id, offset, _ in self.lines:
            assert offset > places.get(source_id, -1), "offsets of a source go back"
            places[source_id] = offset
        assert self.loop.failures == []


def walk(seed: int) -> None:
    """Take a long random walk through the machine's rules, in a mix of its own per seed."""
    chance = random.Random(seed)
    machine = TailerMachine()
    machine.start(seed, chance.random() < 0.3)
    rules: dict[Callable[[], None], float] = {
        lambda: machine.append(chance.randint(0, 4), chance.choice((0, 0, 5)), chance.choice((0, 5, 150))): 0.3,
        lambda: machine.rotate(chance.randint(0, 2), chance.random() < 0.7): chance.choice((0.02, 0.15)),
        machine.remove: 0.05,
        lambda: machine.cut(chance.randint(0, 3), chance.choice((0, 5, 150))): chance.choice((0.0, 0.1)),
        lambda: machine.read(chance.randint(1, 4)): 0.4,
        lambda: machine.move_bookmark(chance.randint(0, 3)): 0.15,
        lambda: machine.kill(chance.randint(0, 25)): chance.choice((0.02, 0.1)),
        lambda: machine.lose_power(chance.randint(1, 3)): chance.choice((0.0, 0.03)),
        lambda: machine.break_disk(chance.choice(("read_failed", "disk_full")), 1): 0.03,
    }
    for _ in range(60):
        if machine.life is None and chance.random() < 0.4:
            machine.boot()
        chosen = chance.choices([*rules], [*rules.values()])[0]
        chosen()
    machine.teardown()


def test_long_walks_deliver_every_line() -> None:
    """In many seeded walks of 60 steps each line is delivered, in order, and resent lines have the same id."""
    for seed in range(80):
        try:
            walk(seed)
        except AssertionError as error:
            error.add_note(f"seed {seed}")
            raise


def test_a_read_error_at_a_restart_is_waited_out() -> None:
    """Where the bookmark's file is gone, a failing read of the next one does not end the reader."""
    machine = TailerMachine()
    machine.start(seed=0, is_dated=False)
    machine.read(4)
    machine.rotate(late=0, is_made=True)
    machine.append(1, 0)
    machine.read(2)
    machine.loop.run(asyncio.sleep(ROTATE_WAIT_SECONDS))
    machine.read(9)
    assert len(machine.lines) == 3
    machine.remove()
    machine._bury()
    machine.boot()
    machine.break_disk("read_failed", 1)
    machine.read(1)
    machine.teardown()


def test_a_log_that_grew_to_its_old_size_after_a_cut_is_read_again() -> None:
    """Size and place say nothing then; without a look at its first bytes its lines would wait, or be lost."""
    machine = TailerMachine()
    machine.start(seed=0, is_dated=False)
    machine.read(4)
    machine.cut(count=2, width=0)
    assert machine.disk.content(LOG) == b"000003\n000004\n"
    machine.rotate(late=0, is_made=True)
    machine.teardown()


TestTailer = TailerMachine.TestCase
TestTailer.settings = settings(max_examples=300, stateful_step_count=30, deadline=None)
