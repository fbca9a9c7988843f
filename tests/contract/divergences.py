"""The answers in which the sites part, each with a probe that shows it and the sentence of the API that decides."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from shared.limits import GET_RECORDS_COUNT_MAX, HASH_KEY_MAX, MIB, RECORD_BYTES_MAX_DEFAULT
from shared.ports import Kinesis
from shared.records import TRIM_HORIZON, PutEntry, RecordPage, Start, StartKind
from tests.contract.answer import Refused, answer_of
from tests.contract.sites import Site, WireSite

_ENTRY: Final = PutEntry(b"x", "key")


@dataclass(frozen=True, slots=True)
class Divergence:
    """One row of DIVERGENCES.md: what a probe answers at each site (None: not asked there)."""

    operation: str
    probe: Callable[[Site, str], Awaitable[str]]
    fake: str | None
    cloud: str
    moto: str
    right: str
    service: str
    sentence: str  # verbatim from botocore's service model, or from its list of constraints

    def expected(self, site: str) -> str | None:
        """Return what a site is said to answer."""
        found: str | None = getattr(self, site)
        return found


async def _stream(site: Site, name: str, shards: int = 1) -> Kinesis:
    await site.create_stream(name, shards)
    return await site.kinesis()


async def _say(call: Callable[[], Awaitable[object]]) -> str:
    answer = await answer_of(call)
    return answer.error if isinstance(answer, Refused) else "accepted"


async def _read(port: Kinesis, stream: str, shard: int, start: Start = TRIM_HORIZON, limit: int = 10_000) -> RecordPage:
    shards = sorted(each.shard_id for each in await port.list_shards(stream))
    return await port.get_records(stream, await port.get_shard_iterator(stream, shards[shard], start), limit)


async def _put(site: Site, name: str, entries: Sequence[PutEntry]) -> str:
    port = await _stream(site, name)
    said = await _say(lambda: port.put_records(name, entries))
    stored = len((await _read(port, name, 0)).records)
    return f"{said}, {stored} stored"


async def _put_none(site: Site, name: str) -> str:
    return await _put(site, name, ())


async def _put_empty_key(site: Site, name: str) -> str:
    return await _put(site, name, (PutEntry(b"x", ""),))


async def _put_one_bad(site: Site, name: str) -> str:
    return await _put(site, name, (_ENTRY, PutEntry(b"x", "k" * 257)))


async def _put_batch_of_six_mebibytes(site: Site, name: str) -> str:
    return await _put(site, name, (PutEntry(bytes(MIB - 3), "key"),) * 6)


async def _put_too_large(site: Site, name: str) -> str:
    port = await _stream(site, name)
    return await _say(lambda: port.put_record(name, PutEntry(bytes(RECORD_BYTES_MAX_DEFAULT), "key")))


async def _put_at_last_hash_key(site: Site, name: str) -> str:
    port = await _stream(site, name)
    return await _say(lambda: port.put_record(name, PutEntry(b"x", "key", HASH_KEY_MAX)))


async def _numbers(site: Site, name: str) -> str:
    port = await _stream(site, name, shards=2)
    results = [await port.put_record(name, PutEntry(b"x", "key", at)) for at in (0, HASH_KEY_MAX - 1)]
    return "one number in two shards" if len({each.sequence_number for each in results}) == 1 else "two numbers"


async def _put_after_split(site: Site, name: str) -> str:
    port = await _stream(site, name)
    parent = (await port.put_record(name, _ENTRY)).shard_id
    await site.split_shard(name, parent, 1 << 127)
    result = await port.put_record(name, _ENTRY)
    return "to the closed parent" if result.shard_id == parent else "to a child"


async def _end_of_parent(site: Site, name: str) -> str:
    port = await _stream(site, name)
    parent = (await port.put_record(name, _ENTRY)).shard_id
    await site.split_shard(name, parent, 1 << 127)
    page = await _read(port, name, 0)
    return f"{'goes on' if page.next_iterator else 'ends'}, {len(page.child_shards)} children named"


async def _merge(site: Site, name: str) -> str:
    port = await _stream(site, name, shards=2)
    await port.put_record(name, PutEntry(b"x", "key", 0))
    low, high = sorted(each.shard_id for each in await port.list_shards(name))
    await site.merge_shards(name, low, high)
    return f"the child begins with {len((await _read(port, name, 2)).records)} records"


async def _read_with(site: Site, name: str, start: Start, limit: int = 10) -> str:
    port = await _stream(site, name)
    await port.put_record(name, _ENTRY)
    return await _say(lambda: _read(port, name, 0, start, limit))


async def _limit_too_high(site: Site, name: str) -> str:
    return await _read_with(site, name, TRIM_HORIZON, GET_RECORDS_COUNT_MAX + 1)


async def _future(site: Site, name: str) -> str:
    return await _read_with(site, name, Start(StartKind.AT_TIMESTAMP, timestamp=3_000_000_000.0))


async def _foreign_number(site: Site, name: str) -> str:
    return await _read_with(site, name, Start(StartKind.AFTER_SEQUENCE_NUMBER, sequence_number=1 << 200))


async def _no_iterator(site: Site, name: str) -> str:
    port = await _stream(site, name)
    return await _say(lambda: port.get_records(name, "no-such-iterator", 10))


async def _page_bytes(site: Site, name: str) -> str:
    port = await _stream(site, name)
    for _ in range(11):
        await port.put_record(name, PutEntry(bytes(MIB - 3), "key"))
    return f"{len((await _read(port, name, 0)).records)} MiB in one page"


async def _second_page(site: Site, name: str) -> str:
    """Only what speaks the wire has pages; asked of the client, since the adapter asks for long ones."""
    assert isinstance(site, WireSite)
    await site.create_stream(name, 5)
    client = site.clients["kinesis"]
    first = await client.list_shards(StreamName=name, MaxResults=2)
    try:
        await client.list_shards(NextToken=first["NextToken"], MaxResults=2)
    except client.exceptions.ClientError as error:
        return str(error.response["Error"]["Code"])
    return "accepted"


async def _line_break_in_key(site: Site, name: str) -> str:
    port = await site.objects(name)
    return await _say(lambda: port.put_object("a\nb", b"", content_type="text/plain"))


_INVALID: Final = "InvalidRequestError"
_FOREIGN: Final = "ForeignPositionError"
_OURS: Final = "fake, local cloud"

DIVERGENCES: Final = (
    Divergence(
        "PutRecords without a record",
        _put_none,
        f"{_INVALID}, 0 stored",
        f"{_INVALID}, 0 stored",
        "accepted, 0 stored",
        _OURS,
        "kinesis",
        "PutRecordsRequestEntryList: min 1",
    ),
    Divergence(
        "PutRecords with an empty partition key",
        _put_empty_key,
        f"{_INVALID}, 0 stored",
        f"{_INVALID}, 0 stored",
        "accepted, 1 stored",
        _OURS,
        "kinesis",
        "PartitionKey: min 1",
    ),
    Divergence(
        "PutRecords with one entry that breaks a constraint",
        _put_one_bad,
        f"{_INVALID}, 0 stored",
        f"{_INVALID}, 0 stored",
        f"{_INVALID}, 1 stored",
        _OURS,
        "kinesis",
        "ErrorCode reflects the type of error and can be one of the following values: "
        "ProvisionedThroughputExceededException or InternalFailure.",
    ),
    Divergence(
        "PutRecords of 6 MiB",
        _put_batch_of_six_mebibytes,
        "accepted, 6 stored",
        "accepted, 6 stored",
        f"{_INVALID}, 0 stored",
        _OURS,
        "kinesis",
        "Each record in the request can be as large as 10 MiB, up to a limit of 10 MiB for the entire request, "
        "including partition keys.",
    ),
    Divergence(
        "PutRecord of more than 1 MiB",
        _put_too_large,
        _INVALID,
        _INVALID,
        "accepted",
        _OURS,
        "kinesis",
        "Each data record can be up to 1 MiB in size by default.",
    ),
    Divergence(
        "PutRecord at the last hash key of a shard",
        _put_at_last_hash_key,
        "accepted",
        "accepted",
        "AmbiguousCallError",
        _OURS,
        "kinesis",
        "You can override hashing the partition key to determine the shard by explicitly specifying a hash value "
        "using the ExplicitHashKey parameter.",
    ),
    Divergence(
        "sequence numbers of two shards",
        _numbers,
        "two numbers",
        "two numbers",
        "one number in two shards",
        _OURS,
        "kinesis",
        "The sequence number for the record is unique across all records in the stream.",
    ),
    Divergence(
        "PutRecord after SplitShard",
        _put_after_split,
        "to a child",
        "to a child",
        "to the closed parent",
        _OURS,
        "kinesis",
        "The NewStartingHashKey hash key value and all higher hash key values in hash key range are distributed to "
        "one of the child shards.",
    ),
    Divergence(
        "GetRecords at the end of a closed shard",
        _end_of_parent,
        "ends, 2 children named",
        "ends, 2 children named",
        "goes on, 0 children named",
        _OURS,
        "kinesis",
        "If the shard has been closed, the shard iterator can't return more data and GetRecords returns null in "
        "NextShardIterator.",
    ),
    Divergence(
        "GetRecords of the child of a merge",
        _merge,
        "the child begins with 0 records",
        "the child begins with 0 records",
        "the child begins with 1 records",
        _OURS,
        "kinesis",
        "After the merge, the single child shard receives data for all hash key values covered by the two parent "
        "shards.",
    ),
    Divergence(
        "GetRecords with a limit of 10,001",
        _limit_too_high,
        _INVALID,
        _INVALID,
        "accepted",
        _OURS,
        "kinesis",
        "GetRecordsInputLimit: max 10000",
    ),
    Divergence(
        "GetRecords with an iterator that nobody issued",
        _no_iterator,
        _INVALID,
        _INVALID,
        "AmbiguousCallError",
        _OURS,
        "kinesis",
        "A specified parameter exceeds its restrictions, is not supported, or can't be used.",
    ),
    Divergence(
        "GetRecords where 11 MiB wait",
        _page_bytes,
        "10 MiB in one page",
        "10 MiB in one page",
        "11 MiB in one page",
        _OURS,
        "kinesis",
        "The maximum size of data that GetRecords can return is 10 MiB.",
    ),
    Divergence(
        "GetShardIterator AT_TIMESTAMP in the future",
        _future,
        _INVALID,
        _INVALID,
        "accepted",
        "open (Kinesis is known to refuse it)",
        "kinesis",
        "The time stamp of the data record from which to start reading.",
    ),
    Divergence(
        "GetShardIterator AFTER_SEQUENCE_NUMBER, a number that the stream never gave",
        _foreign_number,
        _FOREIGN,
        _FOREIGN,
        "accepted",
        _OURS,
        "kinesis",
        "The sequence number of the data record in the shard from which to start reading.",
    ),
    Divergence(
        "ListShards, second page",
        _second_page,
        None,
        "accepted",
        "InvalidToken",
        "local cloud",
        "kinesis",
        "Don't specify StreamName or StreamCreationTimestamp if you specify NextToken because the latter "
        "unambiguously identifies the stream.",
    ),
    Divergence(
        "PutObject with a line break in the key",
        _line_break_in_key,
        "accepted",
        "BucketNotFoundError",
        "BucketNotFoundError",
        "fake (S3 User Guide, naming objects: any UTF-8)",
        "s3",
        "",
    ),
)

_HEADER: Final = """# Where the fakes, the local cloud and moto part

Written by `tests/contract/divergences.py`; a test probes every row again, so none can outlive its cause. The sentences
are AWS's, from the service models that botocore ships; "X: min 1" is a constraint of a shape there.

| operation | fake | local cloud | moto | right | the API's own words |
|---|---|---|---|---|---|
"""

_FOOTER: Final = """
Random scripts run at all three sites where moto can follow. They leave out for moto: splits and merges, time that
passes (moto has no clock that a test could turn, and its iterators never expire), the timestamps of records, small
ListShards pages, the last hash key of a shard, and every refusal above. Of the fakes alone there is no missing table
or bucket: a fake is one table, one bucket.

Not compared anywhere, since the API leaves it open: the value of MillisBehindLatest (whether it is zero is
compared), the digits of sequence numbers, the text of messages, a sequence number of another shard of the same stream.
"""


def document() -> str:
    """Return the text of DIVERGENCES.md."""
    rows = [
        f"| {each.operation} | {each.fake or 'no pages'} | {each.cloud} | {each.moto} | {each.right} | "
        f"{each.sentence or 'none in the service model'} |"
        for each in DIVERGENCES
    ]
    return _HEADER + "\n".join(rows) + "\n" + _FOOTER


if __name__ == "__main__":
    sys.stdout.write(document())
