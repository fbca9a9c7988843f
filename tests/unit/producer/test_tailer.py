"""Following a file: growth, rotation, truncation, reused inodes, restarts at any moment."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Self

import pytest

from producer.bookmark import Bookmark, BookmarkStore, FileMark
from producer.failure_log import FailureLog
from producer.source import Chunk
from producer.tailer import Tailer
from shared.disk import LocalFiles
from shared.errors import ConfigurationError, SourceError
from shared.ports import FileIdentity, ReadableFile
from shared.telemetry import SilentTelemetry
from tests.support.fake_files import FakeFile, FakeFiles


class StillClock:
    """A clock that moves only when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        """Return the seconds told."""
        return self.now

    def wall(self) -> float:
        """Return the same."""
        return self.now


class BrokenFile:
    """An open file of which nothing can be read."""

    def __init__(self, file: ReadableFile) -> None:
        self.identify = file.identify
        self.close = file.close

    async def read_at(self, _offset: int, _size: int) -> bytes:
        """Fail as a disk does."""
        raise OSError(errno.EIO, "input/output error")


class Follower:
    """A tailer whose waits take no time, and what it has read: (source id, offset, line)."""

    def __init__(self, folder: Path, bookmark: Bookmark | None = None) -> None:
        self.files = LocalFiles()
        self.store = BookmarkStore(self.files, str(folder / "state" / "bookmark.json"))
        self.clock = StillClock()
        self.telemetry = SilentTelemetry()
        self.lines: list[tuple[str, int, bytes]] = []
        self.last = Chunk("")
        self.path = folder / "access.log"
        self._bookmark = bookmark
        self._next: Callable[[], object] | None = None

    async def __aenter__(self) -> Self:
        bookmark = self._bookmark or await self.store.load() or Bookmark("abc")
        self.tailer = Tailer(
            str(self.path),
            files=self.files,
            clock=self.clock,
            telemetry=self.telemetry,
            store=self.store,
            bookmark=bookmark,
            line_bytes_max=1000,
            rotate_wait_seconds=5,
        )

        async def no_pause() -> bool:
            self.clock.now += 1
            await asyncio.sleep(0)
            return self.tailer._stopped.is_set()

        self.tailer._pause = no_pause  # type: ignore[method-assign]  # tests never sleep
        self._chunks = self.tailer.chunks()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._chunks.aclose()

    async def read(self, rounds: int = 3) -> list[bytes]:
        """Take some chunks; return the new lines."""
        found: list[bytes] = []
        for _ in range(rounds):
            self.last = await anext(self._chunks)
            self.lines += [(self.last.source_id, offset, line) for offset, line in self.last.lines]
            found += [line for _, line in self.last.lines]
        return found

    async def keep(self) -> None:
        """Store the present place as done."""
        assert await self.tailer.move_bookmark(self.last.generation, self.last.end, b"state")


def append(path: Path, data: bytes) -> None:
    """Write like a web server."""
    with path.open("ab") as file:
        file.write(data)


async def test_growth_is_read_and_an_unfinished_line_is_left(tmp_path: Path) -> None:
    """Lines come with their offsets as they are finished, also from a file that is not there at first."""
    async with Follower(tmp_path) as follower:
        assert await follower.read(2) == []
        append(follower.path, b"one\ntwo\nthr")
        assert await follower.read() == [b"one", b"two"]
        append(follower.path, b"ee\n")
        assert await follower.read() == [b"three"]
    assert follower.lines == [("abc-0", 0, b"one"), ("abc-0", 4, b"two"), ("abc-0", 8, b"three")]


async def test_a_renamed_file_is_read_to_its_end_first(tmp_path: Path) -> None:
    """What the server still writes into the renamed file is read, then its last line, then the new file."""
    async with Follower(tmp_path) as follower:
        append(follower.path, b"one\n")
        assert await follower.read() == [b"one"]
        follower.path.rename(tmp_path / "access.log.1")
        append(follower.path, b"new\n")
        append(tmp_path / "access.log.1", b"late\nno newline")
        assert await follower.read(12) == [b"late", b"no newline", b"new"]
    assert follower.lines[-1] == ("abc-1", 0, b"new")


