"""The world's own audit, from the line in the web log to the object: by line numbers, without trusting event ids."""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

import orjson

from infra.audit.core.auditor import Auditor
from infra.audit.core.lineage import lineage_order
from infra.audit.core.report import AuditReport
from infra.audit.reading import object_place
from shared.aggregation import deaggregate
from tests.simulation.web_log import number_of
from tests.support.fake_kinesis import FakeKinesis
from tests.support.fake_objects import FakeObjects

_GZIP_MAGIC: Final = b"\x1f\x8b"


def audit_lines(
    written: Sequence[int],
    promised: Collection[int | None],
    forbidden: Collection[int | None],
    adrift: Collection[int | None],
    kinesis: FakeKinesis,
    objects: FakeObjects | None,
    source: str,
    destinations: Sequence[str],
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
    for event, generation in _archived(kinesis, objects, source) if objects is not None else ():
        number = number_of(event)
        session = sessions.of(f"s3 {generation}", number, event)
        if session and (number in promised or number in forbidden):
            auditor.store(str(number), session, generation=generation)
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
    )
    return {number for each in events if (number := number_of(each)) is not None}


def _archived(kinesis: FakeKinesis, objects: FakeObjects, source: str) -> Iterator[tuple[dict[str, Any], int]]:
    """Walk all archived events, each with the generation of its object."""
    ranks = {shard: rank for rank, shard in enumerate(_lineage(kinesis, source))}
    keys = [key for key in objects.objects if key.startswith("archive/")]
    for place in sorted(object_place(key, ranks) for key in keys):
        for line in _body(objects, place.key).splitlines():
            yield orjson.loads(line), place.generation


def _lineage(kinesis: FakeKinesis, stream: str) -> list[str]:
    return lineage_order({name: each.shard.parents for name, each in kinesis.streams[stream].shards.items()})


def _events(kinesis: FakeKinesis, stream: str) -> Iterator[dict[str, Any]]:
    for shard_id in _lineage(kinesis, stream):
        shard = kinesis.streams[stream].shards[shard_id]
        for record in shard.records:
            for user in deaggregate(record, shard.shard.hash_key_range).records:
                yield orjson.loads(user.data)


def _body(objects: FakeObjects, key: str) -> bytes:
    body = objects.objects[key].body
    return gzip.decompress(body) if body.startswith(_GZIP_MAGIC) else body
