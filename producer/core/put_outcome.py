"""What the answer to one entry of PutRecords means for the user records in it."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Final

from producer.core.shard_map import ShardMap
from shared.records import PutResult

THROTTLE_CODES: Final = frozenset({"ProvisionedThroughputExceededException", "ThrottlingException"})


class Verdict(Enum):
    """What has to be done with a stream record after its answer."""

    DELIVERED = "delivered"
    FAILED = "failed"  # the service refused it: send it again, unchanged
    MISPLACED = "misplaced"  # readers drop it, as a member lies outside the shard: send all members again
    UNKNOWN_SHARD = "unknown-shard"  # it landed where the map has no range yet: judge again with a newer map


def judge(result: PutResult, predicted: str | None, hash_keys: Iterable[int] | None, shard_map: ShardMap) -> Verdict:
    """Judge the answer for a stream record.

    `hash_keys` are those of its members, None if it is not an aggregate: a plain record is good wherever it lands.
    An aggregate that landed elsewhere than `predicted` is good only if every member lies inside the actual shard,
    because KCL drops an aggregate whole that has one member outside (AggregatorUtil.java).
    """
    if result.error_code:
        return Verdict.FAILED
    if hash_keys is None or result.shard_id == predicted:
        return Verdict.DELIVERED
    actual = shard_map.range_of(result.shard_id)
    if actual is None:
        return Verdict.UNKNOWN_SHARD
    return Verdict.DELIVERED if all(key in actual for key in hash_keys) else Verdict.MISPLACED