async def test_a_reader_stopped_after_an_empty_read_does_not_take_it_for_the_end(tmp_path: Path) -> None:
    """What is written and renamed while the process stands still between a read and its answer is read."""
    append(tmp_path / "access.log", b"one\n")
    async with Follower(tmp_path) as follower:
        await follower.read()
        file = follower.tailer._opened

        async def read_and_stand_still(offset: int, size: int) -> bytes:
            data = await read_at(offset, size)
            if not data and follower.clock.now < 100:
                follower.clock.now += 100
                append(follower.path, b"two\n")
                follower.path.rename(tmp_path / "access.log.1")
                append(follower.path, b"three\n")
            return data

        read_at, file.read_at = file.read_at, read_and_stand_still  # type: ignore[method-assign]
        await follower.read(2)
        append(tmp_path / "access.log.1", b"late\n")  # by a writer that has not let go of it yet
        await follower.read(12)
        assert [line for _, _, line in follower.lines] == [b"one", b"two", b"late", b"three"]


async def test_several_rotations_at_once_lose_nothing(tmp_path: Path) -> None:
    """Files that came and went between two looks are read in their order."""
    async with Follower(tmp_path) as follower:
        append(follower.path, b"one\n")
        await follower.read()
        follower.path.rename(tmp_path / "access.log.2")
        append(tmp_path / "access.log.1", b"two\n")
        append(follower.path, b"three\n")
        assert await follower.read(20) == [b"two", b"three"]


async def test_files_deleted_during_a_backlog_are_still_read(tmp_path: Path) -> None:
    """Retention that deletes files while an older one is being read takes nothing that was there at a look."""
    log = tmp_path / "access.log"
    append(log, b"one\n")
    async with Follower(tmp_path) as follower:
        assert await follower.read(1) == [b"one"]
        log.rename(tmp_path / "access.log-20261101")
        append(log, b"two\n")
        log.rename(tmp_path / "access.log-20261102")
        append(log, b"three\n")
        append(tmp_path / "access.log-20261101", b"late\n")
        follower.clock.now += 1
        assert await follower.read(1) == [b"late"]
        (tmp_path / "access.log-20261101").unlink()
        (tmp_path / "access.log-20261102").unlink()
        assert await follower.read(18) == [b"two", b"three"]


async def test_a_file_cut_and_renamed_while_nobody_looked_is_read(tmp_path: Path) -> None:
    """What a cut file holds since then is read from its beginning, before the file that took its name."""
    log = tmp_path / "access.log"
    append(log, b"one of many\n")
    async with Follower(tmp_path) as follower:
        await follower.read(2)
        await follower.keep()
    os.truncate(log, 0)
    append(log, b"two\n")
    log.rename(tmp_path / "access.log.1")
    append(log, b"three\n")
    async with Follower(tmp_path) as follower:
        assert await follower.read(12) == [b"two", b"three"]


async def test_a_disk_that_fails_at_a_restart_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An input error while the file is recognised, and the file of the bookmark gone, ends no producer."""
    log = tmp_path / "access.log"
    append(log, b"one\n")
    async with Follower(tmp_path) as follower:
        await follower.read(2)
        await follower.keep()
    log.rename(tmp_path / "elsewhere")
    append(log, b"two\n")
    failures = iter([True, True])

    async with Follower(tmp_path) as follower:
        opened = follower.files.open

        async def open_broken(path: str) -> ReadableFile:
            file = await opened(path)
            return BrokenFile(file) if next(failures, False) else file

        monkeypatch.setattr(LocalFiles, "open", staticmethod(open_broken))
        assert await follower.read(6) == [b"two"]


async def test_waiting_for_a_disk_at_a_restart_leaves_the_bookmark_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk that says nothing was read yet stands at the bookmark; stored, it must not lose what comes after it."""
    log = tmp_path / "access.log"
    append(log, b"one\n")
    async with Follower(tmp_path) as follower:
        await follower.read(2)
        await follower.keep()
    append(log, b"two\n")
    log.rename(tmp_path / "access.log.1")
    append(log, b"three\n")
    failures = iter([True])

    async with Follower(tmp_path, Bookmark.decode((tmp_path / "state/bookmark.json").read_bytes(), "")) as follower:
        opened = follower.files.open

        async def open_broken(path: str) -> ReadableFile:
            file = await opened(path)
            return BrokenFile(file) if next(failures, False) else file

        monkeypatch.setattr(LocalFiles, "open", staticmethod(open_broken))
        assert await follower.read(1) == []
        await follower.keep()
        assert await follower.read(12) == [b"two", b"three"]


