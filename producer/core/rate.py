"""How much each shard may be sent now: its limits as token buckets, less what other producers seem to take."""

from __future__ import annotations

from collections.abc import Container, Sequence
from math import floor
from typing import Final

from shared.limits import SHARD_WRITE_BYTES_PER_SECOND, SHARD_WRITE_RECORDS_PER_SECOND

# The service's own bucket seems to hold a second (AWS: "per second"). A quarter leaves three for a network that bunches
# what left here evenly.
_BURST_SECONDS: Final = 0.25
_TICK_SECONDS: Final = 0.1  # shards that ran dry get on together, so that one request serves all of them
_WAIT_SECONDS_MAX: Final = 1.0  # then who waits asks again: the share grows, so that it may be long before it was due
_SHARE_MIN: Final = 0.02
_DECREASE: Final = 0.7
_INCREASE_PER_SECOND: Final = 0.05
_PERCENT: Final = 100


class ShardRate:
    """The allowance of one shard.

    Additive increase, multiplicative decrease (Chiu and Jain, 1989): a throttle that is news cuts the share of the
    limits to 70 %, each second gives 5 % of them back. A record of any size may leave a debt once the bucket is full.
    """

    __slots__ = ("_at", "_bytes", "_records", "_share_max", "claimed_until", "cut_at", "share")

    def __init__(self, share_max: float, now: float) -> None:
        self.share = share_max
        self.cut_at = -float("inf")
        self.claimed_until = -float("inf")  # whoever could not go until then has what is credited
        self._share_max = share_max
        self._at = now
        self._bytes = self._burst(SHARD_WRITE_BYTES_PER_SECOND)
        self._records = self._burst(SHARD_WRITE_RECORDS_PER_SECOND)

    def _burst(self, limit: int, seconds: float = _BURST_SECONDS + _TICK_SECONDS) -> float:
        # The wait for the next tick is no loss. At a small share, such a bucket could not hold one record.
        return max(1.0, limit * self._share_max * seconds)

    def refill(self, now: float) -> None:
        """Credit the time since the last call, at the share as it was then."""
        elapsed = now - self._at
        if elapsed <= 0:
            return
        self._at = now
        seconds = elapsed * self.share
        self.credit(seconds * SHARD_WRITE_BYTES_PER_SECOND, seconds * SHARD_WRITE_RECORDS_PER_SECOND)
        self.share = min(self._share_max, self.share + elapsed * _INCREASE_PER_SECOND * self._share_max)

    def credit(self, size: float, count: float) -> None:
        """Add so many bytes and records, as far as the bucket holds them."""
        self._bytes = min(self._burst(SHARD_WRITE_BYTES_PER_SECOND), self._bytes + size)
        self._records = min(self._burst(SHARD_WRITE_RECORDS_PER_SECOND), self._records + count)

    def missing_seconds(self, size: int, count: int = 1) -> float:
        """Return how long `count` records of `size` bytes have to wait; 0 if they may go now."""
        needed = min(float(size), self._burst(SHARD_WRITE_BYTES_PER_SECOND, _BURST_SECONDS)) - self._bytes
        seconds = max(needed / SHARD_WRITE_BYTES_PER_SECOND, (count - self._records) / SHARD_WRITE_RECORDS_PER_SECOND)
        return max(0.0, seconds / self.share)

    def take(self, size: int, count: int = 1) -> None:
        """Count records that are sent."""
        self._bytes -= size
        self._records -= count

    def cut(self, now: float) -> None:
        """Take note of a throttle: somebody else writes here, too, and what was saved up is gone."""
        self.refill(now)
        self.cut_at = now
        self.share = max(_SHARE_MIN * self._share_max, self.share * _DECREASE)
        self._bytes = min(self._bytes, 0.0)
        self._records = min(self._records, 0.0)


class ShardRates:
    """The allowances of all shards, by shard id; `percent` of a shard's limits are ours at most, 0 means no bound.

    The limits are those of every shard, in provisioned and in on-demand mode: 1,000 records and 1 MiB per second.
    """

    def __init__(self, percent: int) -> None:
        self.is_on = percent > 0
        self._share_max = percent / _PERCENT
        self._shards: dict[str, ShardRate] = {}

    def ready_at(self, shard_id: str | None, size: int, now: float) -> float:
        """Return when to ask again for a record of `size` bytes; `now` if it may go, later instants lie on a grid.

        Who has to wait has a claim: all who ask before that instant wait for it, too. Else small records would use up
        each credit, and a larger one would never go.
        """
        if shard_id is None or not self.is_on:
            return now
        rate = self._refilled(shard_id, now)
        if rate.claimed_until > now:
            return rate.claimed_until
        seconds = min(rate.missing_seconds(size), _WAIT_SECONDS_MAX)
        if not seconds:
            return now
        rate.claimed_until = _TICK_SECONDS * (floor((now + seconds) / _TICK_SECONDS) + 1)
        return rate.claimed_until

    def at_once(self, shard_ids: Sequence[str | None], size: int, now: float) -> list[str | None]:
        """Return shards, with None in the place of each that may not be sent `size` bytes now; claims nothing."""
        may = {each: each if each is not None and self.may_go(each, size, 1, now) else None for each in {*shard_ids}}
        return [may[each] for each in shard_ids]

    def may_go(self, shard_id: str, size: int, count: int, now: float) -> bool:
        """Whether `count` records of `size` bytes may go to a shard at once; claims nothing."""
        rate = self._refilled(shard_id, now)
        return rate.claimed_until <= now and not rate.missing_seconds(size, count)

    def _refilled(self, shard_id: str, now: float) -> ShardRate:
        rate = self._shards.get(shard_id)
        if rate is None:
            rate = self._shards[shard_id] = ShardRate(self._share_max, now)
        rate.refill(now)
        return rate

    def take(self, shard_id: str | None, size: int, count: int = 1) -> None:
        """Count records that are sent to a shard."""
        if shard_id is not None and (rate := self._shards.get(shard_id)) is not None:
            rate.take(size, count)

    def give_back(self, shard_id: str | None, size: int) -> None:
        """Take note that a record that was sent has taken nothing: its whole request was refused."""
        if shard_id is not None and (rate := self._shards.get(shard_id)) is not None:
            rate.credit(size, 1)

    def cut(self, shard_id: str | None, sent_at: float, now: float) -> bool:
        """Take note of a throttle of what was sent at `sent_at`; False if an earlier one has accounted for it."""
        rate = None if shard_id is None else self._shards.get(shard_id)
        if rate is None or sent_at <= rate.cut_at:
            return False
        rate.cut(now)
        return True

    def share(self, shard_id: str) -> float:
        """Return which share of a shard's limits is used at most at present: 1 is all of them."""
        rate = self._shards.get(shard_id)
        return self._share_max if rate is None else rate.share

    def keep(self, shard_ids: Container[str]) -> None:
        """Forget all other shards."""
        self._shards = {name: rate for name, rate in self._shards.items() if name in shard_ids}
