"""The spill: bounded, crash-safe, in order; in virtual time, with kills, power losses and disks that fail."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from producer.api import EventProducer
from producer.core.spill_frame import (
    FILE_HEAD_BYTES,
    FileHead,
    decode_head,
    decode_records,
    encode_head,
    encode_record,
)
from producer.producer import Producer
from producer.spill import spill_folder
from shared.aggregation import deaggregate
from shared.errors import ConfigurationError, ThrottledError
from shared.lanes import WHOLE, LaneDivision
from shared.limits import HASH_KEY_MAX, KIB, MIB
from shared.ports import Outcome
from shared.settings import Ordering, ProducerSettings
from shared.telemetry import SilentTelemetry
from tests.simulation.loop import Process, SimulationLoop
from tests.support.fake_files import FakeFiles
from tests.support.fake_kinesis import FakeKinesis
from tests.support.network import PerfectNetwork

STREAM = "orders"
KEYS = 13


LOOPS: list[SimulationLoop] = []


@pytest.fixture(autouse=True)
def loops_closed() -> Iterator[None]:
    """End what a killed process left, before it is collected as garbage."""
    yield
    while LOOPS:
        LOOPS.pop().close()


class Net(PerfectNetwork):
    """A network that takes 10 ms, whose service can be off, and whose disk fails by chance."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__(wall=0.0)
        self.chance = chance
        self.is_off = False
        self.rates: dict[str, float] = {}
        self.reads = asyncio.Event()  # set while the disk reads
        self.reads.set()

    async def call(self, operation: str, land: Any) -> Any:
        """Carry a call."""
        self.calls.append(operation)
        if operation == "files.read":
            await self.reads.wait()
            return land()
        await asyncio.sleep(0.01 if operation.startswith("kinesis") else 0.001)
        if self.is_off and operation == "kinesis.put_records":
            raise ThrottledError("off")
        return land()

    def happens(self, kind: str) -> bool:
        """Draw."""
        return self.chance.random() < self.rates.get(kind, 0.0)

    def part(self, whole: int) -> int:
        """Draw."""
        return self.chance.randint(0, whole)


class World:
    """A stream, a disk, and lives of one producer."""

    def __init__(self, seed: int = 1, **settings: Any) -> None:
        self.loop = SimulationLoop()
        LOOPS.append(self.loop)
        self.chance = random.Random(seed)
        self.net = Net(self.chance)
        self.kinesis = FakeKinesis(self.net)
        self.stream = self.kinesis.create_stream(STREAM, 3)
        self.disk = FakeFiles(self.net)
        self.producer: Producer | None = None
        self.accepted: list[int] = []  # whose put has returned
        self.outcomes: dict[int, Outcome] = {}
        self.lows: list[int] = []
        given = {"buffer_bytes_max": 2 * MIB, "spill_bytes_max": 64 * MIB, "shard_rate_percent": 0}
        self.settings = ProducerSettings(**given | settings)

    def monotonic(self) -> float:
        """Virtual seconds."""
        return self.loop.time()

    def wall(self) -> float:
        """Virtual seconds."""
        return self.loop.time()

    def open(self, lanes: LaneDivision | None = WHOLE) -> Producer:
        """Make the producer of a life."""
        self.producer = Producer(
            STREAM,
            kinesis=self.kinesis,
            clock=self,
            random=random.Random(self.chance.random()),
            telemetry=SilentTelemetry(),
            settings=self.settings,
            files=self.disk,
            lanes=lanes,
        )
        return self.producer

    async def leave_spilled(self) -> int:
        """Let a producer end in an outage, and return how many of its 800 records are on disk."""
        self.net.is_off = True
        async with self.open() as producer:
            await self.put(producer, range(800), asks=False)
            await producer.close(0)
            left = producer.ledger.spilled
        self.net.is_off = False
        return left

    def receipt(self, token: int, outcome: Outcome, _: int = 1, /) -> None:
        """Keep an outcome."""
        assert token not in self.outcomes
        self.outcomes[token] = outcome

    async def put(self, producer: Producer, numbers: range, size: int = 8000, *, asks: bool = True) -> None:
        """Put numbered records, over few keys."""
        for number in numbers:
            data = b"%d:" % number + bytes(size)
            await producer.put(data, f"key-{number % KEYS}", self.receipt if asks else None, number)
            self.accepted.append(number)
            assert producer.ledger.balances
            assert producer.pending_bytes <= self.settings.buffer_bytes_max

    def numbers(self) -> dict[str, list[int]]:
        """Return what landed, per key, in reading order."""
        seen: dict[str, list[int]] = {}
        for shard in self.stream.shards.values():
            for record in shard.records:
                for user in deaggregate(record, shard.shard.hash_key_range).records:
                    seen.setdefault(user.partition_key, []).append(int(user.data.split(b":")[0]))
        return seen

    def spill_bytes(self) -> int:
        """Return what the spill files hold."""
        return sum(len(self.disk.content(path) or b"") for path in self.disk.paths(".headrace") if ".spill" in path)


