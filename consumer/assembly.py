"""Makes the parts of a worker from its settings, checking what only together can be wrong."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from consumer.archive import Archive
from consumer.core.chunk import CHUNK_RECORDS
from consumer.core.manifest import Manifests
from consumer.core.object_format import Codec, FormatKind, ObjectFormat
from consumer.core.object_key import ObjectNames, constant_prefix
from consumer.core.roll_policy import RollPolicy
from consumer.core.route import Router
from consumer.core.schema import Schema
from consumer.encoding import check_format
from consumer.registration import Registration
from consumer.retrier import Retrier
from consumer.shard_parts import ShardSettings
from consumer.shard_reader import ReadPorts, ReadSettings
from shared.errors import ConfigurationError
from shared.lease import AT_LATEST, AT_TRIM_HORIZON, Checkpoint, CheckpointKind
from shared.ports import Clock, FanOut, Kinesis, LeaseStore, ObjectStore, Random, Telemetry
from shared.retry import Backoff
from shared.settings import ConsumerSettings

_RECORDS_UNBOUNDED: Final = 1 << 62
_PARTITIONED_CHUNK_RECORDS: Final = 64


def initial_checkpoint(start_from: str, *, option: str = "start_from") -> tuple[Checkpoint, float]:
    """Return where shards without a row start, and the time if it is one (seconds since the epoch).

    ConfigurationError if `start_from` is neither TRIM_HORIZON nor LATEST nor an ISO 8601 time; `option` names it.
    """
    if start_from in {"TRIM_HORIZON", "LATEST"}:
        return (AT_TRIM_HORIZON if start_from == "TRIM_HORIZON" else AT_LATEST), 0.0
    try:
        instant = datetime.fromisoformat(start_from)
    except ValueError as error:
        raise ConfigurationError(
            f"{option} is `{start_from[:40]}`, neither TRIM_HORIZON nor LATEST nor an ISO 8601 time",
            hint="Write a time like 2026-11-21T08:00:00+00:00",
        ) from error
    moment = instant if instant.tzinfo else instant.replace(tzinfo=UTC)
    return Checkpoint(CheckpointKind.AT_TIMESTAMP), moment.timestamp()


def archive_of(
    settings: ConsumerSettings,
    objects: ObjectStore | None,
    *,
    leases: LeaseStore,
    retrier: Retrier,
    clock: Clock,
    telemetry: Telemetry,
) -> Archive | None:
    """Return the archive over a bucket; ConfigurationError if objects could not be named or written as set."""
    if objects is None:
        return None
    destinations = Router(settings.dest_streams).destinations
    written = ObjectFormat(
        FormatKind(settings.archive_format.value),
        Codec(settings.compression.value),
        Schema.declare(settings.archive_schema) if settings.archive_schema else None,
    )
    if written.schema is not None and not written.needs_schema:
        raise ConfigurationError(
            "archive_schema is set, but archive_format `json` has no columns",
            hint="Set archive_format to csv or parquet",
        )
    if settings.object_bytes_target > settings.flush_bytes_max:
        raise ConfigurationError(
            f"object_bytes_target is {settings.object_bytes_target:,} bytes, but flush_bytes_max closes a batch at "
            f"{settings.flush_bytes_max:,} before compression",
            hint="Raise flush_bytes_max to about ten times the target",
        )
    check_format(written)
    zone = zone_of(settings.archive_time_zone)
    names = ObjectNames(
        archive_prefix=settings.archive_prefix,
        error_prefix=settings.error_prefix,
        destinations=destinations,
        extension=settings.file_extension or written.extension,
        error_extension=written.of_dead_letters.extension,
        zone=zone,
    )
    return Archive(
        objects=objects,
        names=names,
        retrier=retrier,
        clock=clock,
        telemetry=telemetry,
        hold_schema=leases.hold_schema,
        destinations=destinations,
        format=written,
        manifests=_manifests_of(settings, zone),
    )


def _manifests_of(settings: ConsumerSettings, zone: tzinfo) -> Manifests | None:
    if not settings.manifest_prefix:
        return None
    manifests = Manifests(settings.manifest_prefix, zone, settings.manifest_wait_seconds)
    manifests.check(constant_prefix(settings.archive_prefix), constant_prefix(settings.error_prefix))
    return manifests


def zone_of(name: str) -> tzinfo:
    """Return a zone of the IANA database; ConfigurationError if this system has none of that name."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ConfigurationError(
            f"archive_time_zone is `{name}`, which this system does not know",
            hint="Write a name of the IANA database like Europe/Berlin; install tzdata if the system has none",
        ) from error


def shard_settings_of(
    settings: ConsumerSettings, start_timestamp: float, *, has_archive: bool, is_partitioned: bool
) -> ShardSettings:
    """Return how shards are processed; without a bucket a batch is only a checkpoint interval."""
    seconds = settings.flush_seconds if has_archive else settings.checkpoint_interval_seconds
    return ShardSettings(
        roll=RollPolicy(
            bytes_max=settings.flush_bytes_max,
            records_max=settings.flush_records_max if has_archive else _RECORDS_UNBOUNDED,
            seconds_max=seconds,
            object_bytes_target=settings.object_bytes_target,
        ),
        # A chunk of partitioned events may name as many objects, for which the lease row must have room.
        chunk_records_max=_PARTITIONED_CHUNK_RECORDS if is_partitioned else CHUNK_RECORDS,
        breaker_window_records=settings.breaker_window_records,
        breaker_failed_percent=settings.breaker_failed_percent,
        progress_timeout_seconds=settings.progress_timeout_seconds,
        read=ReadSettings(
            stream=settings.source_stream,
            records_max=settings.read_records_max,
            pause_seconds=settings.read_pause_seconds,
            idle_seconds=settings.read_idle_seconds,
            start_timestamp=start_timestamp,
        ),
    )


def read_ports_of(
    settings: ConsumerSettings,
    kinesis: Kinesis,
    fan_out: FanOut | None,
    retrier: Retrier,
    clock: Clock,
    random: Random,
    telemetry: Telemetry,
    backoff: Backoff,
) -> ReadPorts:
    """Return what readers need; with `fan_out` they read as the registered consumer of the application."""
    registration = None
    if fan_out is not None:
        registration = Registration(fan_out, kinesis, retrier, stream=settings.source_stream, name=settings.app)
    return ReadPorts(kinesis, retrier, clock, random, telemetry, backoff, registration)
