"""A source run from lines to the stream: counts, ids, dead letters, bookmarks, ends."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import random
import signal
from collections.abc import Sequence
from typing import Any

import pytest

from producer.core.line_format import LineFormat
from producer.core.pacer import Pacer
from producer.dead_letters import DeadLetters
from producer.run import RunSummary, SourceOptions, load_site, run_source
from shared.aggregation import deaggregate
from shared.errors import AccessDeniedError, ConfigurationError, InvalidRequestError, SourceError, ThrottledError
from shared.event import EventId
from shared.hash_key import hash_key_of
from shared.lanes import lane_of
from shared.lifecycle import StopSignal
from shared.ports import Delivered
from shared.records import PutEntry, PutResult
from shared.settings import Ordering, ProducerSettings
from shared.telemetry import SilentTelemetry
from tests.support.fake_files import FakeFiles
from tests.support.fake_kinesis import FakeKinesis
from tests.support.loop_clock import LoopClock
from tests.support.network import ScriptedNetwork

LOG = "/var/log/access.log"
DEAD_LETTERS = "/state/dead-letters.ndjson"
LINE = (
    b'10.0.0.%d - - [26/Jan/2019:19:45:%02d +0000] "GET /product/%d HTTP/1.1" 200 512 "-" "Mozilla/5.0 (X11; Linux)"\n'
)


class World:
    """A stream, a disk, and one run after the other between them."""

    def __init__(self, **settings: Any) -> None:
        self.network = ScriptedNetwork()
        self.kinesis = FakeKinesis(self.network)
        self.stream = self.kinesis.create_stream("orders", 2)
        self.disk = FakeFiles()
        self.receipts: list[tuple[str, str, Delivered]] = []
        quick: dict[str, Any] = {
            "state_dir": "/state",
            "batch_linger_seconds": 0.001,
            "retry_backoff_seconds_max": 0.06,
        }
        self.settings = ProducerSettings(**quick | settings)

    async def run(self, stop: StopSignal | None = None, seed: int = 1, **options: Any) -> RunSummary:
        """Run a source to its end."""
        return await run_source(
            SourceOptions(**{"path": LOG} | options),
            stream="orders",
            kinesis=self.kinesis,
            files=self.disk,
            clock=LoopClock(),
            random=random.Random(seed),
            telemetry=SilentTelemetry(),
            settings=self.settings,
            stop=stop,
            on_receipt=lambda *receipt: self.receipts.append(receipt),
        )

    def events(self) -> list[dict[str, Any]]:
        """Return the events of the stream, shard by shard."""
        return [
            json.loads(user.data)
            for shard in self.stream.shards.values()
            for record in shard.records
            for user in deaggregate(record, shard.shard.hash_key_range).records
        ]

    def dead_letters(self) -> list[dict[str, Any]]:
        """Return the dead letters."""
        return [json.loads(line) for line in (self.disk.content(DEAD_LETTERS) or b"").splitlines()]


async def test_lines_add_up_and_events_carry_their_place() -> None:
    """Counts obey lines = events + filtered + rejected; an id is source, lane and byte offset; receipts tell it."""
    world = World()
    data = b'{"session_id":"a"}\n\n{"session_id":"b","event_id":"mine"}\nbroken\n{"session_id":"c"}'
    world.disk.write_log(LOG, data)
    summary = await world.run(source_id="web-1")
    assert (summary.lines, summary.events, summary.rejected, dict(summary.filtered)) == (5, 3, 1, {"blank": 1})
    assert (summary.acknowledged, summary.undelivered, summary.dead_lettered) == (3, 0, 1)
    expected = {
        "a": str(EventId("web-1", lane_of(hash_key_of("a")), 0)),
        "b": "mine",
        "c": str(EventId("web-1", lane_of(hash_key_of("c")), data.index(b'{"session_id":"c"}'))),
    }
    assert {event["session_id"]: event["event_id"] for event in world.events()} == expected
    assert {key: event_id for event_id, key, _ in world.receipts} == expected
    (letter,) = world.dead_letters()
    assert (letter["file"], letter["offset"], letter["error_code"]) == (LOG, data.index(b"broken"), "malformed-event")
    assert base64.b64decode(letter["raw_data"]) == b"broken"


async def test_a_file_sent_twice_counts_as_new_unless_it_is_named() -> None:
    """Without a source id each run has ids of its own; with one they repeat, so that readers drop them."""
    world = World()
    world.disk.write_log(LOG, b'{"session_id":"a"}\n')
    await world.run(seed=1)
    await world.run(seed=2)
    await world.run(seed=3, source_id="x")
    await world.run(seed=4, source_id="x")
    assert len({event["event_id"] for event in world.events()}) == 3


async def test_without_order_ids_name_no_lane() -> None:
    """A reader must not drop by a mark what may arrive out of order."""
    world = World(ordering=Ordering.NONE)
    world.disk.write_log(LOG, b'{"session_id":"a"}\n')
    await world.run(source_id="x")
    assert [event["event_id"] for event in world.events()] == ["x.-.0"]


async def test_an_overlong_line_is_a_dead_letter_with_its_head() -> None:
    """A line beyond the limit is skipped in bounded memory and kept by its first bytes and length."""
    world = World(line_bytes_max=1024)
    world.disk.write_log(LOG, b"x" * 2_000_000 + b'\n{"session_id":"a"}\n')
    summary = await world.run()
    assert (summary.lines, summary.events, summary.rejected) == (2, 1, 1)
    (letter,) = world.dead_letters()
    assert (letter["error_code"], letter["offset"], letter["raw_length"]) == ("overlong-line", 0, 2_000_000)
    assert base64.b64decode(letter["raw_data"]) == b"x" * 4096


async def follow(world: World, until: int, **options: Any) -> RunSummary:
    """Follow the log until so many events are acknowledged, then stop as SIGTERM does."""
    stop = StopSignal()
    before = len(world.receipts)

    async def watch() -> None:
        while len(world.receipts) < before + until:  # noqa: ASYNC110 - the loop is never idle here: each turn is a step
            await asyncio.sleep(0)
        stop.notify()

    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        tasks.create_task(watch())
        return await world.run(stop, is_followed=True, **options)


async def test_following_goes_on_where_it_stopped() -> None:
    """After a stop nothing is sent twice, and the ids go on under the same source."""
    world = World()
    world.disk.write_log(LOG, b'{"session_id":"a"}\n')
    summary = await follow(world, 1)
    assert summary.is_stopped
    world.disk.write_log(LOG, b'{"session_id":"b"}\n')
    await follow(world, 1, seed=99)
    events = world.events()
    assert sorted(event["session_id"] for event in events) == ["a", "b"]
    sources = {EventId.parse(event["event_id"]).source_id for event in events}  # type: ignore[union-attr]  # ours parse
    assert len(sources) == 1


@pytest.mark.parametrize("stored", [0, 1, 2, 3, 7])
async def test_a_killed_run_sends_the_same_bytes_again(stored: int) -> None:
    """From any bookmark that was ever written, a restart makes the same events with the same ids and sessions."""
    world = World(bookmark_interval_seconds=0.05)
    bookmarks: list[bytes] = []
    real = world.disk.write_atomically

    async def keep(path: str, data: bytes) -> None:
        await real(path, data)
        if "bookmarks" in path:
            bookmarks.append(data)
            bookmark_path.append(path)

    bookmark_path: list[str] = []
    world.disk.write_atomically = keep  # type: ignore[method-assign]  # a look at what is written
    for part in range(4):
        for index in range(40):
            world.disk.write_log(LOG, LINE % (index % 7, index, part * 100 + index))
        await follow(world, 40, line_format=LineFormat.COMBINED)
    first = {event["event_id"]: event for event in world.events()}
    assert len(first) == 160
    chosen = bookmarks[min(stored, len(bookmarks) - 1)]
    await real(bookmark_path[0], chosen)
    again = World()
    again.disk = world.disk
    offset = json.loads(chosen)["offset"]
    expected = {key: event for key, event in first.items() if int(key.rsplit(".", 1)[1]) >= offset}
    if expected:
        await follow(again, len(expected), line_format=LineFormat.COMBINED)
    assert {event["event_id"]: event for event in again.events()} == expected


async def test_a_csv_header_belongs_to_its_file() -> None:
    """After a rotation the new file's header is a header again, not an event."""
    world = World(rotate_wait_seconds=0)
    world.disk.write_log(LOG, b"session_id,country\na,USA\n")
    await follow(world, 1)
    world.disk.rename(LOG, LOG + ".1")
    world.disk.write_log(LOG, b"country,session_id\nFrance,b\n")
    await follow(world, 1)
    assert {event["session_id"]: event["country"] for event in world.events()} == {"a": "USA", "b": "France"}