async def test_a_restart_goes_on_at_the_bookmark_with_the_same_ids(tmp_path: Path) -> None:
    """After a kill, lines since the bookmark come again with the same source id and offset, across a rotation."""
    async with Follower(tmp_path) as follower:
        append(follower.path, b"one\ntwo\n")
        await follower.read()
        await follower.keep()
        append(follower.path, b"three\n")
        follower.path.rename(tmp_path / "access.log.1")
        append(follower.path, b"four\n")
        await follower.read(12)
    first = follower.lines
    async with Follower(tmp_path) as again:
        assert again.tailer.bookmark.state == b"state"
        append(again.path, b"five\n")
        await again.read(12)
    assert again.lines[:2] == first[2:]
    assert again.lines[2:] == [("abc-1", 5, b"five")]


@pytest.mark.parametrize("shrinks", [True, False])
async def test_a_cut_file_starts_a_new_generation(tmp_path: Path, shrinks: bool) -> None:
    """Truncation is seen by size, or by other first bytes; the new lines get ids of their own, also after a restart."""
    async with Follower(tmp_path) as follower:
        append(follower.path, b"first line\nsecond line\n")
        await follower.read()
        os.truncate(follower.path, 0)
        append(follower.path, b"new\n" if shrinks else b"another beginning\nand further on\n")
        assert await follower.read(4)
    assert follower.lines[-1][0] == "abc-1"
    assert follower.telemetry.counters == {}
    async with Follower(tmp_path) as again:
        await again.read(4)
    assert {source for source, _, _ in again.lines} == {"abc-1"}


async def test_a_file_cut_and_grown_between_two_reads_is_not_read_on(tmp_path: Path) -> None:
    """A short file that was cut and is longer than before at the next read begins anew, not inside a line."""
    async with Follower(tmp_path) as follower:
        append(follower.path, b"one\n")
        assert await follower.read(1) == [b"one"]
        os.truncate(follower.path, 0)
        append(follower.path, b"another line, longer\n")
        assert (await follower.read(4))[-1:] == [b"another line, longer"]
    assert follower.lines[-1] == ("abc-1", 0, b"another line, longer")


async def test_a_reused_inode_is_another_file(tmp_path: Path) -> None:
    """A bookmark of a file with this inode but other first bytes is not taken up."""
    path = tmp_path / "access.log"
    append(path, b"what is here now\n")
    status = path.stat()
    mark = FileMark(4, status.st_dev, status.st_ino, b"what was here then")
    async with Follower(tmp_path, Bookmark("abc", 4, 3, b"", (mark,))) as follower:
        assert await follower.read() == [b"what is here now"]
    assert follower.lines[0][:2] == ("abc-5", 0)