def first_seen(numbers: list[int]) -> list[int]:
    """Return the numbers without repetitions."""
    return list(dict.fromkeys(numbers))


def test_an_outage_goes_to_disk_and_comes_back_in_order() -> None:
    """While nothing is taken `put` goes on; then all arrive once and in order, and the files are empty."""
    world = World()

    async def main() -> None:
        async with world.open() as producer:
            world.net.is_off = True
            await world.put(producer, range(1000))
            spilled = producer.ledger.spilled
            assert spilled > 600
            assert producer.ledger.pending == 1000
            world.net.is_off = False
            await world.put(producer, range(1000, 1100))
            assert await producer.flush(60) == 0
            assert producer.ledger.acknowledged == 1100

    world.loop.run(main())
    assert world.numbers() == {f"key-{key}": list(range(key, 1100, KEYS)) for key in range(KEYS)}
    assert world.outcomes.keys() == set(range(1100))
    assert world.spill_bytes() == 0


def test_the_spill_is_bounded_and_then_put_waits() -> None:
    """Memory and disk stay within their settings; the put that finds both full waits, and goes on later."""
    world = World(spill_bytes_max=1 * MIB)

    async def main() -> None:
        async with world.open() as producer:
            world.net.is_off = True
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(60):
                    await world.put(producer, range(1000))
            count = len(world.accepted)
            assert 300 < count < 400
            assert world.spill_bytes() <= 1 * MIB
            world.net.is_off = False
            await world.put(producer, range(count, 800))
            assert await producer.flush(60) == 0

    world.loop.run(main())
    assert {key: first_seen(seen) for key, seen in world.numbers().items()} == {
        f"key-{key}": list(range(key, 800, KEYS)) for key in range(KEYS)
    }


def test_a_restart_sends_the_spilled_records_first() -> None:
    """What the former process left on disk is accepted again, and newer records of its lanes come after it."""
    world = World()

    async def main() -> None:
        left = await world.leave_spilled()
        async with world.open() as producer:
            assert producer.ledger.accepted == producer.ledger.spilled == left
            assert producer.ledger.balances
            await world.put(producer, range(800, 900), asks=False)
        assert producer.ledger.pending == 0
        async with world.open() as producer:
            assert producer.ledger.accepted == 0

    world.loop.run(main())
    landed = world.numbers()
    for key in range(KEYS):
        seen = landed[f"key-{key}"]
        assert seen == sorted(seen)
        assert seen[-1] >= 800


def test_spilled_records_may_have_wide_lanes() -> None:
    """A producer that finds records on disk keeps order in whole lanes, as their ids may; the next one does not."""
    world = World()

    async def main() -> None:
        await world.leave_spilled()
        world.stream = world.kinesis.create_stream(STREAM, 3)
        async with world.open(lanes=None) as producer:
            assert producer.ledger.spilled
            assert producer.lanes == WHOLE
        async with world.open(lanes=None) as producer:
            assert len(producer.lanes.cuts) == 2

    world.loop.run(main())


