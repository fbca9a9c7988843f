"""The batcher under any sequence of puts, answers, failures, splits and merges: order per key kept, books balanced."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from producer.core.batch import Batch, Settlement
from producer.core.batcher import Batcher
from producer.core.lanes import LaneQueues
from producer.core.rate import ShardRates
from producer.core.record_columns import Ticket
from producer.core.shard_map import ShardMap
from shared.aggregation import deaggregate
from shared.hash_key import HashKeyRange, even_ranges, hash_key_of
from shared.lanes import WHOLE, LaneDivision
from shared.limits import KIB
from shared.records import PutEntry, PutResult, Shard, StreamRecord, UserRecord
from shared.retry import Backoff
from tests.support.fake_kinesis import as_told

KEYS = [f"key-{number}" for number in range(24)]
CODES = ["ProvisionedThroughputExceededException", "InternalFailure", "SomethingNew"]
SHARDS_MAX = 14
SHARED_TICKETS = [(print, "one"), (print, "other")]
POISON = b":!"  # a request with this in it is refused whole
REFUSAL = ("ValidationException", "1 validation error detected")


class BatcherMachine(RuleBasedStateMachine):
    """A stream that answers as it likes, and a reader that applies KCL's rules to what landed."""

    keeps_order = True

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.chance = random.Random(1)
        self.shards: dict[str, Shard] = {}
        self.landed: dict[str, list[StreamRecord]] = {}
        self.children_of: dict[str, list[str]] = {}
        self.sequence = 0
        self.put_count = 0
        self.tickets: list[Ticket | None] = []  # of each number
        self.puts: dict[str, list[int]] = {key: [] for key in KEYS}
        self.acknowledged: set[int] = set()
        self.poisonous: set[int] = set()
        self.undeliverable: set[int] = set()
        self.is_mended = False
        self.refused_blindly = False  # then the same bad luck twice may condemn a good record
        self.sent: list[Batch] = []

    @initialize(
        aggregates=st.booleans(),
        shards=st.integers(1, 5),
        size=st.sampled_from([1 * KIB, 4 * KIB]),
        knows=st.booleans(),
        percent=st.sampled_from([0, 1, 100]),
    )
    def start(self, aggregates: bool, shards: int, size: int, knows: bool, percent: int) -> None:
        """Make the stream and the batcher."""
        for hash_key_range in even_ranges(shards):
            self._add_shard(hash_key_range)
        self.queues = LaneQueues(buffer_bytes_max=64 * KIB, record_bytes_max=1024 * KIB)
        self.batcher = Batcher(
            self.queues,
            keeps_order=self.keeps_order,
            aggregates=aggregates,
            aggregate_bytes_max=size,
            batch_records_max=8,
            batch_bytes_max=16 * KIB,
            linger_seconds=1.0,
            backoff=Backoff(0.1, 5.0),
            rates=ShardRates(percent),
        )
        if knows:
            self.refresh()

    def _add_shard(self, hash_key_range: HashKeyRange, parents: tuple[str, ...] = ()) -> None:
        shard_id = f"shard-{len(self.shards):03d}"
        self.shards[shard_id] = Shard(shard_id, hash_key_range, *parents)
        self.landed[shard_id] = []

    def _close(self, shard_id: str) -> None:
        shard = self.shards[shard_id]
        self.sequence += 1
        self.shards[shard_id] = Shard(
            shard_id,
            shard.hash_key_range,
            shard.parent_shard_id,
            shard.adjacent_parent_shard_id,
            ending_sequence_number=self.sequence,
        )

    def _open_shards(self) -> list[Shard]:
        found = [shard for shard in self.shards.values() if shard.is_open]
        return sorted(found, key=lambda shard: shard.hash_key_range.start)

    def _land(self, entry: PutEntry) -> PutResult:
        explicit = entry.explicit_hash_key
        hash_key = hash_key_of(entry.partition_key) if explicit is None else explicit
        shard = next(shard for shard in self._open_shards() if hash_key in shard.hash_key_range)
        self.sequence += 1
        self.landed[shard.shard_id].append(StreamRecord(entry.data, entry.partition_key, self.sequence, 0.0))
        return PutResult(shard.shard_id, self.sequence)

    @rule(seed=st.integers(0, 2**32), count=st.integers(1, 40), spread=st.booleans())
    def put(self, seed: int, count: int, spread: bool) -> None:
        """Put some records; with `spread`, under explicit hash keys of their own."""
        chance = random.Random(seed)
        for _ in range(count):
            key = chance.choice(KEYS)
            explicit = chance.getrandbits(128) if spread and not self.keeps_order else None
            data = b"%d:" % self.put_count + bytes(chance.choice((0, 10, 10, 300, 2000)))
            if self._accept(data, key, explicit):
                self.puts[key].append(self.put_count)
                self.put_count += 1

    @rule(seed=st.integers(0, 2**32), count=st.integers(1, 40))
    def put_together(self, seed: int, count: int) -> None:
        """Put some records in columns, under one ticket that may serve others, too, or none."""
        chance = random.Random(seed)
        keys = chance.choices(KEYS, k=count)
        datas = [b"%d:" % (self.put_count + index) + bytes(chance.choice((0, 10, 300))) for index in range(count)]
        ticket = chance.choice([None, *SHARED_TICKETS])
        accepted = self.queues.accept_all(datas, keys, ticket)
        self.queues.stamp(self.now)
        for key in keys[:accepted]:
            self.puts[key].append(self.put_count)
            self.tickets.append(ticket)
            self.put_count += 1

    @rule(seed=st.integers(0, 2**32))
    def put_poison(self, seed: int) -> None:
        """Put a record that no request may hold."""
        key = random.Random(seed).choice(KEYS)
        if self._accept(b"%d%b" % (self.put_count, POISON), key):
            self.puts[key].append(self.put_count)
            self.poisonous.add(self.put_count)
            self.put_count += 1

    def _is_refused(self, batch: Batch) -> bool:
        return not self.is_mended and any(POISON in entry.data for entry in batch.entries)

    def _refuse(self, batch: Batch) -> None:
        self._settle(self.batcher.refuse(batch, REFUSAL, self.now, self.chance, Backoff(0.1, 60.0)))

    @precondition(lambda self: self.sent)
    @rule(seed=st.integers(0, 2**32))
    def refuse(self, seed: int) -> None:
        """Refuse a request whole, whatever is in it."""
        self.refused_blindly = True
        self._refuse(self.sent.pop(random.Random(seed).randrange(len(self.sent))))

    @rule(seconds=st.sampled_from([0.01, 0.5, 5.0]))
    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    @rule()
    def send(self) -> None:
        """Take what is due."""
        batch = self.batcher.take(self.now)
        if batch is not None:
            assert 0 < batch.count <= 8
            assert batch.bytes <= 16 * KIB or batch.count == 1
            self.sent.append(batch)

    @precondition(lambda self: self.sent)
    @rule(seed=st.integers(0, 2**32), refused=st.sampled_from([0.0, 0.2, 0.7, 1.0]))
    def answer(self, seed: int, refused: float) -> None:
        """Answer a request: each entry lands or is refused."""
        chance = random.Random(seed)
        batch = self.sent.pop(chance.randrange(len(self.sent)))
        if self._is_refused(batch):
            self._refuse(batch)
            return
        results = []
        for entry in batch.entries:
            code = chance.choice(CODES) if chance.random() < refused else ""
            results.append(PutResult(error_code=code) if code else self._land(entry))
        self._settle(self.batcher.settle(batch, as_told(results), self.now, self.chance))

    @precondition(lambda self: self.sent)
    @rule(seed=st.integers(0, 2**32), landed=st.booleans())
    def lose(self, seed: int, landed: bool) -> None:
        """Lose a request, or the answer to one that landed."""
        batch = self.sent.pop(random.Random(seed).randrange(len(self.sent)))
        if landed and not self._is_refused(batch):
            for entry in batch.entries:
                self._land(entry)
        self.batcher.fail(batch, self.now, self.chance)

    def _accept(self, data: bytes, key: str, explicit: int | None = None) -> bool:
        ticket = (print, self.put_count)
        is_accepted = self.queues.accept(data, key, ticket, explicit)
        self.queues.stamp(self.now)
        if is_accepted:
            self.tickets.append(ticket)
        return is_accepted

    def _settle(self, settlement: Settlement) -> None:
        for members, _ in settlement.outcomes():
            numbers = [int(data.split(b":")[0]) for data in members.datas]
            tickets = [self.tickets[number] for number in numbers]
            assert [members.ticket(index) for index in range(len(numbers))] == tickets
            assert dict(members.receipts()) == Counter(ticket for ticket in tickets if ticket is not None)
            assert not self.acknowledged.intersection(numbers)
            self.acknowledged.update(numbers)
        for ticket, outcome in settlement.undeliverable:
            number = int(outcome.data.split(b":")[0])
            assert ticket == self.tickets[number]
            assert number not in self.acknowledged | self.undeliverable
            self.undeliverable.add(number)

    @rule()
    def refresh(self) -> None:
        """Give the batcher the shards as they are."""
        self._settle(self.batcher.install(ShardMap(self.shards.values())))

    @precondition(lambda self: len(self.shards) < SHARDS_MAX)
    @rule(seed=st.integers(0, 2**32))
    def split(self, seed: int) -> None:
        """Split an open shard at any place, also in the middle of a lane."""
        chance = random.Random(seed)
        shard = chance.choice(self._open_shards())
        start, end = shard.hash_key_range.start, shard.hash_key_range.end
        middle = chance.randint(start + 1, end)
        self._close(shard.shard_id)
        self._add_shard(HashKeyRange(start, middle - 1), (shard.shard_id,))
        self._add_shard(HashKeyRange(middle, end), (shard.shard_id,))

    @precondition(lambda self: len(self.shards) < SHARDS_MAX and len(self._open_shards()) > 1)
    @rule(seed=st.integers(0, 2**32))
    def merge(self, seed: int) -> None:
        """Merge two neighbours."""
        neighbours = self._open_shards()
        index = random.Random(seed).randrange(len(neighbours) - 1)
        low, high = neighbours[index], neighbours[index + 1]
        self._close(low.shard_id)
        self._close(high.shard_id)
        joined = HashKeyRange(low.hash_key_range.start, high.hash_key_range.end)
        self._add_shard(joined, (low.shard_id, high.shard_id))

    def _read(self) -> dict[str, list[int]]:
        """Return what a KCL reader that drops duplicates sees per key; shards are listed parents first."""
        seen: dict[str, list[int]] = {key: [] for key in KEYS}
        marks: dict[str, int] = {}
        for shard_id, records in self.landed.items():
            users: list[UserRecord] = []
            for record in records:
                users += deaggregate(record, self.shards[shard_id].hash_key_range).records
            for user in users:
                number = int(user.data.split(b":")[0])
                if not self.keeps_order or number > marks.get(user.partition_key, -1):
                    marks[user.partition_key] = number
                    seen[user.partition_key].append(number)
        return seen

    @invariant()
    def books_balance(self) -> None:
        """Every accepted record is in exactly one place, and what is acknowledged can be read."""
        if not hasattr(self, "batcher"):
            return
        ledger = self.batcher.ledger
        assert ledger.balances
        assert ledger.accepted == self.put_count
        assert ledger.acknowledged == len(self.acknowledged)
        assert ledger.undeliverable == len(self.undeliverable)
        assert self.refused_blindly or self.undeliverable <= self.poisonous
        assert ledger.queued == sum(len(lane.records) for lane in self.queues.lanes)
        assert self.queues.pending_count == ledger.pending
        ready = [lane for lane in self.queues.lanes if len(lane.records) and not lane.is_blocked]
        assert sorted(lane.index for lane in self.queues.ready) == [lane.index for lane in ready]
        assert self.queues.ready_count == sum(len(lane.records) for lane in ready)
        assert self.queues.ready_bytes == sum(lane.records.size for lane in ready)
        read = {number for numbers in self._read().values() for number in numbers}
        assert self.acknowledged <= read

    @invariant()
    def order_is_kept(self) -> None:
        """Without a mark's help no key is ever read with a gap: its records appear in the order of their puts."""
        if not self.keeps_order:
            return
        for key, numbers in self._read().items():
            # What was given up is not there, unless a call landed whose answer was lost, before a blind refusal.
            given_up = (self.undeliverable | self.poisonous) - set(numbers)
            expected = [number for number in self.puts[key] if number not in given_up]
            assert numbers == expected[: len(numbers)]

    def teardown(self) -> None:
        """Whatever happened, a stream that works again gets everything."""
        if not hasattr(self, "batcher"):
            return
        self.batcher.is_draining = True
        for _ in range(3000):
            while self.sent:
                batch = self.sent.pop()
                if self._is_refused(batch):
                    self._refuse(batch)
                    self.is_mended = self.batcher.is_hopeless and not self.sent
                    continue
                results = [self._land(entry) for entry in batch.entries]
                self._settle(self.batcher.settle(batch, as_told(results), self.now, self.chance))
            if self.batcher.needs_shard_map:
                self.refresh()
            if not self.batcher.ledger.pending:
                break
            deadline = self.batcher.next_deadline(self.now)
            assert deadline is not None
            self.now = max(self.now, deadline)
            batch_or_none = self.batcher.take(self.now)
            if batch_or_none is not None:
                self.sent.append(batch_or_none)
        assert self.batcher.ledger.pending == 0
        assert self.acknowledged | self.undeliverable == set(range(self.put_count))
        self.order_is_kept()
        self.books_balance()


