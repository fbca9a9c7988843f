"""Which lane a partition key belongs to, as far as Kinesis would take it."""

from __future__ import annotations

from typing import Final

from shared.errors import PartitionKeyError
from shared.hash_key import hash_key_of
from shared.lanes import LaneDivision
from shared.limits import HASH_KEY_MAX, PARTITION_KEY_CHARACTERS_MAX

KEYS_KEPT_MAX: Final = 65_536


class LaneIndexes(dict[str, int]):
    """The parts of lanes of the partition keys that were seen last; PartitionKeyError where Kinesis takes none."""

    def __init__(self, division: LaneDivision) -> None:
        super().__init__()
        self._division = division

    def __missing__(self, partition_key: str) -> int:
        index = self._division.index_of(checked_hash_key(partition_key))
        if len(self) >= KEYS_KEPT_MAX:
            self.clear()
        self[partition_key] = index
        return index


def checked_hash_key(partition_key: str) -> int:
    """Return the hash key of a partition key; PartitionKeyError if Kinesis would not take it."""
    if not 0 < len(partition_key) <= PARTITION_KEY_CHARACTERS_MAX:
        msg = (
            f"the partition key has {len(partition_key):,} characters; 1 to {PARTITION_KEY_CHARACTERS_MAX} are allowed"
        )
        hint = "Add one" if not partition_key else "Put with a shorter key, e.g. a hash of this one"
        raise PartitionKeyError(msg, hint=hint)
    try:
        return hash_key_of(partition_key)
    except UnicodeEncodeError:
        msg = "the partition key holds a lone surrogate, which UTF-8 can't express"
        raise PartitionKeyError(
            msg, hint="Read the text with another encoding, or replace what can't be read"
        ) from None


def check_explicit_hash_key(explicit_hash_key: int) -> None:
    """Raise PartitionKeyError for an explicit hash key that Kinesis would not take."""
    if not 0 <= explicit_hash_key <= HASH_KEY_MAX:
        msg = f"explicit hash key {explicit_hash_key} is not inside 0..2^128-1"
        raise PartitionKeyError(msg, hint="Take the starting hash key of the shard that is meant")
