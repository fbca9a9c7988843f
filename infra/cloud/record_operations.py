"""The operations on records and shard iterators: from a request's members to the engine and back.

`DryRun`, which only checks permissions on AWS, is ignored: there are none to check here.
"""

from __future__ import annotations

from typing import Any

from infra.cloud.core.api_error import validation_failed
from infra.cloud.core.consumer import ChildShard
from infra.cloud.core.engine import KinesisEngine
from infra.cloud.core.reading import StartingPosition
from infra.cloud.core.shard_log import StoredRecord
from infra.cloud.core.writing import PutEntry
from infra.cloud.fields import Fields
from infra.cloud.wire import Dialect, malformed
from shared.limits import GET_RECORDS_COUNT_MAX, PUT_RECORDS_COUNT_MAX

Answer = dict[str, Any]


def put_record(engine: KinesisEngine, request: Fields) -> Answer:
    """PutRecord."""
    stream_name = request.stream()
    entry = _entry(request.values, request.dialect)
    outcome = engine.put_record(
        stream_name,
        entry.data,
        entry.partition_key,
        entry.explicit_hash_key,
        request.text("SequenceNumberForOrdering"),
    )
    return {
        "ShardId": outcome.shard_id,
        "SequenceNumber": outcome.sequence_number,
        "EncryptionType": engine.describe_stream(stream_name).encryption_type,
    }


def put_records(engine: KinesisEngine, request: Fields) -> Answer:
    """PutRecords."""
    stream_name = request.stream()
    records = request.values.get("Records")
    if records is None:
        validation_failed("null", "records", "Member must not be null")
    if not isinstance(records, list):
        raise malformed("Records is not a list.")
    if len(records) > PUT_RECORDS_COUNT_MAX:
        validation_failed(f"{len(records)} records", "records", "Member must have length less than or equal to 500")
    dialect = request.dialect
    outcomes = engine.put_records(stream_name, [_entry(each, dialect) for each in records])
    answers: list[Answer] = []
    failed = 0
    for shard_id, sequence_number, code, message in outcomes:
        if code is None:
            answers.append({"SequenceNumber": sequence_number, "ShardId": shard_id})
        else:
            failed += 1
            answers.append({"ErrorCode": code, "ErrorMessage": message})
    encryption = engine.describe_stream(stream_name).encryption_type
    return {"FailedRecordCount": failed, "Records": answers, "EncryptionType": encryption}


def _entry(values: object, dialect: Dialect) -> PutEntry:
    if not isinstance(values, dict):
        raise malformed("A record is not a structure.")
    blob = values.get("Data")
    if blob is None:
        validation_failed("null", "data", "Member must not be null")
    data = dialect.read_blob(blob)
    if data is None:
        raise malformed("Data is not a blob.")
    key, explicit = values.get("PartitionKey"), values.get("ExplicitHashKey")
    if (key is not None and not isinstance(key, str)) or (explicit is not None and not isinstance(explicit, str)):
        raise malformed("PartitionKey or ExplicitHashKey is not a string.")
    return PutEntry(data, key, explicit)


def starting_position(fields: Fields, type_name: str, number_name: str) -> StartingPosition:
    """The starting position in a GetShardIterator or SubscribeToShard request."""
    return StartingPosition(fields.required_text(type_name), fields.text(number_name), fields.timestamp("Timestamp"))


def get_shard_iterator(engine: KinesisEngine, request: Fields) -> Answer:
    """GetShardIterator."""
    start = starting_position(request, "ShardIteratorType", "StartingSequenceNumber")
    return {"ShardIterator": engine.get_shard_iterator(request.stream(), request.required_text("ShardId"), start)}


def get_records(engine: KinesisEngine, request: Fields) -> Answer:
    """GetRecords."""
    limit = request.integer("Limit")
    page = engine.get_records(request.required_text("ShardIterator"), GET_RECORDS_COUNT_MAX if limit is None else limit)
    answer: Answer = {
        "Records": [record_answer(each, request.dialect) for each in page.records],
        "MillisBehindLatest": page.millis_behind_latest,
    }
    if page.next_iterator is not None:
        answer["NextShardIterator"] = page.next_iterator
    if page.child_shards:
        answer["ChildShards"] = [child_answer(each) for each in page.child_shards]
    return answer


def record_answer(record: StoredRecord, dialect: Dialect) -> Answer:
    """A record as GetRecords and SubscribeToShard show it (EncryptionType is left out, as AWS does for NONE)."""
    return {
        "SequenceNumber": record.sequence_number,
        "ApproximateArrivalTimestamp": dialect.timestamp(record.arrival),
        "Data": dialect.blob(record.data),
        "PartitionKey": record.partition_key,
    }


def child_answer(child: ChildShard) -> Answer:
    """A child shard as it is named at the end of its parent."""
    return {
        "ShardId": child.shard_id,
        "ParentShards": list(child.parent_ids),
        "HashKeyRange": {"StartingHashKey": str(child.start), "EndingHashKey": str(child.end)},
    }