class UnorderedMachine(BatcherMachine):
    """The same without order: nothing may get lost."""

    keeps_order = False


TestBatcherLanes = BatcherMachine.TestCase
TestBatcherLanes.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestBatcherUnordered = UnorderedMachine.TestCase
TestBatcherUnordered.settings = settings(max_examples=20, stateful_step_count=40, deadline=None)


def walk(machine: BatcherMachine, seed: int) -> None:
    """Take a long random walk through the machine's rules, with a mix of faults of its own per seed."""
    chance = random.Random(seed)
    machine.start(
        chance.random() < 0.7,
        chance.randint(1, 5),
        chance.choice((1 * KIB, 4 * KIB)),
        chance.random() < 0.8,
        (0, 2, 100)[seed % 3],
    )
    refused, lost, reshard = (chance.choice((0.0, 0.1, 0.5)) for _ in range(3))
    poison, blind = chance.choice((0.0, 0.05, 0.3)), chance.choice((0.0, 0.0, 0.2))
    for _ in range(80):
        draw = chance.getrandbits(32)
        machine.put(draw, chance.randint(1, 12), chance.random() < 0.3)
        if chance.random() < 0.5:
            machine.put_together(draw, chance.randint(1, 12))
        if chance.random() < poison:
            machine.put_poison(draw)
        machine.wait(chance.choice((0.01, 0.5, 2.0)))
        machine.send()
        if chance.random() < reshard * 0.4 and len(machine.shards) < SHARDS_MAX:
            machine.split(draw)
        if chance.random() < reshard * 0.2 and len(machine.shards) < SHARDS_MAX and len(machine._open_shards()) > 1:
            machine.merge(draw)
        while machine.sent and chance.random() < 0.7:
            if chance.random() < blind:
                machine.refuse(draw)
            elif chance.random() < lost:
                machine.lose(draw, chance.random() < 0.5)
            else:
                machine.answer(draw, refused)
        if chance.random() < 0.15:
            machine.refresh()
    machine.books_balance()
    machine.order_is_kept()
    machine.teardown()


