"""The ports: everything the product asks of the world outside, as Protocols that a simulator can stand in for."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from shared.lease import Lease, LeaseChange, LeaseExpectation, Presence, TableRows
from shared.records import PutEntry, PutResult, RecordPage, Shard, Start, StreamConsumer, StreamSummary


class Clock(Protocol):
    """Two clocks: `monotonic` to measure spans, `wall` to name instants; both in seconds."""

    def monotonic(self) -> float:
        """Seconds that never go back; the origin means nothing."""
        ...

    def wall(self) -> float:
        """Seconds since the epoch, UTC; may jump."""
        ...


class Random(Protocol):
    """The part of `random.Random` that the product draws chance from."""

    def random(self) -> float:
        """Return a float in [0, 1)."""
        ...

    def uniform(self, a: float, b: float, /) -> float:
        """Return a float between a and b."""
        ...

    def getrandbits(self, k: int, /) -> int:
        """Return k random bits."""
        ...


class Telemetry(Protocol):
    """Where the product says what happens: one log line per unit of work, counters and gauges.

    Names are noun + past participle (`batch_sent`, `lease_lost`); fields never hold payload, raw IPs or user ids.
    """

    def info(self, event: str, **fields: Any) -> None:
        """Say what happened as intended."""
        ...

    def warning(self, event: str, **fields: Any) -> None:
        """Say something unexpected happened and nothing was lost."""
        ...

    def error(self, event: str, **fields: Any) -> None:
        """Say that data was lost or an operator is needed."""
        ...

    def count(self, metric: str, amount: float = 1, **labels: str) -> None:
        """Add to a counter."""
        ...

    def gauge(self, metric: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        ...


class Kinesis(Protocol):
    """The data plane and the read side of the control plane of Kinesis Data Streams.

    Every method may raise a `ServiceError`; whether to try again is its class attribute `retryable`. No method
    retries by itself. `AmbiguousCallError` means that the call may have landed.
    """

    async def put_record(self, stream: str, entry: PutEntry) -> PutResult:
        """Put one record (PutRecord); a refusal is an error, never a result with an error code."""
        ...

    async def put_records(self, stream: str, entries: Sequence[PutEntry]) -> Sequence[PutResult]:
        """Put up to 500 records, at most 10 MiB; one result per entry, in their order."""
        ...

    async def describe_stream(self, stream: str) -> StreamSummary:
        """Describe the stream (DescribeStreamSummary)."""
        ...

    async def list_shards(self, stream: str) -> tuple[Shard, ...]:
        """List all shards within retention, open and closed, every page."""
        ...

    async def get_shard_iterator(self, stream: str, shard_id: str, start: Start) -> str:
        """Return an iterator that is valid for five minutes."""
        ...

    async def get_records(self, stream: str, iterator: str, limit: int) -> RecordPage:
        """Read up to `limit` records, at most 10 MiB."""
        ...


class Subscription(Protocol):
    """An open SubscribeToShard call, read by one reader; the service ends it after five minutes at the latest."""

    async def next_event(self) -> RecordPage | None:
        """Wait for the next event, which may be empty; None once the service has ended the subscription.

        Raises a `ServiceError`. After an error or a cancelled wait the subscription is only good to be closed.
        """
        ...

    async def close(self) -> None:
        """Give the connection back; a second call does nothing."""
        ...


class FanOut(Protocol):
    """Enhanced fan-out: registered consumers, to which shards are pushed at a throughput of their own.

    Errors as in `Kinesis`; no method retries by itself.
    """

    async def describe_consumer(self, stream_arn: str, name: str) -> StreamConsumer | None:
        """Look for a consumer (DescribeStreamConsumer)."""
        ...

    async def register_consumer(self, stream_arn: str, name: str) -> StreamConsumer:
        """Register a consumer (RegisterStreamConsumer).

        ThrottledError with the code ResourceInUseException if it is there already, with LimitExceededException if the
        stream has 20.
        """
        ...

    async def subscribe_to_shard(self, consumer_arn: str, shard_id: str, start: Start) -> Subscription:
        """Take over the one subscription that a consumer may have to a shard.

        ThrottledError with the code ResourceInUseException within five seconds of the subscription before, whoever
        made it.
        """
        ...


class ConditionFailedError(Exception):
    """A conditional write was refused; `current` is the stored row at that moment, None if there is none.

    Not a HeadraceError: it is an answer, which the caller always handles.
    """

    def __init__(self, current: Lease | None) -> None:
        super().__init__("the condition of a lease write does not hold")
        self.current = current


class LeaseStore(Protocol):
    """The lease table of one application: rows by shard id, conditional writes, strongly consistent reads."""

    async def list_leases(self) -> tuple[Lease, ...]:
        """Read all rows; InvalidRequestError if one is damaged."""
        ...

    async def list_rows(self) -> TableRows:
        """Read all rows and presences; damaged rows are only named."""
        ...

    async def replace_damaged(self, lease: Lease) -> bool:
        """Put `lease` in the place of a row that can't be read, at a higher epoch; False if it can be read now."""
        ...

    async def write_presence(self, presence: Presence) -> None:
        """Say that a worker is there."""
        ...

    async def delete_presence(self, worker_id: str, heartbeat: int | None = None) -> None:
        """Take a presence away; with `heartbeat`, only one that stands still there."""
        ...

    async def read_lease(self, shard_id: str) -> Lease | None:
        """Read one row."""
        ...

    async def create_lease(self, lease: Lease) -> None:
        """Write a row if there is none; `ConditionFailedError` otherwise."""
        ...

    async def update_lease(self, shard_id: str, expectation: LeaseExpectation, change: LeaseChange) -> Lease:
        """Apply `change` if the row exists and `expectation` holds; return the new row.

        `ConditionFailedError` carries the stored row otherwise.
        """
        ...

    async def delete_lease(self, shard_id: str, expectation: LeaseExpectation) -> None:
        """Delete a row if `expectation` holds; `ConditionFailedError` otherwise."""
        ...

    async def read_application(self) -> Mapping[str, Any] | None:
        """Read what the application said of itself (streams, bucket, prefix), if it ever ran."""
        ...

    async def write_application(self, description: Mapping[str, Any]) -> Mapping[str, Any]:
        """Store what the application says of itself, unless it said before to read another `source_stream`.

        Returns what is stored then.
        """
        ...

    async def delete_application(self) -> None:
        """Take away what the application said of itself, and the columns of its archive."""
        ...

    async def hold_schema(self, schema: str) -> str:
        """Store the columns of the archive unless there are some; return those that are stored."""
        ...


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An S3 object's key and size in bytes."""

    key: str
    size: int

    @property
    def is_folder(self) -> bool:
        """Whether it only stands for a folder, as S3's console makes one for each that somebody adds."""
        return self.key.endswith("/") and not self.size