def test_what_comes_back_from_disk_takes_no_room_of_events_that_were_put() -> None:
    """Events that are put in the step before many spilled records fill the buffer arrive, each of them, like those."""
    world = World()
    kept = 20_000

    async def main() -> None:
        world.net.is_off = True
        async with EventProducer(
            STREAM,
            settings=world.settings,
            kinesis=world.kinesis,
            files=world.disk,
            clock=world,
            chance=world.chance,
            telemetry=SilentTelemetry(),
        ) as producer:
            async with asyncio.TaskGroup() as tasks:
                for number in range(kept):
                    tasks.create_task(producer.put({"session_id": f"key-{number % KEYS}", "n": number}))
            world.net.reads.clear()
            world.net.is_off = False
            await asyncio.sleep(100)
            assert producer.ledger.pending == producer.ledger.spilled > 0
            late = asyncio.create_task(producer.put({"session_id": "key-0", "n": kept + 100}))
            await asyncio.sleep(1)
            world.net.reads.set()
            for number in range(kept, kept + 100):
                await producer.put({"session_id": "another", "n": number, "text": "x" * 3_800})
            await asyncio.sleep(1)  # else the flush would have them queued at once
            await late
            assert await producer.flush(100) == 0
            assert producer.ledger.acknowledged == kept + 101
            assert producer._producer.pending_bytes == 0

    world.loop.run(main())


def test_spilled_records_keep_their_order_where_none_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """They may have been put where order was promised, with ids that readers rely on; later calls overtake here."""
    world = World(batch_bytes_max=64 * KIB)
    delays = count(40, -1)

    async def call(operation: str, land: Any) -> Any:
        seconds = max(0.001, next(delays) / 20) if operation == "kinesis.put_records" else 0.001
        await asyncio.sleep(seconds)
        if world.net.is_off and operation == "kinesis.put_records":
            raise ThrottledError("off")
        return land()

    async def main() -> None:
        left = await world.leave_spilled()
        monkeypatch.setattr(world.net, "call", call)
        world.settings = world.settings.model_copy(update={"ordering": Ordering.NONE})
        async with world.open() as producer:
            assert producer.ledger.spilled == left
            assert await producer.flush(600) == 0

    world.loop.run(main())
    landed = world.numbers()
    assert landed
    assert all(seen == sorted(seen) for seen in landed.values())


@pytest.mark.parametrize("seed", range(12))
def test_what_was_spilled_survives_kills_power_loss_and_bad_disks(seed: int) -> None:
    """Whatever happens, each record that was on disk when the process died is delivered, in the order of its key."""
    world = World(seed)
    kept: set[int] = set()

    async def life(start: int) -> None:
        async with world.open() as producer:
            await world.put(producer, range(start, start + 1000), asks=False)
            await producer.flush(60)

    async def main() -> None:
        start = 0
        for _ in range(3):
            world.net.rates = {"torn_write": 0.1, "disk_full": 0.05} if seed % 2 else {}
            world.net.is_off = True
            process = Process(f"producer-{start}")
            world.loop.spawn(process, lambda start=start: life(start))  # type: ignore[misc]  # a default argument
            await asyncio.sleep(world.chance.uniform(0.1, 3))
            world.net.is_off = world.chance.random() < 0.5
            await asyncio.sleep(world.chance.uniform(0.01, 1.0))
            world.loop.kill(process)
            kept.update(accepted_on_disk(world))
            if world.chance.random() < 0.5:
                world.disk.lose_power()
            start += 1000
        world.net.rates = {}
        world.net.is_off = False
        async with world.open() as producer:
            assert await producer.flush(600) == 0
            assert producer.ledger.balances

    world.loop.run(main())
    assert not world.loop.failures
    landed = world.numbers()
    arrived = {number for seen in landed.values() for number in seen}
    assert kept <= arrived
    for seen in landed.values():
        assert first_seen(seen) == sorted(set(seen))
    assert world.spill_bytes() == 0


def accepted_on_disk(world: World) -> set[int]:
    """Return the records that put has accepted and that lie in a spill file."""
    found = set()
    for path in world.disk.paths(".headrace"):
        content = world.disk.content(path) or b""
        if path.endswith(".spill"):
            found |= {int(record.data.split(b":")[0]) for record in decode_records(content[FILE_HEAD_BYTES:])[0]}
    return found & set(world.accepted)


