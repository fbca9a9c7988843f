"""The world's own audit, from the line in the web log to the object: by line numbers, without trusting event ids."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from typing import Any

import orjson

from consumer.core.object_key import FORMAT_CONVERSION_FAILED
from consumer.core.partition import Partitioner
from infra.audit.core.auditor import Auditor
from infra.audit.core.lineage import lineage_order
from infra.audit.core.report import AuditReport
from infra.audit.object_events import events_of
from infra.audit.reading import object_place
from shared.aggregation import deaggregate
from tests.simulation.web_log import number_of
from tests.support.fake_kinesis import FakeKinesis
from tests.support.fake_objects import FakeObjects


def audit_lines(
    written: Sequence[int],
    promised: Collection[int | None],
    forbidden: Collection[int | None],
    adrift: Collection[int | None],
    kinesis: FakeKinesis,
    objects: FakeObjects | None,
    source: str,
    destinations: Sequence[str],
    fields: tuple[str, ...] = (),
) -> AuditReport:
    """Compare what was written into the logs with what is in S3 and in the destination streams.

    `written` are all numbers in the order of writing. Those that are neither `promised` nor `forbidden` may be there
    or not; a forbidden one that is there counts as unknown. What is `adrift` was in a file that was cut: a request with
    it may land after the reader has gone on, or it is read again under another id; neither is promised away.
    """
    sessions = _Sessions(adrift)
    auditor = Auditor(has_bucket=objects is not None, has_destinations=bool(destinations), source_is_whole=False)
    for number in written:
        if number in promised:
            auditor.acknowledge(str(number))
    for stream in destinations:
        for event in _events(kinesis, stream):
            number = number_of(event)
            session = sessions.of(stream, number, event)
            if session and (number in promised or number in forbidden):
                auditor.deliver(stream, str(number), session)
    partitioner = Partitioner(fields)
    for event, generation in _archived(kinesis, objects, source) if objects is not None else ():
        number = number_of(event)
        session = sessions.of(f"s3 {generation}", number, event)
        if session and (number in promised or number in forbidden):
            # The destination is part of no group, as a session has one.
            auditor.store(str(number), session, partitioner.slot("", event), generation)
    for event, generation in _misfits(objects) if objects is not None else ():
        number = number_of(event)
        if sessions.of(f"s3 {generation}", number, event) and (number in promised or number in forbidden):
            auditor.dead_letter(str(number), generation=generation)
    return auditor.report()


class _Sessions:
    """In which session the order of an event is judged: what is adrift has one of its own, and counts once."""

    def __init__(self, adrift: Collection[int | None]) -> None:
        self._adrift = adrift
        self._seen: set[tuple[str, int | None]] = set()

    def of(self, place: str, number: int | None, event: dict[str, Any]) -> str:
        """Return the session; empty for what is not to be counted again."""
        if number not in self._adrift:
            return str(event["session_id"])
        if (place, number) in self._seen:
            return ""
        self._seen.add((place, number))
        return f"{event['session_id']} {number}"


def delivered_numbers(
    kinesis: FakeKinesis, objects: FakeObjects | None, source: str, streams: Sequence[str]
) -> set[int]:
    """Return the numbers of the lines that are in S3 or in a destination stream."""
    events = itertools.chain(
        *(_events(kinesis, stream) for stream in streams),
        (event for event, _ in _archived(kinesis, objects, source)) if objects is not None else (),
        (event for event, _ in _misfits(objects)) if objects is not None else (),
    )
    return {number for each in events if (number := number_of(each)) is not None}


def archived_numbers(objects: FakeObjects, keys: Collection[str]) -> set[int]:
    """Return the numbers of the events in these of the objects: archived ones, and those that fit no column."""
    archived = (event for key in keys if key.startswith("archive/") for event in _events_in(objects, key))
    misfits = (event for key, event in _misfits_by_key(objects) if key in keys)
    return {number for each in itertools.chain(archived, misfits) if (number := number_of(each)) is not None}


def _archived(kinesis: FakeKinesis, objects: FakeObjects, source: str) -> Iterator[tuple[dict[str, Any], int]]:
    """Walk all archived events, each with the generation of its object."""
    ranks = {shard: rank for rank, shard in enumerate(_lineage(kinesis, source))}
    keys = [key for key in objects.objects if key.startswith("archive/")]
    for place in sorted(object_place(key, ranks) for key in keys):
        for event in _events_in(objects, place.key):
            yield event, place.generation


def _events_in(objects: FakeObjects, key: str) -> Sequence[dict[str, Any]]:
    return _decoded(key, objects.objects[key].body)


@lru_cache(maxsize=2_048)  # each object of a world is looked at three times, and to decode it costs most of that
def _decoded(key: str, body: bytes) -> Sequence[dict[str, Any]]:
    # Columns show what an event does not have as null or as nothing.
    return [
        {name: value for name, value in event.items() if value is not None and value != ""}
        for event in events_of(key, body)
    ]


def _misfits(objects: FakeObjects) -> Iterator[tuple[dict[str, Any], int]]:
    """Walk the events that did not fit the columns of the archive, each with the generation of its object."""
    for key, event in _misfits_by_key(objects):
        yield event, object_place(key, {}).generation


def _misfits_by_key(objects: FakeObjects) -> Iterator[tuple[str, dict[str, Any]]]:
    for key in objects.objects:
        if key.startswith(f"errors/{FORMAT_CONVERSION_FAILED}/"):
            for letter in events_of(key, objects.objects[key].body):
                yield key, orjson.loads(base64.b64decode(letter["rawData"]))


def _lineage(kinesis: FakeKinesis, stream: str) -> list[str]:
    return lineage_order({name: each.shard.parents for name, each in kinesis.streams[stream].shards.items()})


def _events(kinesis: FakeKinesis, stream: str) -> Iterator[dict[str, Any]]:
    for shard_id in _lineage(kinesis, stream):
        shard = kinesis.streams[stream].shards[shard_id]
        for record in shard.records:
            for user in deaggregate(record, shard.shard.hash_key_range).records:
                yield _loaded(user.data)


@lru_cache(maxsize=8_192)
def _loaded(data: bytes) -> dict[str, Any]:
    loaded: dict[str, Any] = orjson.loads(data)
    return loaded