@pytest.mark.parametrize("kind", [BatcherMachine, UnorderedMachine])
def test_long_walks_keep_the_promises(kind: type[BatcherMachine]) -> None:
    """In many seeded walks of 80 rounds nothing is lost, no key is reordered, and everything arrives in the end."""
    for seed in range(150):
        try:
            walk(kind(), seed)
        except AssertionError as error:
            error.add_note(f"seed {seed}")
            raise


@pytest.mark.parametrize("division", [WHOLE, LaneDivision((1, 2**127 + 1))])
@pytest.mark.parametrize("count", [1, 7, 256, 1000, 4096, 5000])
def test_the_map_predicts_what_the_ranges_say(count: int, division: LaneDivision) -> None:
    """Prediction equals a look through all ranges; a lane is predicted only if no boundary cuts it."""
    ranges = even_ranges(count)
    shard_map = ShardMap(Shard(f"s{index}", each) for index, each in enumerate(ranges))
    chance: Any = random.Random(2)
    for _ in range(300):
        hash_key = chance.getrandbits(128)
        expected = next(f"s{index}" for index, each in enumerate(ranges) if hash_key in each)
        assert shard_map.predict(hash_key) == expected
        assert shard_map.of_lanes(division)[division.index_of(hash_key)] in {expected, None}
    assert shard_map.of_lanes(WHOLE).is_cut == (count not in {1, 256})
    assert (shard_map.of_lanes(WHOLE)[0] is None) == (count > 256)
    along = LaneDivision.along(shard_map.starts)
    assert {*map(shard_map.of_lanes(along).__getitem__, range(len(along)))} == {*shard_map.open_ids}
    assert not shard_map.of_lanes(along).is_cut
