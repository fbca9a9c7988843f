"""The Kinesis port over aiobotocore."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shared.aws.cbor import CBOR_TYPE, get_records_cbor, put_records_cbor
from shared.aws.cbor_page import parse_record_page_cbor
from shared.aws.direct_call import DirectCall
from shared.aws.error_map import aws_errors
from shared.aws.kinesis_wire import parse_put_results, parse_put_results_cbor, put_records_body, put_results, understand
from shared.aws.record_page import (
    get_records_body,
    hash_key_range,
    parse_record_page,
    plain_numbers,
    record_page,
)
from shared.limits import KIB, LIST_SHARDS_COUNT_MAX, RECORD_BYTES_MAX_DEFAULT, RETENTION_HOURS_DEFAULT
from shared.records import (
    Distribution,
    PutEntry,
    PutResult,
    RecordPage,
    Shard,
    Start,
    StartKind,
    StreamRecords,
    StreamSummary,
    Wire,
)


class KinesisAdapter:
    """Kinesis Data Streams through an aiobotocore client whose own retries are off.

    PutRecords and GetRecords take the direct way once the client's first call has shown it; then `puts` and `reads`
    say how they are written. Everything else is JSON.
    """

    def __init__(self, client: Any, puts: Wire = Wire.JSON, reads: Wire = Wire.JSON) -> None:
        self._client = client
        self._puts = puts
        self._reads = reads
        self._direct_put = DirectCall(client, "PutRecords")
        self._direct_get = DirectCall(client, "GetRecords")

    async def put_record(self, stream: str, entry: PutEntry) -> PutResult:
        """Put one record (PutRecord)."""
        with aws_errors("kinesis", "PutRecord", stream):
            answer = await self._client.put_record(StreamName=stream, **_entry_to_wire(entry))
        return PutResult(shard_id=answer["ShardId"], sequence_number=int(answer["SequenceNumber"]))

    async def put_records(self, stream: str, entries: Sequence[PutEntry]) -> Sequence[PutResult]:
        """Put up to 500 records (PutRecords); one result per entry, in their order."""
        direct = self._direct_put

        async def ordinary() -> Any:
            records = [_entry_to_wire(entry) for entry in entries]
            return await self._client.put_records(StreamName=stream, Records=records)

        with aws_errors("kinesis", "PutRecords", stream):
            if direct.is_ready and self._puts is Wire.CBOR:
                return parse_put_results_cbor(await direct.send(put_records_cbor(stream, entries), CBOR_TYPE))
            if direct.is_ready:
                return parse_put_results(await direct.send(put_records_body(stream, entries)))
            is_new = direct.is_possible
            answer = await (direct.learn(ordinary, put_records_body(stream, entries)) if is_new else ordinary())
            return understand(put_results, answer, "PutRecords")

    async def describe_stream(self, stream: str) -> StreamSummary:
        """Describe the stream (DescribeStreamSummary)."""
        with aws_errors("kinesis", "DescribeStreamSummary", stream):
            answer = await self._client.describe_stream_summary(StreamName=stream)
        summary = answer["StreamDescriptionSummary"]
        size = summary.get("MaxRecordSizeInKiB")
        return StreamSummary(
            stream_name=summary["StreamName"],
            stream_arn=summary["StreamARN"],
            status=summary["StreamStatus"],
            open_shard_count=summary["OpenShardCount"],
            retention_hours=summary.get("RetentionPeriodHours", RETENTION_HOURS_DEFAULT),
            record_bytes_max=size * KIB if size else RECORD_BYTES_MAX_DEFAULT,
            distribution=Distribution(
                summary.get("RecordDistributionStrategy") or Distribution.USER_PARTITION_KEY.value
            ),
        )

    async def list_shards(self, stream: str) -> tuple[Shard, ...]:
        """List all shards within retention, every page (a page token must travel alone: the API forbids both)."""
        shards: list[Shard] = []
        request: dict[str, Any] = {"StreamName": stream, "MaxResults": LIST_SHARDS_COUNT_MAX}
        while True:
            with aws_errors("kinesis", "ListShards", stream):
                answer = await self._client.list_shards(**request)
            shards.extend(_shard_from_wire(each) for each in answer["Shards"])
            token = answer.get("NextToken")
            if not token:
                return tuple(shards)
            request = {"NextToken": token, "MaxResults": LIST_SHARDS_COUNT_MAX}

    async def get_shard_iterator(self, stream: str, shard_id: str, start: Start) -> str:
        """Return an iterator that is valid for five minutes."""
        place: dict[str, Any] = {}
        if start.kind in {StartKind.AT_SEQUENCE_NUMBER, StartKind.AFTER_SEQUENCE_NUMBER}:
            place["StartingSequenceNumber"] = str(start.sequence_number)
        elif start.kind is StartKind.AT_TIMESTAMP:
            place["Timestamp"] = start.timestamp
        with aws_errors("kinesis", "GetShardIterator", stream):
            answer = await self._client.get_shard_iterator(
                StreamName=stream, ShardId=shard_id, ShardIteratorType=start.kind.value, **place
            )
        return str(answer["ShardIterator"])

    async def get_records(self, stream: str, iterator: str, limit: int) -> RecordPage:
        """Read up to `limit` records, at most 10 MiB."""
        direct = self._direct_get

        async def ordinary() -> Any:
            return await self._client.get_records(ShardIterator=iterator, Limit=limit)

        with aws_errors("kinesis", "GetRecords", stream):
            if direct.is_ready and self._reads is Wire.CBOR:
                return parse_record_page_cbor(await direct.send(get_records_cbor(iterator, limit), CBOR_TYPE))
            if direct.is_ready:
                return parse_record_page(await direct.send(get_records_body(iterator, limit)))
            is_new = direct.is_possible
            answer = await (direct.learn(ordinary, get_records_body(iterator, limit)) if is_new else ordinary())
            return understand(page_from_wire, answer, "GetRecords")


def _entry_to_wire(entry: PutEntry) -> dict[str, Any]:
    wire: dict[str, Any] = {"Data": entry.data, "PartitionKey": entry.partition_key}
    if entry.explicit_hash_key is not None:
        wire["ExplicitHashKey"] = str(entry.explicit_hash_key)
    return wire


def page_from_wire(answer: Any) -> RecordPage:
    """Return a GetRecords answer, or an event in its form, as botocore parsed it."""
    wire = answer["Records"]
    records = StreamRecords(
        [each["Data"] for each in wire],
        [each["PartitionKey"] for each in wire],
        plain_numbers([each["SequenceNumber"] for each in wire]),
        [each.get("ApproximateArrivalTimestamp", 0.0) for each in wire],
    )
    return record_page(answer, records)


def _shard_from_wire(wire: Any) -> Shard:
    numbers = wire["SequenceNumberRange"]
    ending = numbers.get("EndingSequenceNumber")
    return Shard(
        shard_id=wire["ShardId"],
        hash_key_range=hash_key_range(wire["HashKeyRange"]),
        parent_shard_id=wire.get("ParentShardId"),
        adjacent_parent_shard_id=wire.get("AdjacentParentShardId"),
        starting_sequence_number=int(numbers["StartingSequenceNumber"]),
        ending_sequence_number=int(ending) if ending else None,
    )
