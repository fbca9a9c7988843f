"""Reads what an audit compares: source stream, destination streams, S3 objects and dead letters, over the ports."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

import orjson

from consumer.core.manifest import COMPLETE_NAME
from consumer.core.object_key import GAP_FOLDER, OBJECT_NAME, REDRIVEN_FOLDER, STREAM_DELIVERY_FAILED, constant_prefix
from infra.audit.core.auditor import Auditor
from infra.audit.core.lineage import lineage_order
from infra.audit.core.manifest_check import ManifestCheck
from infra.audit.core.report import AuditReport
from infra.audit.core.series import Series
from infra.audit.object_events import events_of
from shared.aggregation import deaggregate
from shared.errors import ConfigurationError, IteratorExpiredError, MalformedEventError, ServiceError, SourceError
from shared.event import decode_event, event_id_of
from shared.lease import AT_TRIM_HORIZON, Checkpoint, Lease
from shared.limits import GET_RECORDS_COUNT_MAX, PARTITION_KEY_CHARACTERS_MAX
from shared.ports import Kinesis, LeaseStore, ObjectStore, Random
from shared.records import TRIM_HORIZON, Position, RecordPage, Shard, Start, StartKind, UserRecord
from shared.retry import Backoff
from shared.settings import ConsumerSettings

T = TypeVar("T")
_ARCHIVE_PREFIX: Final[str] = ConsumerSettings.model_fields["archive_prefix"].default
_ATTEMPTS_MAX: Final = 20
_READ_PAUSE_SECONDS: Final = 0.2  # the service allows five reads per second and shard


@dataclass(frozen=True, slots=True)
class AuditScope:
    """What to compare; prefixes are the constant beginnings of keys, but for `archive_prefix`: it is as it was set."""

    source_stream: str
    dest_streams: Mapping[str, str] = field(default_factory=dict)  # destination -> stream
    has_bucket: bool = True
    archive_prefix: str = _ARCHIVE_PREFIX
    error_prefix: str = "errors/"
    manifest_prefix: str = ""  # empty: none are written
    receipts: Iterable[str] = ()  # event ids that producers reported as acknowledged
    source_is_whole: bool = True


def scope_of(application: Mapping[str, Any], receipts: Iterable[str] = ()) -> AuditScope:
    """Return what an application's own description (see LeaseStore.read_application) says there is to compare."""
    return AuditScope(
        source_stream=application["source_stream"],
        dest_streams=dict(application.get("dest_streams") or {}),
        has_bucket=bool(application.get("bucket")),
        archive_prefix=application.get("archive_prefix") or _ARCHIVE_PREFIX,
        error_prefix=constant_prefix(application.get("error_prefix") or "errors/"),
        manifest_prefix=application.get("manifest_prefix") or "",
        receipts=receipts,
    )


async def audit_application(
    *,
    app: str,
    kinesis: Kinesis,
    leases: LeaseStore,
    open_bucket: Callable[[str], Awaitable[ObjectStore]],
    random: Random,
    sleep: Callable[[float], Awaitable[None]],
    receipts: Iterable[str] = (),
) -> AuditReport:
    """Audit what the application `app` (whose lease table `leases` is) has read and written so far.

    ConfigurationError if it never ran; the errors of AuditReader.audit.
    """
    application = await leases.read_application()
    if application is None:
        raise ConfigurationError(
            f"Application `{app}` has no description in its lease table",
            hint="Has `headrace consume` run with this --app?",
        )
    scope = scope_of(application, receipts)
    objects = await open_bucket(application["bucket"]) if scope.has_bucket else None
    return await AuditReader(kinesis=kinesis, objects=objects, leases=leases, random=random, sleep=sleep).audit(scope)


class ObjectPlace(NamedTuple):
    """Where an object belongs: the rank of its shard in the lineage, its first position, its key."""

    shard_rank: int
    sequence_number: int
    sub_sequence_number: int
    key: str
    generation: int


class _Letter(NamedTuple):
    """A dead letter: whose, whether a destination stream refused the event, and in which reading."""

    event_id: str
    of_stream: bool
    generation: int


class _Checkpoints:
    """Where the application has come to in each shard, as of before anything it wrote is read."""

    def __init__(
        self,
        leases: LeaseStore | None,
        call: Callable[[Callable[[], Awaitable[Lease | None]]], Awaitable[Lease | None]],
    ) -> None:
        self._leases = leases
        self._call = call
        self._found: dict[str, Checkpoint] = {}

    async def is_behind(self, shard_id: str, position: Position) -> bool:
        """Whether a record waits for its checkpoint; where there is no row, nobody has begun with its shard."""
        leases = self._leases
        if leases is None:
            return False
        if shard_id not in self._found:
            row = await self._call(partial(leases.read_lease, shard_id))
            self._found[shard_id] = AT_TRIM_HORIZON if row is None else row.checkpoint
        return Checkpoint.at(position) > self._found[shard_id]