async def test_a_csv_row_that_the_file_ends_in_is_kept() -> None:
    """What stands behind a quote that is open at the end of a file is one dead letter, and counted as rejected."""
    world = World(rotate_wait_seconds=0)
    world.disk.write_log(LOG, b'session_id,note\na,"x\ny"\nb,"open\nc,d\n')
    summary = await world.run(line_format=LineFormat.CSV)
    assert (summary.lines, summary.events, summary.rejected, summary.filtered.total()) == (5, 1, 1, 3)
    (letter,) = [json.loads(line) for line in (world.disk.content(DEAD_LETTERS) or b"").splitlines()]
    assert (letter["offset"], base64.b64decode(letter["raw_data"])) == (32, b'b,"open\nc,d\n')


async def test_a_csv_row_with_an_overlong_line_is_rejected_whole() -> None:
    """Its event would lack that line. Counts add up, and a restart inside of the row goes on inside of it."""
    world = World(rotate_wait_seconds=0, line_bytes_max=1024)
    long = b"z" * 5_000
    first = b'session_id,note\nq,w\na,"x\n' + long + b"\nb,made up\n"
    world.disk.write_log(LOG, first)
    summary = await follow(world, 1, line_format=LineFormat.CSV)
    assert (summary.lines, summary.events, summary.rejected, summary.filtered.total()) == (5, 1, 3, 1)
    world.disk.write_log(LOG, b'c,made up\n"\nd,e\n')
    summary = await follow(world, 1, line_format=LineFormat.CSV)
    assert (summary.lines, summary.events, summary.rejected, summary.filtered.total()) == (3, 1, 2, 0)
    assert [event["session_id"] for event in world.events()] == ["q", "d"]
    letters = [(each["offset"], base64.b64decode(each["raw_data"])) for each in world.dead_letters()]
    place = first.index(long)
    assert letters[:3] == [(place - 5, b'a,"x\n'), (place, long[:4096]), (place + 5_001, b"b,made up")]


