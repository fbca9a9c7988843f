"""The steps of a Kinesis script, naming shards by order of creation and records by shard and rank."""

from __future__ import annotations

from dataclasses import dataclass

from shared.records import PutEntry, StartKind

# A stream, a shard or an iterator that no site has.
NOWHERE = -1


@dataclass(frozen=True, slots=True)
class From:
    """Where a read begins.

    For the two sequence number kinds, `mark` says which number: "record" (of rank `rank`), "start" or "end" (those of
    the shard), "below" or "above" (none that the stream gave). For AT_TIMESTAMP, `seconds` counts from the script's
    beginning.
    """

    kind: StartKind
    mark: str = ""
    rank: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Put:
    """PutRecord (exactly one entry) or PutRecords; `stream` NOWHERE names one that does not exist."""

    entries: tuple[PutEntry, ...]
    is_single: bool
    stream: int = 0

    def __str__(self) -> str:
        shown = ", ".join(
            f"{len(each.data)} B key {each.partition_key[:8]!r} ({len(each.partition_key)}) at {each.explicit_hash_key}"
            for each in self.entries[:4]
        )
        return f"Put {len(self.entries)}{' single' if self.is_single else ''} stream {self.stream}: {shown}"


@dataclass(frozen=True, slots=True)
class Split:
    """SplitShard in front of the hash key `at`."""

    shard: int
    at: int
    stream: int = 0


@dataclass(frozen=True, slots=True)
class Merge:
    """MergeShards."""

    shard: int
    adjacent: int
    stream: int = 0


@dataclass(frozen=True, slots=True)
class Read:
    """GetShardIterator, then up to `pages` pages of at most `limit` records."""

    shard: int
    start: From
    limit: int
    pages: int
    stream: int = 0


@dataclass(frozen=True, slots=True)
class Keep:
    """GetShardIterator; the iterator stays in a slot."""

    slot: int
    shard: int
    start: From


@dataclass(frozen=True, slots=True)
class ReadKept:
    """GetRecords with the iterator of a slot; with `advance` the slot then holds the next one."""

    slot: int
    limit: int
    advance: bool


@dataclass(frozen=True, slots=True)
class ListShards:
    """ListShards, all pages."""

    stream: int = 0


@dataclass(frozen=True, slots=True)
class Describe:
    """DescribeStreamSummary."""

    stream: int = 0


@dataclass(frozen=True, slots=True)
class Turn:
    """Time passes."""

    seconds: float


Step = Put | Split | Merge | Read | Keep | ReadKept | ListShards | Describe | Turn
