"""A stream read whole with plain boto3, parents before children, so that the product's reader is not its own judge."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from infra.audit.core.lineage import lineage_order
from shared.aggregation import deaggregate
from shared.hash_key import HashKeyRange
from shared.records import StreamRecord

_PAGES_MAX: Final = 10_000


class Seen(NamedTuple):
    """One user record in the order of reading."""

    shard_id: str
    data: bytes
    event: dict[str, Any]


class WholeStream:
    """Reads on from where it was; `seen` is everything so far, shards in lineage order within one call of `read`."""

    def __init__(self, client: Any, stream: str) -> None:
        self._client = client
        self._stream = stream
        self._after: dict[str, str] = {}
        self._ended: set[str] = set()
        self.seen: list[Seen] = []

    def read(self) -> None:
        """Read every shard to where it ends now."""
        pages = self._client.get_paginator("list_shards").paginate(StreamName=self._stream)
        shards = {each["ShardId"]: each for page in pages for each in page["Shards"]}
        parents = {
            name: [each[key] for key in ("ParentShardId", "AdjacentParentShardId") if key in each]
            for name, each in shards.items()
        }
        for shard_id in lineage_order(parents):
            if shard_id not in self._ended:
                self.seen.extend(self._read_shard(shards[shard_id]))

    def _read_shard(self, shard: dict[str, Any]) -> Iterator[Seen]:
        shard_id, keys = shard["ShardId"], shard["HashKeyRange"]
        hash_keys = HashKeyRange(int(keys["StartingHashKey"]), int(keys["EndingHashKey"]))
        place: dict[str, Any] = {"ShardIteratorType": "TRIM_HORIZON"}
        if shard_id in self._after:
            place = {"ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "StartingSequenceNumber": self._after[shard_id]}
        iterator = self._client.get_shard_iterator(StreamName=self._stream, ShardId=shard_id, **place)["ShardIterator"]
        for _ in range(_PAGES_MAX):
            page = self._client.get_records(ShardIterator=iterator)
            for record in page["Records"]:
                self._after[shard_id] = record["SequenceNumber"]
                whole = StreamRecord(record["Data"], record["PartitionKey"], int(record["SequenceNumber"]), 0.0)
                for each in deaggregate(whole, hash_keys).records:
                    yield Seen(shard_id, each.data, json.loads(each.data))
            iterator = page.get("NextShardIterator")
            if iterator is None:
                self._ended.add(shard_id)
                return
            if not page["Records"] and not page["MillisBehindLatest"]:
                return
        message = f"shard {shard_id} had no end after {_PAGES_MAX} pages"
        raise AssertionError(message)


def first_occurrences(seen: list[Seen]) -> list[Seen]:
    """Return the records without repetitions, each where it came first; a repetition must be the same to the byte."""
    firsts: dict[str, Seen] = {}
    for each in seen:
        first = firsts.setdefault(each.event["event_id"], each)
        assert first.data == each.data
    return list(firsts.values())


def out_of_order(firsts: list[Seen]) -> int:
    """Count the records whose `n` is not above that of the record before it in their session."""
    last: dict[str, int] = {}
    count = 0
    for each in firsts:
        session, number = each.event["session_id"], each.event["n"]
        count += number <= last.get(session, -1)
        last[session] = max(number, last.get(session, -1))
    return count
