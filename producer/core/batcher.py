"""Decides what is sent when: batches, retries, back-off, and what an answer means; does no I/O itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from producer.core.batch import Batch, BatchShape, FlushReason, OutgoingRecord, Settlement
from producer.core.bisection import Bisection
from producer.core.call_gate import CallGate
from producer.core.landed import landed, shards_of
from producer.core.lanes import LaneQueues
from producer.core.ledger import Ledger, ledger_of
from producer.core.linger import Linger
from producer.core.map_trust import MapTrust
from producer.core.packer import Packer
from producer.core.put_outcome import THROTTLE_CODES, Verdict, judge
from producer.core.rate import ShardRates
from producer.core.record_columns import RecordColumns
from producer.core.retries import Retries
from producer.core.shard_map import ShardMap
from shared.ports import Delivered, Random, Undeliverable
from shared.records import PutResult, PutResults
from shared.retry import Backoff

_NEVER: Final = float("inf")
_new_tuple: Final[Any] = tuple.__new__  # half the time of a NamedTuple's own constructor
_SEARCH_SECONDS_MAX: Final = 0.2  # between two requests that look for a bad record: each of them is another one
_GRACE_SECONDS: Final = 1.0  # after a success, a request that was throttled whole says something of its shards only


class Batcher:
    """Turns queued records into PutRecords requests and answers into outcomes.

    With `keeps_order`, a lane has one stream record in flight and nothing of it overtakes that; what queues up behind
    it travels together. After a failure the same stream record is sent again, so a lane never skips ahead. While
    every call fails, one call at a time probes under full-jitter back-off: the call rate is bounded, nothing expires.
    """

    def __init__(
        self,
        queues: LaneQueues,
        *,
        keeps_order: bool,
        aggregates: bool,
        aggregate_bytes_max: int,
        batch_records_max: int,
        batch_bytes_max: int,
        linger_seconds: float,
        backoff: Backoff,
        rates: ShardRates | None = None,
    ) -> None:
        self.queues = queues
        self.follows_shards = True  # whether partition keys decide on shards, so that there is something to predict
        self.is_draining = False
        self.shard_map = ShardMap()
        self._last_map = self.shard_map  # as it was installed
        self.needs_shard_map = True
        self._backoff = backoff
        self._search_backoff = Backoff(backoff.seconds_min, max(backoff.seconds_min, _SEARCH_SECONDS_MAX))
        self._unverified: list[tuple[OutgoingRecord, PutResult]] = []
        self.rates = rates or ShardRates(0)
        shape = BatchShape(aggregates, aggregate_bytes_max, batch_records_max, batch_bytes_max)
        self._packer = Packer(queues, shape, keeps_order=keeps_order, rates=self.rates)
        self._retries = Retries(self._packer, self._regroup)
        self._gate = CallGate(backoff)
        self._bisection = Bisection()
        self._trust = MapTrust()
        self._succeeded_at = -_NEVER
        self.linger = Linger(queues, shape, keeps_order=keeps_order, linger_seconds=linger_seconds)
        self._in_flight = 0
        self._acknowledged = 0

    @property
    def ledger(self) -> Ledger:
        """Where every accepted record is now."""
        return ledger_of(self.queues, acknowledged=self._acknowledged, in_flight=self._in_flight)

    def keep_order(self) -> None:
        """Keep order from now on, whatever was asked for; nothing may be in flight."""
        self._packer.keep_order()
        self.linger.keep_order()

    def next_deadline(self, now: float) -> float | None:
        """Return when `take` should be asked next (may be past); None if only a new record or answer changes it."""
        if self._gate.waits_for_answer:
            return None
        due_at = self._retries.due_at
        if self._packer.held:
            due_at = min(due_at, *(held[0] for held in self._packer.held))
        if self.queues.ready:
            due_at = min(due_at, now if self.linger.is_full() or self.is_draining else self.linger.ends_at)
        due_at = now if self._bisection.has_part or self._must_try_again() else due_at
        return None if due_at == _NEVER else max(due_at, self._gate.closed_until)

    def is_held_back(self, now: float) -> bool:
        """Whether nothing may be sent now, because calls have failed."""
        return self._gate.is_closed(now)

    def _due_reason(self, now: float) -> FlushReason | None:
        if self.is_held_back(now):
            return None
        if self._bisection.has_part or self._must_try_again() or self._retries.due_at <= now:
            return FlushReason.RETRY
        if not self.queues.ready:
            return None
        if full := self.linger.is_full():
            return full
        if self.is_draining:
            return FlushReason.FLUSH
        return FlushReason.LINGER if now >= self.linger.ends_at else None

    def take(self, now: float) -> Batch | None:
        """Return the next request if one is due; `settle` or `fail` must follow for each."""
        if self._packer.held:
            self._packer.free_held(now)
        self._return(self._bisection.late(now))
        reason = self._due_reason(now)
        if reason is None:
            return None
        batch = Batch(reason, now)
        self._retries.add_part(batch, self._bisection.take(), self._followed_map)
        if not batch.singled:
            self._retries.take(batch, now, self._followed_map)
            self._pack(batch)
        if not batch.count and self._must_try_again():
            self._retries.add_part(batch, self._bisection.take_unproven(), self._followed_map)
        if not batch.count:
            return None
        self.linger.take(batch, self.shard_map)
        self._gate.start()
        return batch

    def _must_try_again(self) -> bool:
        """Whether nothing but records refused by themselves is left to try.

        While others wait for their shard's allowance, each try would take from that, for ever if it is large enough.
        """
        return self._bisection.alone_count > 0 and not self._packer.held and not self._retries

    def _pack(self, batch: Batch) -> None:
        """Add what waits in the lanes."""
        before = len(batch.singled)
        self._packer.pack(batch, self._followed_map, self.linger.waiting_since(batch, self.shard_map))
        for record in batch.singled[before:]:
            record.made_at = batch.taken_at
            self._in_flight += record.count
        self._in_flight += len(batch.plain) + (0 if batch.aggregates is None else batch.aggregates.count)

    def settle(self, batch: Batch, results: Sequence[PutResult], now: float, random: Random) -> Settlement:
        """Take the answer to a batch, one result per entry in order."""
        assert len(results) == batch.count, "PutRecords answers each entry"
        settlement = Settlement()
        if len(batch.plain):
            results = self._settle_plain(batch, results, settlement)
        is_sure = self._trust.is_sure(batch.taken_at)
        results = self._settle_aggregates(batch, results, settlement, is_sure=is_sure)
        failed: list[OutgoingRecord] = []
        single: list[OutgoingRecord] = []
        places: list[PutResult] = []  # where each of these landed
        for record, result in zip(batch.records, results, strict=True):
            if result.error_code:
                settlement.failed[result.error_code] += 1
                failed.append(record)
                if result.error_code in THROTTLE_CODES:
                    self.rates.cut(record.shard_id, batch.taken_at, now)
            elif record.columns is None:
                single.append(record)
                places.append(result)
            else:
                self._place(record, result, settlement, is_final=False, is_sure=is_sure)
        if single:
            self._settle_singles(single, places, settlement)
        if len(failed) < len(results) or settlement.delivered or settlement.landed:
            self._succeed(batch, now)
            if failed:
                self._retry_later(failed, now, random)
        elif self._is_local(settlement, now):
            self._gate.succeed(now)
            self._retry_later(failed, now, random)
        else:
            self._retry_all(batch, now, random)
        assert self.ledger.balances, "accepted = acknowledged + undeliverable + pending"
        return settlement

    def _succeed(self, batch: Batch, now: float) -> None:
        """Take note that the stream accepted something: what waited for that is due."""
        self._succeeded_at = now
        self._trust.accept(batch.taken_at)
        self._bisection.accept(batch.taken_at)
        self.queues.lend(())
        if self._gate.succeed(now):
            self._retries.hasten(now)

    def _is_local(self, settlement: Settlement, now: float) -> bool:
        """Whether a request that failed whole met a hot shard only, so that the others need not slow down."""
        is_served = not self._gate.is_failing and now - self._succeeded_at <= _GRACE_SECONDS
        return is_served and settlement.failed.keys() <= THROTTLE_CODES

    def _place(
        self, record: OutgoingRecord, result: PutResult, settlement: Settlement, *, is_final: bool, is_sure: bool = True
    ) -> None:
        """Judge a stream record that landed; with `is_final`, an unknown shard counts as the wrong one."""
        if not is_sure and record.is_aggregate:  # its shard may be another one of the same id
            self.needs_shard_map = True
            self._unverified.append((record, result))
            return
        hash_keys = record.members.effective_hash_keys() if record.is_aggregate else None
        # What had to wait for a map was made for an older one.
        verdict = judge(result, None if is_final else record.shard_id, hash_keys, self.shard_map)
        if record.shard_id is not None and result.shard_id != record.shard_id and not is_final:
            self._forget_shard(record.shard_id)
        if verdict is Verdict.UNKNOWN_SHARD and not is_final:
            self._unverified.append((record, result))
        elif verdict is Verdict.DELIVERED:
            self._acknowledge(len(record.members.datas), record.members.size)
            if record.lanes:
                self.queues.release(record.lanes)
            settlement.delivered.append((record.members, _new_tuple(Delivered, result[:2])))
        else:
            settlement.misplaced += 1
            self._regroup(record)

    def _settle_aggregates(
        self, batch: Batch, results: Sequence[PutResult], settlement: Settlement, *, is_sure: bool
    ) -> Sequence[PutResult]:
        """Take the aggregates of a batch unless they have to be judged one by one; return the results of the others."""
        landed = settlement.landed = batch.take_landed(results) if is_sure else None
        if landed is None:
            return results
        self._acknowledge(landed[0].count, sum(landed[0].sizes))
        self.queues.release(landed[0].lanes)
        return results[: len(batch.singled)]

    def _settle_singles(self, settled: list[OutgoingRecord], results: list[PutResult], settlement: Settlement) -> None:
        """Take user records that landed as they are: good wherever that is."""
        together = RecordColumns()
        for record, result in zip(settled, results, strict=True):
            if result.shard_id != record.shard_id and record.shard_id is not None:
                self._forget_shard(record.shard_id)
            self.queues.release(record.lanes)
            self._give_up(record.overtaken, settlement)
            data, key, explicit = record.entry
            together.append(data, key, record.ticket, explicit)
        self._settle_landed(together, results, settlement)

    def _settle_plain(self, batch: Batch, results: Sequence[PutResult], settlement: Settlement) -> Sequence[PutResult]:
        """Take those records of a batch that landed as they are; the others become stream records of it.

        Returns the results of its stream records.
        """
        plain, start = batch.plain, len(batch.records)
        own, results = list(results[:start]), results[start:]
        batch.plain = RecordColumns()
        # Of results without failures, no object is made.
        for index, result in enumerate(() if isinstance(results, PutResults) else results):
            if result.error_code:
                own.append(result)
                batch.records.append(self._packer.single(plain, index, self._followed_map))
        self._settle_landed(plain, results, settlement)
        landed_in = shards_of(results) - {""}
        if self.follows_shards and not landed_in <= self.shard_map.open_ids:
            self.needs_shard_map = True
        return own

    def _settle_landed(self, plain: RecordColumns, results: Sequence[PutResult], settlement: Settlement) -> None:
        for columns, delivered in landed(plain, results):
            self._acknowledge(len(columns), columns.size)
            settlement.delivered.append((columns, delivered))

    def _acknowledge(self, count: int, size: int) -> None:
        self._in_flight -= count
        self._acknowledged += count
        self.queues.settle(count, size)

    def _single_out(self, batch: Batch) -> None:
        """Make stream records of their own of all that a batch sends as it is: they have to be judged one by one."""
        plain, batch.plain = batch.plain, RecordColumns()
        batch.records.extend(self._packer.single(plain, index, self._followed_map) for index in range(len(plain)))

    @property
    def _followed_map(self) -> ShardMap | None:
        return self.shard_map if self.follows_shards else None

    def _forget_shard(self, shard_id: str) -> None:
        """Predict a shard no longer: a record meant for it has landed elsewhere."""
        self.shard_map = self.shard_map.without(shard_id)
        self.needs_shard_map = True

    def _regroup(self, record: OutgoingRecord, *, alone: bool = False) -> None:
        """Put the members back to the front of their lanes, to be grouped anew or, with `alone`, sent unwrapped."""
        self._in_flight -= record.count
        self.queues.return_to_front(record.members, alone=alone)
        self.queues.release(record.lanes)

    def fail(
        self, batch: Batch, now: float, random: Random, backoff: Backoff | None = None, *, may_have_landed: bool = True
    ) -> None:
        """Take note that a call failed as a whole; it may have landed, so its stream records stay as they are.

        `backoff` stands in for the ordinary one until the next call.
        """
        self._single_out(batch)
        record = batch.records[0]
        if record.overtaken and not record.attempts and not may_have_landed:
            self._return(self._bisection.stop(record))
            self._gate.fail(batch.taken_at, now, random, backoff)
        else:
            self._retry_all(batch, now, random, backoff)

    def refuse(self, batch: Batch, reason: tuple[str, str], now: float, random: Random, backoff: Backoff) -> Settlement:
        """Take a refusal of a whole call that may be about one record; `reason` is the service's code and message.

        An aggregate that is found is taken apart, a single record given up. `backoff` is for a hopeless stream.
        """
        settlement = Settlement()
        self._single_out(batch)
        for record in batch.records:
            self.rates.give_back(record.shard_id, record.wire_bytes)
        found = self._bisection.refuse(batch.records, reason, now)
        if found is None and len(batch.records) == 1:
            self._try_next(batch.records[0], now)
        if self._bisection.goes_on:
            self._gate.end()
        else:
            settlement.is_hopeless = self.is_hopeless
            self._bisection.rest(is_hopeless=settlement.is_hopeless)
            self._gate.fail(batch.taken_at, now, random, backoff if settlement.is_hopeless else self._search_backoff)
        if found is not None and found.is_aggregate:
            self._regroup(found, alone=True)
        elif found is not None:
            self._give_up([*found.overtaken, found], settlement)
            self.queues.release(found.lanes)
        self.queues.lend(self._bisection.lent_sizes if self.is_hopeless else ())
        assert self.ledger.balances, "accepted = acknowledged + undeliverable + pending"
        return settlement

    def _try_next(self, refused: OutgoingRecord, now: float) -> None:
        """Try what waits behind a record that was refused by itself, if nothing else speaks for the stream."""
        following = None
        if self.is_hopeless and self._bisection.goes_on:
            following = self._packer.next_single(refused.lanes, self._followed_map)
        if following is not None:
            self._in_flight += 1
            self._bisection.follow(following, now)
            return
        self._return(self._bisection.go_back())
        if not self._others and not self._bisection.has_part:
            self._bisection.end()

    def _return(self, tried: Iterable[OutgoingRecord]) -> None:
        """Put records back to the front of their lanes, which are blocked, each after what is behind it."""
        for record in tried:
            self._in_flight -= 1
            self.queues.return_to_front(record.members, alone=True)

    def _give_up(self, records: Iterable[OutgoingRecord], settlement: Settlement) -> None:
        """Count records as such that the stream does not take."""
        for record in records:
            alone = record.members
            self._in_flight -= 1
            self.queues.reject(alone.size)
            settlement.undeliverable.append((alone.ticket(0), Undeliverable(*record.refusal, alone.datas[0])))

    @property
    def is_hopeless(self) -> bool:
        """Whether the stream refuses whatever is tried, so that no record is to blame."""
        return self._bisection.is_hopeless(self._others)

    @property
    def _others(self) -> int:
        """How many user records, at least, are under way or can be sent, beside those refused by themselves."""
        landed_somewhere = sum(record.count for record, _ in self._unverified)
        others = self._in_flight - self._bisection.alone_count - landed_somewhere
        return others + len(self.queues.ready) + len(self._packer.held)

    def _retry_all(self, batch: Batch, now: float, random: Random, backoff: Backoff | None = None) -> None:
        self._retries.add(now, batch.records)
        self._gate.fail(batch.taken_at, now, random, backoff)

    def _retry_later(self, failed: list[OutgoingRecord], now: float, random: Random) -> None:
        attempt = max(record.attempts for record in failed)
        self._retries.add(now + self._backoff.delay(attempt, random), failed)

    def install(self, shard_map: ShardMap, *, seen_at: float = _NEVER, now: float = -_NEVER) -> Settlement:
        """Take a fresh shard map that was asked for at `seen_at`, and judge what waited for one."""
        if not shard_map.follows(self._last_map):
            self._trust.begin_anew(now)
            self._retries.take_apart(now)
        self._trust.look(seen_at)
        self._last_map = shard_map
        self.shard_map = shard_map
        self.needs_shard_map = False
        self.rates.keep(shard_map.open_ids)
        settlement = Settlement()
        unverified, self._unverified = self._unverified, []
        for record, result in unverified:
            self._place(record, result, settlement, is_final=True)
        return settlement