async def test_a_folder_is_refused_and_a_full_disk_is_waited_out(tmp_path: Path) -> None:
    """What can't be read is an error at the start; a bookmark that can't be written is tried again."""
    async with Follower(tmp_path) as follower:
        follower.path.mkdir()
        with pytest.raises(SourceError, match="folder"):
            await follower.read()
    async with Follower(tmp_path / "other") as follower:
        follower.path.parent.mkdir()
        append(follower.path, b"one\n")
        real = follower.store.save
        failures = iter([OSError(28, "no space left on device")] * 3)

        async def save(bookmark: Bookmark) -> None:
            failure = next(failures, None)
            if failure is not None:
                raise failure
            await real(bookmark)

        follower.store.save = save  # type: ignore[method-assign]  # the fault of this test
        assert await follower.read() == [b"one"]
        failures = iter([OSError(28, "no space left on device")])
        assert not await follower.tailer.move_bookmark(0, 4, b"")
        assert follower.tailer.bookmark.offset == 0


def test_a_bookmark_comes_back_as_it_was() -> None:
    """Encoding and decoding is the identity; anything else is a configuration error that names the file."""
    bookmark = Bookmark("abc", 3, 77, b"\x00state", (FileMark(3, 1, 2, b"\xff"), FileMark(4, 1, 3)))
    assert Bookmark.decode(bookmark.encode(), "path") == bookmark
    for damaged in (
        b"",
        b"[]",
        b"{}",
        bookmark.encode()[:-3],
        bookmark.encode().replace(b'"version":1', b'"version":9'),
    ):
        with pytest.raises(ConfigurationError, match="path"):
            Bookmark.decode(damaged, "path")


class FakeFollower(Follower):
    """The same over a disk in memory, which can lose power."""

    def __init__(self, disk: FakeFiles, bookmark: Bookmark | None = None) -> None:
        super().__init__(Path("/var/log"), bookmark)
        self.files = disk  # type: ignore[assignment]  # the port, kept by another class
        self.store = BookmarkStore(disk, "/state/bookmark.json")


@pytest.mark.parametrize("removed", [[b"zero\n", b"one\n"], [b"zero\n", b""], [b""]])
async def test_a_newer_file_with_the_inode_of_a_removed_one_is_read_in_its_turn(removed: list[bytes]) -> None:
    """Inodes of removed files are used again: the oldest file that the bookmark knows comes first, under its ids."""
    disk = FakeFiles()
    disk.write_log("/var/log/access.log.1", b"two\n")
    disk.write_log("/var/log/access.log", b"three\n")
    rotated, log = [await _mark(disk, f"/var/log/access.log{suffix}") for suffix in (".1", "")]
    marks = [replace(log, generation=index, fingerprint=head) for index, head in enumerate(removed)]
    known = replace(rotated, generation=len(marks), fingerprint=b"two\n")
    async with FakeFollower(disk, Bookmark("abc", 0, 0, b"", (*marks, known))) as follower:
        assert await follower.read(12) == [b"two", b"three"]
    assert [source for source, _, _ in follower.lines] == [f"abc-{len(marks)}", f"abc-{len(marks) + 1}"]


@pytest.mark.parametrize("head", [b"one\n", b""])
async def test_another_log_with_the_inode_of_a_removed_file_is_left_alone(head: bytes) -> None:
    """Under a name that rotation does not give, only the first bytes tell a file of this log from somebody else's."""
    disk = FakeFiles()
    disk.write_log("/var/log/access.log_errors", b"not ours\n")
    disk.write_log("/var/log/access.log", b"two\n")
    mark = replace(await _mark(disk, "/var/log/access.log_errors"), fingerprint=head)
    gone = FileMark(0, mark.device, 1, b"zero\n")
    for marks in ((gone, replace(mark, generation=1)), (mark,)):
        async with FakeFollower(disk, Bookmark("abc", 0, 0, b"", marks)) as follower:
            assert await follower.read(6) == [b"two"]


async def test_a_file_moved_aside_by_hand_is_known_by_its_first_bytes() -> None:
    """A later file of the log under a name of the operator's choice is read before the one that took its name."""
    disk = FakeFiles()
    disk.write_log("/var/log/access.log_aside", b"one\n")
    disk.write_log("/var/log/access.log", b"two\n")
    mark = replace(await _mark(disk, "/var/log/access.log_aside"), generation=1, fingerprint=b"one\n")
    gone = FileMark(0, mark.device, 1, b"zero\n")
    async with FakeFollower(disk, Bookmark("abc", 0, 0, b"", (gone, mark))) as follower:
        assert await follower.read(12) == [b"one", b"two"]