def test_a_failing_disk_makes_put_wait() -> None:
    """A disk that takes nothing turns the spill into back-pressure; nothing is accepted that is nowhere."""
    world = World()
    world.disk.bytes_max = 100 * KIB

    async def main() -> None:
        async with world.open() as producer:
            world.net.is_off = True
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(30):
                    await world.put(producer, range(1000))
            assert producer.ledger.accepted == len(world.accepted)
            world.net.is_off = False
            assert await producer.flush(60) == 0

    world.loop.run(main())
    assert world.outcomes.keys() == set(world.accepted)


@pytest.mark.parametrize("has_end", [True, False])
def test_what_a_failed_append_left_is_not_sent_after_a_restart(*, has_end: bool) -> None:
    """Frames whose append failed were put once more: the next process sends each record once, whole or cut there."""
    world = World(buffer_bytes_max=2 * MIB)
    world.net.part = lambda whole: whole if has_end else whole // 2  # type: ignore[method-assign] # what is left

    async def main() -> None:
        world.net.is_off = True
        async with world.open() as producer:
            await world.put(producer, range(400), asks=False)
            assert producer.ledger.spilled
            for number in range(400, 420):
                world.net.rates = {"torn_write": 1.0}
                putting = asyncio.ensure_future(world.put(producer, range(number, number + 1), asks=False))
                await asyncio.sleep(0.5)
                world.net.rates = {}
                producer.wake_waiters()
                await putting
            spilled = producer.ledger.spilled
            await producer.close(0)
        world.net.is_off = False
        async with world.open() as producer:
            assert producer.ledger.accepted == spilled
            assert await producer.flush(60) == 0

    world.loop.run(main())
    landed = world.numbers()
    assert {number for seen in landed.values() for number in seen} >= set(range(400, 420))
    for seen in landed.values():
        assert seen == sorted(set(seen))


def test_a_file_that_is_none_of_ours_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies under the name of a spill file and can't be read is named, with what is lost by it."""
    errors: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(SilentTelemetry, "error", lambda _, event, **fields: errors.append((event, fields)))
    world = World()
    path = f"{spill_folder(world.settings.state_dir, STREAM)}/00.spill"
    world.disk.write_log(path, b"?" * 5000)

    async def main() -> None:
        async with world.open():
            pass

    world.loop.run(main())
    assert errors == [("spill_damaged", {"path": path, "offset": 0, "bytes": 5000})]


def test_a_damaged_mark_is_told() -> None:
    """Where the former process was is not guessed: it is an error of the configuration, with words."""
    world = World()

    async def main() -> None:
        async with world.open() as producer:
            world.net.is_off = True
            await world.put(producer, range(500))
            world.net.is_off = False
        mark = next(path for path in world.disk.paths(".headrace") if path.endswith("mark.json"))
        world.disk.truncate(mark)
        world.disk.write_log(mark, b"[-1]")
        with pytest.raises(ConfigurationError, match="damaged"):
            await world.open().__aenter__()

    world.loop.run(main())


def test_frames_read_back_and_no_damage_goes_unseen() -> None:
    """Every record comes back as it was; a cut ends before the torn frame, a flipped bit is found."""
    chance = random.Random(5)
    given = [
        (chance.randbytes(size), "k" * 255 + "é", None if size % 2 else chance.choice((0, HASH_KEY_MAX)))
        for size in (0, 1, 2, 500, 70_001)
    ]
    frames = [encode_record(*each) for each in given]
    whole = b"".join(frames)
    records, is_broken = decode_records(whole)
    assert ([record[:3] for record in records], is_broken) == (given, False)
    assert [record.end for record in records] == [sum(map(len, frames[: count + 1])) for count in range(5)]
    for cut in range(0, len(whole), 97):
        records, is_broken = decode_records(whole[:cut])
        assert not is_broken
        assert [record[:3] for record in records] == given[: len(records)]
    for at in range(0, len(frames[0]) + len(frames[1]), 3):
        flipped = bytearray(whole)
        flipped[at] ^= 1 << (at % 8)
        assert [record[:3] for record in decode_records(bytes(flipped))[0]] != given
    head = FileHead(7, 6, 4_000)
    assert decode_head(encode_head(head)) == head
    assert decode_head(b"x" * FILE_HEAD_BYTES) is None
    assert decode_head(b"") is None