class ObjectStore(Protocol):
    """One S3 bucket."""

    async def put_object(
        self,
        key: str,
        body: bytes,
        *,
        content_type: str,
        content_encoding: str = "",
        only_if_absent: bool = True,
    ) -> bool:
        """Write an object; with `only_if_absent`, False says that the key existed and nothing was written."""
        ...

    async def check_write(self, key: str) -> None:
        """Raise what a write of `key` would raise where there is no bucket, or no permission; nothing is written."""
        ...

    async def abort_uploads(self, keys: Collection[str]) -> int:
        """Abort unfinished uploads to `keys`, which a writer left behind when it died; return how many."""
        ...

    async def get_object(self, key: str) -> bytes:
        """Read a whole object."""
        ...

    def list_objects(self, prefix: str) -> AsyncGenerator[StoredObject, None]:
        """Walk all objects below `prefix` in key order."""
        ...


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """What tells one file from another across renames; `size` in bytes at the time of asking."""

    device: int
    inode: int
    size: int


class ReadableFile(Protocol):
    """An open file that stays readable after it was renamed or deleted."""

    async def read_at(self, offset: int, size: int) -> bytes:
        """Read up to `size` bytes at `offset`; empty at the end."""
        ...

    async def identify(self) -> FileIdentity:
        """Return the identity and present size of the open file."""
        ...

    async def close(self) -> None:
        """Give the file back; a second call does nothing."""
        ...


class Files(Protocol):
    """The disk. Every method may raise OSError."""

    async def open(self, path: str) -> ReadableFile:
        """Open a regular file for reading."""
        ...

    async def identify(self, path: str) -> FileIdentity | None:
        """Return the identity of the file at `path` now; None if there is none."""
        ...

    async def list_folder(self, path: str) -> tuple[str, ...]:
        """Return the names in a folder, sorted."""
        ...

    async def read_all(self, path: str, bytes_max: int) -> bytes | None:
        """Read a small file whole; None if there is none."""
        ...

    async def write_atomically(self, path: str, data: bytes) -> None:
        """Replace a file durably: temporary file, fsync, rename, fsync of the folder."""
        ...

    async def append(self, path: str, data: bytes, *, durable: bool) -> None:
        """Append to a file, creating it; with `durable`, fsync before returning."""
        ...


class RecordSink(Protocol):
    """What takes records for a stream and says later what became of each: our producer, seen from the consumer."""

    async def put(self, data: bytes, partition_key: str, receipt: Receipt, token: Any) -> None:
        """Accept one record, waiting for room; `receipt(token, outcome)` is called once, later, from the loop."""
        ...

    async def put_all(
        self, datas: Sequence[bytes], partition_keys: Sequence[str], receipt: Receipt, token: Any
    ) -> None:
        """Accept many records in their order, each as `put` does; one token serves them all.

        None is refused by an error: one that the stream would not take gets its receipt as Undeliverable.
        """
        ...

    async def flush(self, deadline_seconds: float) -> int:
        """Wait until nothing is pending or the deadline passes; return how many are still pending."""
        ...


class Delivered(NamedTuple):
    """A record was acknowledged at this place."""

    shard_id: str
    sequence_number: int


@dataclass(frozen=True, slots=True)
class Undeliverable:
    """A record can never be delivered (too large, bad key); it belongs into the dead letters.

    `data` is the record, where the service refused it: who put it may not have it any more.
    """

    error_code: str
    error_message: str
    data: bytes = b""


Outcome = Delivered | Undeliverable


class Receipt(Protocol):
    """Told exactly once of each accepted record, in no particular order between lanes; must not block or raise."""

    def __call__(self, token: Any, outcome: Outcome, count: int = 1, /) -> None:
        """Take the outcome of the record, or of so many records, that were put with `token`."""
        ...