async def test_a_file_moved_aside_is_followed_by_what_an_earlier_run_saw_after_it() -> None:
    """A name of the operator's choice tells no order: the bookmark's generations do, before and after it."""
    disk = FakeFiles()
    disk.write_log("/var/log/access.log_aside", b"two\n")
    disk.write_log("/var/log/access.log.2", b"one\n")
    disk.write_log("/var/log/access.log.1", b"three\n")
    disk.write_log("/var/log/access.log", b"four\n")
    names = (".2", "_aside", ".1")
    marks = [
        replace(await _mark(disk, f"/var/log/access.log{suffix}"), generation=index, fingerprint=head)
        for index, (suffix, head) in enumerate(zip(names, (b"one\n", b"two\n", b"three\n"), strict=True))
    ]
    async with FakeFollower(disk, Bookmark("abc", 0, 0, b"", tuple(marks))) as follower:
        assert (await follower.read(30))[0] == b"one"
    disk.remove("/var/log/access.log.2")
    async with FakeFollower(disk, Bookmark("abc", 1, 0, b"", tuple(marks[1:]))) as follower:
        assert await follower.read(30) == [b"two", b"three", b"four"]
    assert [source for source, _, _ in follower.lines] == ["abc-1", "abc-2", "abc-3"]


@pytest.mark.parametrize("names", [(".2", ".1"), ("-20261101", "-20261102"), ("-2026-11-01", "-2026-11-02")])
async def test_two_rotations_while_nobody_reads_lose_nothing(tmp_path: Path, names: tuple[str, str]) -> None:
    """The bookmark's file, the one between that nobody has seen, and the present one are read in their order."""
    log = tmp_path / "access.log"
    append(log, b"zero\n")
    async with Follower(tmp_path) as follower:
        await follower.read(2)
        await follower.keep()
    append(log, b"one\n")
    log.rename(f"{log}{names[0]}")
    append(log, b"two\n")
    log.rename(f"{log}{names[1]}")
    append(log, b"three\n")
    async with Follower(tmp_path) as follower:
        assert await follower.read(20) == [b"one", b"two", b"three"]


async def test_a_backlog_of_files_is_waited_for_once(tmp_path: Path) -> None:
    """Files that lay there complete when they were seen have had their writer's time; one that grew since has not."""
    log = tmp_path / "access.log"
    append(log, b"0\n")
    async with Follower(tmp_path) as follower:
        await follower.read(2)
        await follower.keep()
    for number in range(1, 9):
        log.rename(tmp_path / f"access.log-2026110{number}")
        append(log, b"%d\n" % number)
    async with Follower(tmp_path) as follower:
        assert await follower.read(5) == []
        append(tmp_path / "access.log-20261104", b"late\n")
        assert await follower.read(10) == [b"1", b"2", b"3", b"late"]
        append(tmp_path / "access.log-20261104", b"later\n")
        assert await follower.read(20) == [b"later", b"4", b"5", b"6", b"7", b"8"]


@pytest.mark.parametrize("names", [(".2", ".1", ".3", ".1"), ("-20261101", "-20261102", "-20261101", "-20261103")])
async def test_a_file_removed_while_it_waits_hides_no_later_one(names: tuple[str, str, str, str]) -> None:
    """What came after a file that is gone is known from the one before it, if that is there."""
    disk = FakeFiles()
    log = "/var/log/access.log"
    disk.write_log(log, b"zero\n")
    async with FakeFollower(disk) as follower:
        assert await follower.read(2) == [b"zero"]
        disk.rename(log, log + names[0])
        disk.write_log(log, b"")
        assert await follower.read(2) == []  # the empty one waits for its turn
        disk.rename(log, log + names[1])
        disk.write_log(log, b"two\n")
        disk.remove(log + names[1])
        if names[2] != names[0]:
            disk.rename(log + names[0], log + names[2])
        disk.rename(log, log + names[3])
        disk.write_log(log, b"three\n")
        assert await follower.read(30) == [b"two", b"three"]
    assert [source for source, _, _ in follower.lines] == ["abc-0", "abc-2", "abc-3"]