class AuditReader:
    """Feeds an Auditor from the ports; memory is bounded by the ids and by the largest object."""

    def __init__(
        self,
        *,
        kinesis: Kinesis,
        objects: ObjectStore | None,
        random: Random,
        sleep: Callable[[float], Awaitable[None]],
        leases: LeaseStore | None = None,
    ) -> None:
        """Without `leases`, everything in the source stream is taken for something that has to be stored by now."""
        self._leases = leases
        self._kinesis = kinesis
        self._objects = objects
        self._random = random
        self._sleep = sleep
        self._backoff = Backoff(0.05, 5)

    async def audit(self, scope: AuditScope) -> AuditReport:
        """Read everything and judge it.

        ServiceError when a call fails twenty times, SourceError when an object is no archive of ours.
        """
        objects = self._objects if scope.has_bucket else None
        auditor = Auditor(
            has_bucket=objects is not None,
            has_destinations=bool(scope.dest_streams),
            source_is_whole=scope.source_is_whole,
        )
        lineage: dict[str, tuple[str, ...]] = {}
        checkpoints = _Checkpoints(self._leases, self._call)
        async for shard_id, record in self.read_stream(scope.source_stream, lineage):
            is_awaited = await checkpoints.is_behind(shard_id, record.position)
            auditor.acknowledge(_identify(record, scope.source_stream, shard_id)[0], is_awaited=is_awaited)
        for receipt in scope.receipts:
            auditor.confirm(receipt)
        for stream in dict.fromkeys(scope.dest_streams.values()):
            async for shard_id, record in self.read_stream(stream, {}):
                event_id, event = _identify(record, stream, shard_id)
                auditor.deliver(stream, event_id, _session_of(event))
        if objects is not None:
            await self._read_bucket(objects, scope, lineage, auditor)
        return auditor.report()

    async def _read_bucket(
        self, objects: ObjectStore, scope: AuditScope, lineage: Mapping[str, tuple[str, ...]], auditor: Auditor
    ) -> None:
        check = ManifestCheck((constant_prefix(scope.archive_prefix), scope.error_prefix), lineage)
        ranks = {shard_id: rank for rank, shard_id in enumerate(lineage)}
        indexes = await self._read_manifests(objects, scope, check)
        async for event, series, generation in self._read_archive(objects, scope, ranks, check):
            auditor.store(event_id_of(event) or "", _session_of(event), series, generation)
        async for letter in self._read_dead_letters(objects, scope, check):
            auditor.dead_letter(letter.event_id, of_stream=letter.of_stream, generation=letter.generation)
        async for _ in self._keys(objects, scope.error_prefix + GAP_FOLDER):
            auditor.report_gap()
        await self._read_manifests(objects, scope, check, known=indexes)
        auditor.compare(check.findings())

    async def _read_manifests(
        self, objects: ObjectStore, scope: AuditScope, check: ManifestCheck, known: frozenset[str] | None = None
    ) -> frozenset[str]:
        """Read indexes and what complete hours say; of what is not `known` only what it lists. Return their keys."""
        if not scope.manifest_prefix:
            return frozenset()
        hours: dict[str, list[str]] = {}
        async for key in self._keys(objects, f"{scope.manifest_prefix}dt="):
            hours.setdefault(key.rpartition("/")[0] + "/", []).append(key)
        is_late = known is not None
        for folder, keys in hours.items():
            complete = folder + COMPLETE_NAME
            indexes = [key for key in keys if key != complete]
            for key in indexes:
                if known is None or key not in known:
                    await self._take_manifest(objects, key, partial(check.take_index, key, is_late=is_late))
            if complete in keys and not is_late:
                take = partial(check.take_complete, complete, indexes)
                await self._take_manifest(objects, complete, take)
        return frozenset(key for keys in hours.values() for key in keys)

    async def _take_manifest(self, objects: ObjectStore, key: str, take: Callable[[Any], None]) -> None:
        body = await self._call(lambda: objects.get_object(key))
        try:
            take(orjson.loads(body))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SourceError(
                f"object `{key}` is no manifest: {type(error).__name__}",
                hint="Is something else written below manifest_prefix?",
            ) from error

    async def read_stream(
        self, stream: str, lineage: dict[str, tuple[str, ...]]
    ) -> AsyncIterator[tuple[str, UserRecord]]:
        """Walk a stream from TRIM_HORIZON to where it ends now.

        Shards come in lineage order; in it, `lineage` gets each with its parents.
        """
        shards = {each.shard_id: each for each in await self._call(lambda: self._kinesis.list_shards(stream))}
        for shard_id in lineage_order({name: each.parents for name, each in shards.items()}):
            lineage[shard_id] = shards[shard_id].parents
            async for record in self._read_shard(stream, shards[shard_id]):
                yield shard_id, record

    async def _read_shard(self, stream: str, shard: Shard) -> AsyncIterator[UserRecord]:
        start = TRIM_HORIZON
        iterator: str | None = await self._iterator(stream, shard, start)
        while iterator is not None:
            try:
                page = await self._page(stream, iterator)
            except IteratorExpiredError:
                iterator = await self._iterator(stream, shard, start)
                continue
            for record in page.records:
                start = Start(StartKind.AFTER_SEQUENCE_NUMBER, record.sequence_number)
                # What a consumer leaves out because it lies outside the shard was never accepted as a whole, either.
                for each in deaggregate(record, shard.hash_key_range).records:
                    yield each
            if not page.records and not page.behind_milliseconds:
                return
            iterator = page.next_iterator
            await self._sleep(_READ_PAUSE_SECONDS)

    async def _iterator(self, stream: str, shard: Shard, start: Start) -> str:
        return await self._call(lambda: self._kinesis.get_shard_iterator(stream, shard.shard_id, start))

    async def _page(self, stream: str, iterator: str) -> RecordPage:
        return await self._call(lambda: self._kinesis.get_records(stream, iterator, GET_RECORDS_COUNT_MAX))

    async def _read_archive(
        self, objects: ObjectStore, scope: AuditScope, ranks: Mapping[str, int], check: ManifestCheck
    ) -> AsyncIterator[tuple[dict[str, Any], str, int]]:
        """Walk all archived events with the series and the generation of their objects.

        Objects come by lineage and position, lines in their order.
        """
        prefix, series_of = constant_prefix(scope.archive_prefix), Series(scope.archive_prefix).of
        keys = [key async for key in self._keys(objects, prefix)]
        if scope.error_prefix.startswith(prefix):
            keys = [key for key in keys if not key.startswith(scope.error_prefix)]
        places = [object_place(key, ranks) for key in keys]
        for place in sorted(places):
            count, series = 0, series_of(place.key)
            for event in await self._events(objects, place.key):
                count += 1
                yield event, series, place.generation
            check.take_object(place.key, count)

    async def _read_dead_letters(
        self, objects: ObjectStore, scope: AuditScope, check: ManifestCheck
    ) -> AsyncIterator[_Letter]:
        async for key in self._keys(objects, scope.error_prefix):
            if key.startswith((scope.error_prefix + GAP_FOLDER, scope.error_prefix + REDRIVEN_FOLDER)):
                continue
            named = OBJECT_NAME.search(key)
            generation = int(named[4] or 0) if named is not None else 0
            of_stream = STREAM_DELIVERY_FAILED in key
            count = 0
            for letter in await self._events(objects, key):
                count += 1
                yield _Letter(_id_of(letter, scope.source_stream, key), of_stream, generation)
            if named is not None:
                check.take_object(key, count)

    async def _keys(self, objects: ObjectStore, prefix: str) -> AsyncIterator[str]:
        async def walk() -> list[str]:
            return [each.key async for each in objects.list_objects(prefix) if not each.is_folder]

        for key in await self._call(walk):
            yield key

    async def _events(self, objects: ObjectStore, key: str) -> Iterator[dict[str, Any]]:
        return events_of(key, await self._call(lambda: objects.get_object(key)))

    async def _call(self, call: Callable[[], Awaitable[T]]) -> T:
        for attempt in range(_ATTEMPTS_MAX):
            try:
                return await call()
            except IteratorExpiredError:
                raise
            except ServiceError as error:
                if not error.retryable or attempt == _ATTEMPTS_MAX - 1:
                    raise
                await self._sleep(self._backoff.delay(attempt, self._random))
        raise AssertionError  # the last attempt returns or raises


