"""The Kinesis port over aiobotocore."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shared.aws.error_map import aws_errors
from shared.hash_key import FULL_RANGE, HashKeyRange
from shared.limits import KIB, LIST_SHARDS_COUNT_MAX, RECORD_BYTES_MAX_DEFAULT, RETENTION_HOURS_DEFAULT
from shared.records import (
    ChildShard,
    Distribution,
    PutEntry,
    PutResult,
    RecordPage,
    Shard,
    Start,
    StartKind,
    StreamRecord,
    StreamSummary,
)


class KinesisAdapter:
    """Kinesis Data Streams through an aiobotocore client whose own retries are off."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def put_record(self, stream: str, entry: PutEntry) -> PutResult:
        """Put one record (PutRecord)."""
        with aws_errors("kinesis", "PutRecord", stream):
            answer = await self._client.put_record(StreamName=stream, **_entry_to_wire(entry))
        return PutResult(shard_id=answer["ShardId"], sequence_number=int(answer["SequenceNumber"]))

    async def put_records(self, stream: str, entries: Sequence[PutEntry]) -> Sequence[PutResult]:
        """Put up to 500 records (PutRecords); one result per entry, in their order."""
        with aws_errors("kinesis", "PutRecords", stream):
            answer = await self._client.put_records(
                StreamName=stream, Records=[_entry_to_wire(entry) for entry in entries]
            )
        return [_result_from_wire(each) for each in answer["Records"]]

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
        with aws_errors("kinesis", "GetRecords", stream):
            answer = await self._client.get_records(ShardIterator=iterator, Limit=limit)
        return RecordPage(
            records=tuple(
                StreamRecord(
                    each["Data"],
                    each["PartitionKey"],
                    int(each["SequenceNumber"]),
                    each.get("ApproximateArrivalTimestamp", 0.0),
                )
                for each in answer["Records"]
            ),
            next_iterator=answer.get("NextShardIterator"),
            behind_milliseconds=answer.get("MillisBehindLatest", 0),
            child_shards=tuple(
                ChildShard(each["ShardId"], tuple(each["ParentShards"]), _range_from_wire(each["HashKeyRange"]))
                for each in answer.get("ChildShards") or ()
            ),
        )


def _entry_to_wire(entry: PutEntry) -> dict[str, Any]:
    wire: dict[str, Any] = {"Data": entry.data, "PartitionKey": entry.partition_key}
    if entry.explicit_hash_key is not None:
        wire["ExplicitHashKey"] = str(entry.explicit_hash_key)
    return wire


def _result_from_wire(wire: Any) -> PutResult:
    code = wire.get("ErrorCode")
    if code:
        return PutResult(error_code=code, error_message=wire.get("ErrorMessage") or "")
    return PutResult(shard_id=wire["ShardId"], sequence_number=int(wire["SequenceNumber"]))


def _range_from_wire(wire: Any) -> HashKeyRange:
    if not wire:
        return FULL_RANGE
    return HashKeyRange(int(wire["StartingHashKey"]), int(wire["EndingHashKey"]))


def _shard_from_wire(wire: Any) -> Shard:
    numbers = wire["SequenceNumberRange"]
    ending = numbers.get("EndingSequenceNumber")
    return Shard(
        shard_id=wire["ShardId"],
        hash_key_range=_range_from_wire(wire["HashKeyRange"]),
        parent_shard_id=wire.get("ParentShardId"),
        adjacent_parent_shard_id=wire.get("AdjacentParentShardId"),
        starting_sequence_number=int(numbers["StartingSequenceNumber"]),
        ending_sequence_number=int(ending) if ending else None,
    )