async def test_a_file_removed_while_it_waits_is_told_where_nothing_places_the_others() -> None:
    """With the one before it gone, too, a rotated file may be older than all that was read: it is not read again."""
    disk = FakeFiles()
    log = "/var/log/access.log"
    disk.write_log(f"{log}.7", b"long ago\n")
    disk.write_log(log, b"zero\n")
    async with FakeFollower(disk) as follower:
        assert await follower.read(2) == [b"zero"]
        disk.rename(log, f"{log}.1")
        disk.write_log(log, b"")
        assert await follower.read(2) == []
        disk.remove(f"{log}.1")
        disk.remove(log)
        disk.write_log(log, b"two\n")
        assert await follower.read(30) == [b"two"]


async def test_a_file_rotated_twice_is_not_left_before_its_writer_lets_go(tmp_path: Path) -> None:
    """A second rotation within the wait says nothing about the writer of the first file."""
    log = tmp_path / "access.log"
    append(log, b"one\n")
    async with Follower(tmp_path) as follower:
        await follower.read(2)
        log.rename(tmp_path / "access.log.2")
        append(tmp_path / "access.log.1", b"")
        append(log, b"three\n")
        assert await follower.read(3) == []
        append(tmp_path / "access.log.2", b"two\n")
        assert await follower.read(20) == [b"two", b"three"]


async def test_a_file_moved_out_of_the_folder_is_read_on_by_who_has_it_open(tmp_path: Path) -> None:
    """With `olddir` a rotated file is no longer beside the log: a running reader finishes it, a restart tells."""
    log, old = tmp_path / "access.log", tmp_path / "old"
    old.mkdir()
    append(log, b"one\n")
    async with Follower(tmp_path) as follower:
        await follower.read(2)
        await follower.keep()
        log.rename(old / "access.log.1")
        append(log, b"three\n")
        append(old / "access.log.1", b"two\n")
        assert await follower.read(14) == [b"two", b"three"]
    async with Follower(tmp_path) as follower:
        assert await follower.read(6) == [b"three"]
    assert follower.lines[0][0] == "abc-1"