def _identify(record: UserRecord, stream: str, shard_id: str) -> tuple[str, dict[str, Any]]:
    """Return a record's event id and its event; a record that is no event of ours is named by its place."""
    place = f"{stream}:{shard_id}:{record.position.sequence_number}:{record.position.sub_sequence_number}"
    try:
        event = decode_event(record.data)
    except MalformedEventError:
        return place, {}
    return event_id_of(event) or place, event


def _id_of(letter: Mapping[str, Any], stream: str, key: str) -> str:
    """Return the id of a dead letter's event, or the place of its record. SourceError if the letter has neither."""
    event_id = letter.get("eventId")
    if isinstance(event_id, str) and event_id:
        return event_id
    try:
        return ":".join([stream, *(str(letter[each]) for each in ("shardId", "sequenceNumber", "subSequenceNumber"))])
    except KeyError as error:
        raise SourceError(
            f"object `{key}` holds a dead letter without {error}",
            hint="Is something else written below error_prefix?",
        ) from error


def _session_of(event: Mapping[str, Any]) -> str:
    """Return the session by which an event is partitioned; empty if it has none that can be a partition key."""
    session = event.get("session_id")
    return session if isinstance(session, str) and len(session) <= PARTITION_KEY_CHARACTERS_MAX else ""


def object_place(key: str, ranks: Mapping[str, int]) -> ObjectPlace:
    """Read an object's place from its key; `ranks` are those of the shards. SourceError for other keys."""
    match = OBJECT_NAME.search(key)
    if match is None:
        raise SourceError(
            f"object `{key}` is not named SHARD-FIRST-LAST", hint="Is something else written below this prefix?"
        )
    shard_id, sequence_number, sub_sequence_number, generation = match.groups()
    # Ids of shards past retention still rise with age, so that they sort before all that are known.
    rank = ranks.get(shard_id, int(shard_id.rpartition("-")[2]) - 10**12)
    return ObjectPlace(rank, int(sequence_number), int(sub_sequence_number or 0), key, int(generation or 0))
