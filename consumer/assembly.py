"""Makes the parts of a worker from its settings, checking what only together can be wrong."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from consumer.archive import Archive
from consumer.core.object_key import ObjectNames
from consumer.core.roll_policy import RollPolicy
from consumer.core.route import Router
from consumer.registration import Registration
from consumer.retrier import Retrier
from consumer.shard_parts import ShardSettings
from consumer.shard_reader import ReadPorts, ReadSettings
from shared.errors import ConfigurationError
from shared.lease import AT_LATEST, AT_TRIM_HORIZON, Checkpoint, CheckpointKind
from shared.ports import Clock, FanOut, Kinesis, ObjectStore, Random, Telemetry
from shared.retry import Backoff
from shared.settings import Compression, ConsumerSettings

_RECORDS_UNBOUNDED: Final = 1 << 62


def initial_checkpoint(start_from: str) -> tuple[Checkpoint, float]:
    """Return where shards without a row start, and the time if it is one (seconds since the epoch).

    ConfigurationError if `start_from` is neither TRIM_HORIZON nor LATEST nor an ISO 8601 time.
    """
    if start_from in {"TRIM_HORIZON", "LATEST"}:
        return (AT_TRIM_HORIZON if start_from == "TRIM_HORIZON" else AT_LATEST), 0.0
    try:
        instant = datetime.fromisoformat(start_from)
    except ValueError as error:
        raise ConfigurationError(
            f"start_from is `{start_from[:40]}`, neither TRIM_HORIZON nor LATEST nor an ISO 8601 time",
            hint="Write a time like 2026-11-21T08:00:00+00:00",
        ) from error
    moment = instant if instant.tzinfo else instant.replace(tzinfo=UTC)
    return Checkpoint(CheckpointKind.AT_TIMESTAMP), moment.timestamp()


def archive_of(
    settings: ConsumerSettings,
    objects: ObjectStore | None,
    router: Router,
    retrier: Retrier,
    telemetry: Telemetry,
) -> Archive | None:
    """Return the archive over a bucket; ConfigurationError if the prefixes do not tell objects apart."""
    if objects is None:
        return None
    is_compressed = settings.compression is Compression.GZIP
    names = ObjectNames(
        archive_prefix=settings.archive_prefix,
        error_prefix=settings.error_prefix,
        destinations=router.destinations,
        extension=".json.gz" if is_compressed else ".json",
    )
    return Archive(objects, names, retrier, telemetry, destinations=router.destinations, is_compressed=is_compressed)


def shard_settings_of(settings: ConsumerSettings, start_timestamp: float, *, has_archive: bool) -> ShardSettings:
    """Return how shards are processed; without a bucket a batch is only a checkpoint interval."""
    seconds = settings.flush_seconds if has_archive else settings.checkpoint_interval_seconds
    return ShardSettings(
        roll=RollPolicy(
            bytes_max=settings.flush_bytes_max,
            records_max=settings.flush_records_max if has_archive else _RECORDS_UNBOUNDED,
            seconds_max=seconds,
        ),
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
