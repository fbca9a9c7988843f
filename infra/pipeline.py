"""Puts the consumer together: a worker, its ports, and a producer of ours per destination stream."""

from __future__ import annotations

import random
import secrets
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from consumer.worker import Worker
from producer.producer import Producer
from shared.aws.objects import WriteOptions
from shared.aws.session import Aws
from shared.clock import SystemClock
from shared.errors import ConfigurationError
from shared.limits import DESTINATION_AGGREGATE_BYTES_MAX_DEFAULT
from shared.ports import RecordSink, Telemetry
from shared.settings import (
    STREAM_NAME_PATTERN,
    ConsumerSettings,
    ObjectEncryption,
    Ordering,
    ProducerSettings,
    load_settings,
)


def new_random() -> random.Random:
    """Return a source of chance seeded by the system; for jitter and ids, not for secrets."""
    return random.Random(secrets.randbits(128))  # noqa: S311 - see the docstring


def name_worker(settings: ConsumerSettings) -> ConsumerSettings:
    """Give the worker a name that says where it runs and that no other process has, unless it has one."""
    if settings.worker_id:
        return settings
    host = socket.gethostname()[:64] or "host"
    return settings.model_copy(update={"worker_id": f"{host}-{secrets.token_hex(4)}"})


def destination_settings(destinations: Mapping[str, str]) -> ProducerSettings:
    """Return the settings of the producers of destination streams; ConfigurationError for ordering `none`."""
    settings = load_settings(ProducerSettings)
    if destinations and settings.ordering is Ordering.NONE:
        raise ConfigurationError(
            "HEADRACE_PRODUCER_ORDERING is `none`: events keep their ids in destination streams, and readers would "
            "take what arrives out of order for repetitions",
            hint="Leave it out where a consumer runs",
        )
    if "aggregate_bytes_max" not in settings.model_fields_set:
        return settings.model_copy(update={"aggregate_bytes_max": DESTINATION_AGGREGATE_BYTES_MAX_DEFAULT})
    return settings


def without_drain(settings: ProducerSettings) -> ProducerSettings:
    """Return the settings of a destination's producer, which is left when the worker has ended.

    The worker has waited for its receipts by then, for as long as it may. What is pending all the same is behind the
    checkpoint and is read again; to wait for it would take each destination's time once more, one after the other.
    """
    return settings.model_copy(update={"drain_timeout_seconds": 0.0})


def check_streams(settings: ConsumerSettings) -> None:
    """Refuse settings a consumer can't start with; ConfigurationError with the missing option."""
    import re  # noqa: PLC0415 - one use

    if not settings.source_stream:
        raise ConfigurationError("No source stream is named", hint="Give --source_stream or HEADRACE_SOURCE_STREAM")
    if not settings.dest_streams and not settings.bucket:
        raise ConfigurationError(
            "Neither destination streams nor a bucket are named: events would go nowhere",
            hint='Give --dest_streams \'{"USA": "NAME", "International": "NAME"}\', --bucket, or both',
        )
    for name in (settings.source_stream, *settings.dest_streams.values()):
        if not re.fullmatch(STREAM_NAME_PATTERN, name):
            raise ConfigurationError(
                f"`{name[:128]}` is no stream name", hint="1 to 128 letters, digits, dots, dashes and underscores"
            )
    if settings.source_stream in settings.dest_streams.values():
        raise ConfigurationError(
            f"Stream `{settings.source_stream}` is source and destination: every event would come back for ever",
            hint="Name another destination stream",
        )


def write_options_of(settings: ConsumerSettings) -> WriteOptions:
    """Return how objects are written; ConfigurationError where the settings contradict each other."""
    if settings.object_kms_key_id and settings.object_encryption is not ObjectEncryption.KMS:
        raise ConfigurationError(
            "object_kms_key_id is set, but objects are not encrypted with KMS", hint="Set object_encryption to aws:kms"
        )
    return WriteOptions(
        encryption=settings.object_encryption.value,
        kms_key_id=settings.object_kms_key_id,
        bucket_key_enabled=settings.object_bucket_key,
        storage_class=settings.storage_class,
        tags=settings.object_tags,
        multipart_bytes_min=settings.multipart_bytes_min,
    )


@asynccontextmanager
async def open_worker(aws: Aws, settings: ConsumerSettings, telemetry: Telemetry) -> AsyncIterator[Worker]:
    """Open the ports and the destination producers and yield a worker that is ready to run.

    One producer per destination stream, also where two destinations share a stream: order per session then holds
    across them. Raises what a missing stream, table or bucket raises.
    """
    check_streams(settings)
    named = name_worker(settings)
    puts = destination_settings(named.dest_streams)
    kinesis = await aws.kinesis(puts.wire, named.read_wire)
    leases = await aws.leases(named.app, telemetry)
    renewals = await aws.leases(named.app, telemetry, pool="renewals")
    objects = await aws.objects(named.bucket, write_options_of(named)) if named.bucket else None
    fan_out = await aws.fan_out(named.source_stream) if named.fan_out else None
    async with AsyncExitStack() as stack:
        by_stream: dict[str, RecordSink] = {}
        for stream in dict.fromkeys(named.dest_streams.values()):
            producer = Producer(
                stream,
                kinesis=kinesis,
                clock=SystemClock(),
                random=new_random(),
                telemetry=telemetry,
                settings=without_drain(puts),
            )
            by_stream[stream] = await stack.enter_async_context(producer)
        sinks: Mapping[str, RecordSink] = {
            destination: by_stream[stream] for destination, stream in named.dest_streams.items()
        }
        yield Worker(
            named,
            kinesis=kinesis,
            leases=leases,
            objects=objects,
            sinks=sinks,
            clock=SystemClock(),
            random=new_random(),
            telemetry=telemetry,
            fan_out=fan_out,
            renewals=renewals,
        )
