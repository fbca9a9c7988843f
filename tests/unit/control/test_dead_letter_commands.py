"""Dead letters are counted, shown without harm to a terminal, and put back once."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from consumer.core.object_key import GAP_FOLDER, REDRIVEN_FOLDER
from infra.control.dead_letters import DeadLetterFolder, StoredLetter, count_letters, letter_lines
from infra.control.redrive import Redrive, Redriven, record_of, redrive_id
from shared.errors import AmbiguousCallError, SourceError
from shared.event import EventId, decode_event, event_id_of, with_event_id
from shared.hash_key import hash_key_of
from shared.lanes import lane_of
from shared.limits import HASH_KEY_MAX
from tests.support.aggregate import Aggregate
from tests.unit.consumer.small_cloud import SOURCE, SmallCloud
from tests.unit.control.steered_group import audit, group_of

BAD: dict[str, Any] = {"session_id": "b1", "country": "Spain", "browse_history": 7}


def letter(data: bytes, /, **fields: Any) -> StoredLetter:
    """Return a letter over some bytes, which no field takes the place of: texts that are drawn may be any name."""
    line = {"partitionKey": "b1", **fields, "rawData": base64.b64encode(data).decode()}
    return StoredLetter.parse(orjson.dumps(line), "key")


def bad_event(number: int) -> bytes:
    """Return an event of ours that no enrichment takes."""
    event_id = EventId("web", lane_of(hash_key_of("b1")), number)
    return with_event_id(orjson.dumps(BAD | {"n": number}), str(event_id))


async def make_letters(cloud: SmallCloud) -> None:
    """Let a worker refuse three events and one record that is no event."""
    await cloud.put(*(bad_event(number) for number in range(3)), b"\x1b[31m no event \xff", key="b1")
    stop, task, _ = cloud.start(cloud.worker(flush_seconds=1))
    await asyncio.sleep(5)
    stop.set()
    await task


async def redrive(cloud: SmallCloud, *keys: str, again: bool = False, is_dry: bool = False) -> Redriven:
    """Redrive as the command does."""
    run = Redrive(group_of(cloud), rate=10, again=again)
    return await run.run(keys, error_type="processing-failed", is_dry=is_dry)


def test_letters_are_counted_by_type_hour_and_reason() -> None:
    """Each letter of each object counts once; folders that hold no letters are left out."""
    cloud = SmallCloud.make()

    async def story() -> None:
        await make_letters(cloud)
        await cloud.objects.put_object(f"errors/{GAP_FOLDER}x.json", b"{}", content_type="x")
        await cloud.objects.put_object(f"errors/{REDRIVEN_FOLDER}x.json", b"{}", content_type="x")
        counts, objects = await count_letters(DeadLetterFolder(group_of(cloud)), None)
        assert (objects, sum(each.letters for each in counts)) == (1, 4)
        assert {(each.error_type, each.hour) for each in counts} == {("processing-failed", "2026-11-18 11:00")}
        assert len(letter_lines(counts)) == 2 + len(counts)
        assert await count_letters(DeadLetterFolder(group_of(cloud)), "stream-delivery-failed") == ((), 0)

    cloud.run(story)


def test_a_redriven_event_is_processed_and_not_dropped_as_a_duplicate() -> None:
    """Events come back under a new id, an object only once, and `again` brings it once more."""
    cloud = SmallCloud.make()

    async def story() -> list[Redriven]:
        await make_letters(cloud)
        before = len(list(cloud.kinesis.records(SOURCE)))
        runs = [await redrive(cloud, is_dry=True)]
        assert len(list(cloud.kinesis.records(SOURCE))) == before
        runs += [await redrive(cloud), await redrive(cloud), await redrive(cloud, again=True)]
        stop, task, _ = cloud.start(cloud.worker(flush_seconds=1))
        await asyncio.sleep(5)
        stop.set()
        await task
        return runs

    runs = cloud.run(story)
    assert [(run.objects, run.records, run.objects_done_before) for run in runs] == [
        (1, 4, 0),
        (1, 4, 0),
        (0, 0, 1),
        (1, 4, 0),
    ]
    # The first four, and after each redrive four letters more: none was taken for one that had been seen.
    assert len(cloud.stored("errors/processing-failed/")) == 12
    assert cloud.stored("archive/") == []


def test_an_aggregate_that_its_producer_has_sent_again_is_left_out() -> None:
    """One that landed beside its shard would only do so again, and its members have come by another way."""
    cloud = SmallCloud.make(2)
    aggregate = Aggregate()
    for hash_key in (0, HASH_KEY_MAX):
        aggregate.append(orjson.dumps(BAD), "b1", hash_key)

    async def story() -> Redriven:
        await cloud.kinesis.put_record(SOURCE, aggregate.encode())
        await make_letters(cloud)
        before = len(list(cloud.kinesis.records(SOURCE)))
        done = await redrive(cloud)
        assert len(list(cloud.kinesis.records(SOURCE))) - before == done.records
        return done

    done = cloud.run(story)
    assert (done.records, done.refused, done.sent_again) == (4, 0, 1)


def test_a_redrive_that_is_repeated_after_a_crash_delivers_once() -> None:
    """What a run that was cut short had put already is dropped when the next run puts it again."""
    cloud = SmallCloud.make()

    async def story() -> str:
        await make_letters(cloud)
        (key,) = await DeadLetterFolder(group_of(cloud)).keys()
        cloud.network.errors["objects.put"] = [AmbiguousCallError("no answer") for _ in range(12)]
        with pytest.raises(AmbiguousCallError):
            await redrive(cloud, key)
        cloud.network.errors.clear()
        await redrive(cloud, key)
        stop, task, _ = cloud.start(cloud.worker(flush_seconds=1))
        await asyncio.sleep(5)
        stop.set()
        await task
        return (await audit(cloud)).verdict

    assert cloud.run(story) == "ok"
    letters = [each for each in cloud.stored("errors/processing-failed/") if "eventId" in each]
    assert len(letters) == len({each["eventId"] for each in letters}) == 6


def test_bytes_that_are_no_event_stay_as_they_are() -> None:
    """Only an event gets an id, and a foreign id is left alone."""
    event_id = redrive_id("key", 1, 0, "b1")
    assert record_of(letter(b"no event"), event_id) == b"no event"
    foreign = b'{"event_id": "mine-7", "a": 1}'
    assert record_of(letter(foreign), event_id) == foreign
    assert record_of(letter(b'{"a": 1.50}'), event_id) == b'{"a": 1.50,"event_id":"%b"}' % str(event_id).encode()
    renamed = decode_event(record_of(letter(bad_event(7)), event_id))
    assert event_id_of(renamed) == str(event_id)
    assert {name: value for name, value in renamed.items() if name != "event_id"} == BAD | {"n": 7}


@given(st.text(min_size=1), st.integers(1, 10**6), st.integers(0, 10**9), st.text(max_size=20))
def test_redrive_ids_are_ids(key: str, turn: int, line: int, partition_key: str) -> None:
    """Whatever the key of an object is, its lines get ids that a reader recognises."""
    made = redrive_id(key, turn, line, partition_key)
    assert EventId.parse(str(made)) == made


@given(st.binary(max_size=200), st.dictionaries(st.text(max_size=10), st.text(max_size=30), max_size=4))
@example(b"", {"data": "7"})
@example(b"", {"rawData": "7"})
@example(b"", {"\x1b[31m": "7"})
def test_a_shown_letter_can_not_steer_a_terminal(data: bytes, fields: dict[str, str]) -> None:
    """No line that is shown holds a control character, whatever the letter holds."""
    shown = letter(data, **{"errorMessage": "\x1b]0;x\x07", **fields})
    assert all(line.isprintable() for line in shown.lines())
    orjson.dumps(shown.as_mapping())


@pytest.mark.parametrize(
    "line", [b"", b"[]", b"7", b"{}", b'{"rawData": 7}', b'{"rawData": "%"}', b'{"rawData": null}']
)
def test_what_is_no_letter_is_named(line: bytes) -> None:
    """A line of something else is an error that names the object."""
    with pytest.raises(SourceError, match="is no dead letter"):
        StoredLetter.parse(line, "some/key")