@pytest.mark.parametrize("look", range(8))
async def test_a_rotation_while_a_restart_looks_around_hides_no_file(
    look: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever look at a file, or opening of one, the rename comes before: the bookmark's file is read first."""
    disk = FakeFiles()
    disk.write_log("/var/log/access.log", b"one\n")
    mark = replace(await _mark(disk, "/var/log/access.log"), fingerprint=b"one\n")
    identify, open_path = disk.identify, disk.open
    looks = itertools.count()

    def rotate_in_time() -> None:
        if next(looks) == look:
            disk.rename("/var/log/access.log", "/var/log/access.log.1")
            disk.write_log("/var/log/access.log", b"two\n")

    async def identify_after(path: str) -> FileIdentity | None:
        rotate_in_time()
        return await identify(path)

    async def open_after(path: str) -> FakeFile:
        rotate_in_time()
        return await open_path(path)

    monkeypatch.setattr(disk, "identify", identify_after)
    monkeypatch.setattr(disk, "open", open_after)
    async with FakeFollower(disk, Bookmark("abc", 0, 0, b"", (mark,))) as follower:
        assert await follower.read(14) == [b"one", b"two"]
    assert follower.lines[0] == ("abc-0", 0, b"one")


async def _mark(disk: FakeFiles, path: str) -> FileMark:
    identity = await disk.identify(path)
    assert identity is not None
    return FileMark(0, identity.device, identity.inode)


class LogWorld:
    """A log on a disk in memory, the lines written to it, and the lines that some reader has seen, by id."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.disk = FakeFiles()
        self.disk.write_log("/var/log/access.log", b"")
        self.written: list[bytes] = []
        self.seen: dict[tuple[str, int], bytes] = {}
        self.rotations = 0

    def write(self) -> None:
        """Append some lines."""
        for _ in range(self.chance.randint(0, 5)):
            line = b"line %d %s" % (len(self.written), b"x" * self.chance.choice((0, 5, 300)))
            self.written.append(line)
            self.disk.write_log("/var/log/access.log", line + b"\n")

    def rotate(self) -> None:
        """Rename as logrotate does: every number one up."""
        for number in range(self.rotations, 0, -1):
            self.disk.rename(f"/var/log/access.log.{number}", f"/var/log/access.log.{number + 1}")
        self.disk.rename("/var/log/access.log", "/var/log/access.log.1")
        self.disk.write_log("/var/log/access.log", b"")
        self.rotations += 1

    async def follow(self, *, to_end: bool) -> None:
        """Run one process until it is killed."""
        async with FakeFollower(self.disk) as follower:
            await follower.read(1)
            for _ in range(0 if to_end else self.chance.randint(1, 8)):
                self.write()
                if self.chance.random() < 0.3:
                    self.rotate()
                await follower.read(self.chance.randint(1, 6))
                if self.chance.random() < 0.5:
                    await follower.keep()
            if to_end:
                await follower.read(300)
        for source, offset, line in follower.lines:
            assert self.seen.setdefault((source, offset), line) == line


@pytest.mark.parametrize("seed", range(60))
async def test_no_line_is_lost_whatever_happens_to_the_log(seed: int) -> None:
    """Growth, rotations, kills and power losses in any order: each line is read, one id is never two lines."""
    world = LogWorld(seed)
    for _ in range(12):
        await world.follow(to_end=False)
        if world.chance.random() < 0.3:
            world.disk.lose_power()
    await world.follow(to_end=True)
    assert sorted(world.seen.values()) == sorted(world.written)


@pytest.mark.parametrize("is_read", [False, True])
async def test_a_disk_that_fails_for_long_is_told_of_once_in_ten_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_read: bool
) -> None:
    """Whether the path can't be read or the bookmark can't be saved; another error is told at once."""
    async with Follower(tmp_path) as follower:
        told: list[tuple[str, str]] = []

        def tell(event: str, **fields: str) -> None:
            told.append((event, fields["error"]))

        monkeypatch.setattr(follower.telemetry, "warning", tell)
        monkeypatch.setattr(follower.telemetry, "error", tell)
        error = OSError(errno.EIO, "input/output error")

        async def fail(*_: object) -> None:
            raise error

        append(follower.path, b"one\n")
        await follower.read(1)
        if is_read:
            monkeypatch.setattr(LocalFiles, "identify", fail)
        else:
            monkeypatch.setattr(follower.store, "save", fail)

        async def fail_for(rounds: int) -> int:
            before = len(told)
            for _ in range(rounds):
                if is_read:
                    await follower.read(1)
                else:
                    follower.clock.now += 1
                    assert not await follower.tailer.move_bookmark(follower.last.generation, 0, b"")
            return len(told) - before

        assert await fail_for(9) == 1
        assert await fail_for(30) in {3, 4}
        error = OSError(errno.ENOSPC, "no space left on device")
        assert await fail_for(1) == 1
        assert {event for event, _ in told} == {"source_read_failed" if is_read else "bookmark_not_saved"}


async def test_errors_that_differ_each_time_do_not_fill_the_log() -> None:
    """Eight lines in ten seconds, whatever they say."""
    clock, telemetry = StillClock(), SilentTelemetry()
    told: list[str] = []
    telemetry.warning = lambda event, **_: told.append(event)  # type: ignore[method-assign]  # keeps what was said
    failures = FailureLog(telemetry, clock)
    for number in range(100):
        clock.now = number / 10
        failures.warning("source_read_failed", "/log", OSError(number))
    assert len(told) == 8