async def test_a_stop_ends_a_paced_run_at_once() -> None:
    """Reading ends at the signal, not at the end of the chunk; what was accepted is sent without regard to the rate."""
    world = World()
    world.disk.write_log(LOG, b'{"session_id":"a"}\n' * 1000)
    stop = StopSignal()

    async def stop_soon() -> None:
        while len(world.receipts) < 3:  # noqa: ASYNC110 - the loop is never idle for long
            await asyncio.sleep(0)
        stop.notify(signal.SIGTERM)

    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        tasks.create_task(stop_soon())
        summary = await world.run(stop, events_per_second=50)
    assert 1 <= summary.lines < 100
    assert (summary.lines, summary.events, summary.acknowledged) == (summary.lines,) * 3
    assert summary.is_stopped
    assert len(world.events()) == summary.lines


async def test_a_stop_that_the_reader_sees_first_is_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal that comes in the very turn in which the next line is paced ends the run as any other does."""
    world = World()
    world.disk.write_log(LOG, b'{"session_id":"a"}\n' * 1000)
    stop = StopSignal()

    def stop_now(pacer: Pacer, now: float) -> float:
        stop.notify(signal.SIGINT)
        return 0.0

    monkeypatch.setattr(Pacer, "delay", stop_now)
    summary = await world.run(stop, events_per_second=50)
    assert (summary.lines, summary.acknowledged, summary.is_stopped) == (1, 1, True)


async def test_a_stop_while_draining_comes_after_the_end() -> None:
    """A signal after the last line was read has stopped nothing that was asked for."""
    world = World(batch_linger_seconds=10)  # the end of the file is what sends it, however slow this machine is
    world.disk.write_log(LOG, b'{"session_id":"a"}\n')
    stop = StopSignal()
    put_records = world.kinesis.put_records

    async def put_and_stop(stream: str, entries: Sequence[PutEntry]) -> Sequence[PutResult]:
        stop.notify(signal.SIGINT)
        await asyncio.sleep(0)
        return await put_records(stream, entries)

    world.kinesis.put_records = put_and_stop  # type: ignore[method-assign]  # the signal's moment
    summary = await world.run(stop)
    assert (summary.acknowledged, summary.is_stopped) == (1, False)


async def test_gzip_is_not_followed() -> None:
    """A packed file grows by no lines: it is refused with a remedy instead of being read as garbage."""
    world = World()
    world.disk.write_log(LOG, gzip.compress(b'{"session_id":"a"}\n'))
    with pytest.raises(ConfigurationError, match="gzip") as caught:
        await world.run(is_followed=True)
    assert "--follow" in caught.value.hint


async def test_a_stop_ends_a_run_that_waits_for_room() -> None:
    """With a full buffer and a dead stream, the first signal ends reading, the second the draining."""
    world = World(buffer_bytes_max=2 * 1024 * 1024, drain_timeout_seconds=3600)
    world.network.scripts["kinesis.put_records"] = [ThrottledError("no") for _ in range(100_000)]
    line = json.dumps({"session_id": "a", "padding": "x" * 1000}).encode() + b"\n"
    world.disk.write_log(LOG, line * 4000)
    stop = StopSignal()
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(world.run(stop))
        while "kinesis.put_records" not in world.network.calls:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0)
        for _ in range(50):
            await asyncio.sleep(0)
        stop.notify()
        for _ in range(50):
            await asyncio.sleep(0)
        assert not running.done()
        stop.notify()
        async with asyncio.timeout(10):
            summary = await running
    assert 0 < summary.undelivered == summary.events < 4000
    assert summary.last_error == "no"


async def test_a_refusal_for_good_is_raised_or_told() -> None:
    """Access denied leaves the events undelivered and says why."""
    world = World()
    world.disk.write_log(LOG, b'{"session_id":"a"}\n')
    world.network.scripts["kinesis.put_records"] = [AccessDeniedError("no such right")]
    summary = await world.run()
    assert (summary.undelivered, summary.last_error) == (1, "no such right")


@pytest.mark.parametrize("is_followed", [False, True])
async def test_a_record_that_the_stream_refuses_is_a_dead_letter(is_followed: bool) -> None:
    """It is kept with code, place and bytes, counts as rejected, and is on disk before a bookmark passes it."""
    world = World(bookmark_interval_seconds=0.05)
    lines = [b'{"session_id":"%d"%b}\n' % (number, b',"bad":1' if number == 30 else b"") for number in range(200)]
    world.disk.write_log(LOG, b"".join(lines))
    inner, write = world.kinesis.put_records, world.disk.write_atomically
    kept: list[bool] = []

    async def put_records(stream: str, entries: list[PutEntry]) -> Any:
        if any(b'"bad"' in entry.data for entry in entries):
            raise InvalidRequestError("1 validation error", code="ValidationException")
        return await inner(stream, entries)

    async def keep(path: str, data: bytes) -> None:
        if b'"offset"' in data and json.loads(data)["offset"] > 0:
            kept.append(len(world.dead_letters()) == 1)
        await write(path, data)

    world.kinesis.put_records = put_records  # type: ignore[method-assign,assignment]  # stands before it
    world.disk.write_atomically = keep  # type: ignore[method-assign]  # looks on
    summary = await (follow(world, 199) if is_followed else world.run())
    assert (summary.lines, summary.events, summary.rejected) == (200, 199, 1)
    assert (summary.acknowledged, summary.undelivered) == (199, 0)
    (letter,) = world.dead_letters()
    assert (letter["error_code"], letter["offset"]) == ("ValidationException", sum(map(len, lines[:30])))
    assert json.loads(base64.b64decode(letter["raw_data"]))["session_id"] == "30"
    assert len(world.events()) == 199
    assert all(kept)
    assert bool(kept) == is_followed


async def test_a_dead_letter_added_during_a_write_is_kept() -> None:
    """Receipts add dead letters while the disk takes earlier ones."""
    disk = FakeFiles()
    letters = DeadLetters(disk, LoopClock(), "/state", "log")
    append = disk.append

    async def slow(path: str, data: bytes, *, durable: bool) -> None:
        if letters.count == 1:
            letters.add(2, "second", "", b"2")
        await append(path, data, durable=durable)

    disk.append = slow  # type: ignore[method-assign,assignment]  # stands before it
    letters.add(1, "first", "", b"1")
    await letters.flush()
    await letters.flush()
    written = [json.loads(line)["error_code"] for line in (disk.content(DEAD_LETTERS) or b"").splitlines()]
    assert written == ["first", "second"]


async def test_dead_letters_that_cannot_be_kept_stop_the_run() -> None:
    """A full disk is an error that names the file; what was accepted is delivered first."""
    world = World()
    world.disk.write_log(LOG, b'{"session_id":"a"}\nbroken\n')
    world.disk.bytes_max = 100
    with pytest.raises(SourceError, match=r"dead-letters\.ndjson"):
        await world.run(line_format=LineFormat.JSON)
    assert [event["session_id"] for event in world.events()] == ["a"]


async def test_the_session_key_is_drawn_once() -> None:
    """The same visitor has the same session id in every run, and a damaged key is an error, not a new key."""
    world = World()
    world.disk.write_log(LOG, LINE % (1, 1, 1))
    await world.run(seed=1)
    await world.run(seed=2)
    assert len({event["session_id"] for event in world.events()}) == 1
    await world.disk.write_atomically("/state/session-key", b"xyz")
    with pytest.raises(ConfigurationError, match="64 hex digits"):
        await world.run()


async def test_a_key_that_cant_be_kept_is_no_matter_of_lines_whose_format_is_given() -> None:
    """Before a line is read, any may be of an access log: whoever has other lines is told to say so."""
    world = World()
    world.disk.write_log(LOG, b'{"session_id":"a"}\n')
    world.disk.bytes_max = 5
    for line_format, has_format_hint in ((LineFormat.AUTO, True), (LineFormat.COMBINED, False)):
        with pytest.raises(ConfigurationError, match="can't be kept") as caught:
            await world.run(line_format=line_format)
        assert "--state-dir" in caught.value.hint
        assert ("--format json" in caught.value.hint) is has_format_hint
    await world.run(line_format=LineFormat.JSON)
    assert len(world.events()) == 1


async def test_lines_max_ends_a_run_early() -> None:
    """Only so many lines are read, and the counts still add up."""
    world = World()
    world.disk.write_log(LOG, b'{"session_id":"a"}\n' * 10)
    summary = await world.run(lines_max=4)
    assert (summary.lines, summary.events, summary.acknowledged) == (4, 4, 4)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"source_id": "No!"}, "1 to 28"),
        ({"path": "-", "is_followed": True}, "followed"),
        ({"countries_path": "/nowhere"}, "does not exist"),
    ],
)
async def test_bad_options_are_refused(options: dict[str, Any], match: str) -> None:
    """What can't be used is an error before anything is read."""
    world = World()
    world.disk.write_log(LOG, b"")
    with pytest.raises(ConfigurationError, match=match):
        await world.run(**options)


async def test_a_site_is_a_name_or_a_toml_file() -> None:
    """Built-in profiles go by name, own ones by path; anything else is explained."""
    disk = FakeFiles()
    disk.write_log("/my.toml", b'internal_paths = ["/secret"]\n')
    disk.write_log("/bad.toml", b"= nonsense")
    assert (await load_site(disk, "zanbil")).name == "zanbil"
    assert (await load_site(disk, "/my.toml")).internal_paths == ("/secret",)
    for name in ("other", "/none.toml", "/bad.toml"):
        with pytest.raises(ConfigurationError):
            await load_site(disk, name)
