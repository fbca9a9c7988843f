"""A consumer's world in virtual time: fakes, a sink that acknowledges later, and kills at a given call."""

from __future__ import annotations

import asyncio
import gzip
import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson
import pytest

from consumer.worker import Worker
from shared.aws.objects import WriteOptions
from shared.ports import Delivered, ObjectStore, Outcome, Receipt
from shared.records import PutEntry
from shared.settings import ConsumerSettings
from shared.telemetry import SilentTelemetry
from tests.simulation.loop import PROCESS, Process, SimulationLoop
from tests.support.fake_fan_out import FakeFanOut
from tests.support.fake_kinesis import FakeKinesis
from tests.support.fake_leases import FakeLeases
from tests.support.fake_objects import FakeObjects
from tests.support.fake_uploads import UploadClient, UploadingObjects
from tests.support.network import PerfectNetwork

T = TypeVar("T")
WALL = 1_795_000_000.0
README_RECORD: dict[str, Any] = {
    "session_id": "a1",
    "customer_number": 100,
    "city": "Washington",
    "country": "USA",
    "credit_limit": 1000,
    "browse_history": [
        {"product_code": "Product1", "quantity": 2, "in_shopping_cart": True},
        {"product_code": "Product2", "quantity": 1, "in_shopping_cart": False},
    ],
}
SOURCE = "source"
DESTINATIONS = {"USA": "usa", "International": "international"}


class VirtualClock:
    """The clock of everybody: the loop's."""

    def __init__(self, loop: SimulationLoop, fast_seconds: float = 0.0) -> None:
        self._loop = loop
        self._fast_seconds = fast_seconds

    def monotonic(self) -> float:
        """Return virtual seconds."""
        return self._loop.time()

    def wall(self) -> float:
        """Return virtual seconds after a fixed day, as far off as this clock is."""
        return WALL + self._loop.time() + self._fast_seconds


class KillingNetwork(PerfectNetwork):
    """Calls take 3 ms or what `delay` says; the `kill_at`-th of a process kills it, before or after it landed.

    With `freeze_seconds` it only stands still for so long: what had not landed does so when it wakes.
    """

    def __init__(self, loop: SimulationLoop) -> None:
        super().__init__(wall=WALL)
        self._loop = loop
        self.delay: Callable[[], float] = lambda: 0.003
        self.kill_at: int | None = None
        self.kills_after_landing = False
        self.freeze_seconds: float | None = None
        self.counted = 0
        self.killed: str | None = None  # the operation at which it happened
        self.errors: dict[str, list[Exception]] = {}
        self.pages: list[int] = []  # lengths of the next pages; then full ones
        self.expiries = 0

    def now(self) -> float:
        """Return virtual seconds."""
        return self._loop.time()

    def wall(self) -> float:
        """Return virtual wall time."""
        return WALL + self._loop.time()

    async def call(self, operation: str, land: Callable[[], T]) -> T:
        """Land after 3 ms, or die."""
        self.calls.append(operation)
        process = PROCESS.get()
        if process is not None and self.kill_at is not None:
            self.counted += 1
            if self.counted == self.kill_at:
                self.killed, self.kill_at = operation, None
                return await self._strike(process, land)
        queued = self.errors.get(operation)
        await asyncio.sleep(self.delay())
        if queued:
            raise queued.pop(0)
        return land()

    async def _strike(self, process: Process, land: Callable[[], T]) -> T:
        answer = [land()] if self.kills_after_landing else []
        if self.freeze_seconds is None:
            self._loop.kill(process)
            await self._loop.create_future()
        self._loop.freeze(process, self.freeze_seconds or 0.0)
        await asyncio.sleep(self.delay())
        return answer[0] if answer else land()

    def page_length(self, operation: str, length: int) -> int:
        """Return the scripted length, else all."""
        return min(length, self.pages.pop(0)) if self.pages else length

    def happens(self, kind: str) -> bool:
        """Let iterators expire as often as was asked for."""
        if kind == "iterator_expired" and self.expiries:
            self.expiries -= 1
            return True
        return False


class LateSink:
    """Puts a record at once and tells its outcome 50 ms later; `refuse` decides on outcomes."""

    def __init__(self, kinesis: FakeKinesis, stream: str) -> None:
        self._kinesis = kinesis
        self._stream = stream
        self.refuse: Callable[[bytes], Outcome | None] = lambda _: None
        self.is_open = True

    async def put(self, data: bytes, partition_key: str, receipt: Receipt, token: Any) -> None:
        """Take a record."""
        outcome = self.refuse(data)
        if outcome is None:
            result = await self._kinesis.put_record(self._stream, PutEntry(data, partition_key))
            outcome = Delivered(result.shard_id, result.sequence_number)
        if self.is_open:
            asyncio.get_running_loop().call_later(0.05, receipt, token, outcome)

    async def put_all(
        self, datas: Sequence[bytes], partition_keys: Sequence[str], receipt: Receipt, token: Any
    ) -> None:
        """Take one after the other."""
        for data, partition_key in zip(datas, partition_keys, strict=True):
            await self.put(data, partition_key, receipt, token)

    async def flush(self, deadline_seconds: float) -> int:
        """Nothing waits here."""
        return 0


@dataclass
class SmallCloud:
    """Streams, table and bucket, and workers over them."""

    loop: SimulationLoop
    network: KillingNetwork
    kinesis: FakeKinesis
    leases: FakeLeases
    objects: FakeObjects
    telemetry: SilentTelemetry
    sinks: dict[str, LateSink]
    uploads: UploadClient
    workers: int = 0

    @classmethod
    def make(cls, shards: int = 1) -> SmallCloud:
        """Make the streams."""
        loop = SimulationLoop()
        network = KillingNetwork(loop)
        kinesis = FakeKinesis(network)
        kinesis.create_stream(SOURCE, shards)
        for stream in DESTINATIONS.values():
            kinesis.create_stream(stream)
        sinks = {name: LateSink(kinesis, stream) for name, stream in DESTINATIONS.items()}
        telemetry = SilentTelemetry()
        objects = FakeObjects(network)
        return cls(loop, network, kinesis, FakeLeases(network), objects, telemetry, sinks, UploadClient(objects))

    def worker(
        self,
        *,
        with_bucket: bool = True,
        fan_out: FakeFanOut | None = None,
        fast_seconds: float = 0.0,
        uploads: WriteOptions | None = None,
        **settings: Any,
    ) -> Worker:
        """Make a worker with quick settings, whose clock is fast; with `uploads` objects go up in parts."""
        self.workers += 1
        chosen: dict[str, Any] = {
            "app": "test",
            "worker_id": f"worker-{self.workers}",
            "source_stream": SOURCE,
            "dest_streams": DESTINATIONS,
            "bucket": "bucket" if with_bucket else "",
            "flush_seconds": 5,
            "shard_sync_seconds": 2,
            **settings,
        }
        return Worker(
            ConsumerSettings(**chosen),
            kinesis=self.kinesis,
            leases=self.leases,
            objects=self._objects_of(uploads) if with_bucket else None,
            sinks=self.sinks,
            clock=VirtualClock(self.loop, fast_seconds),
            random=random.Random(self.workers),
            telemetry=self.telemetry,
            fan_out=fan_out,
        )

    def _objects_of(self, uploads: WriteOptions | None) -> ObjectStore:
        return self.objects if uploads is None else UploadingObjects(self.uploads, uploads, 10.0)

    def start(self, worker: Worker) -> tuple[asyncio.Event, Any, Process]:
        """Run a worker as a process of its own; return its stop event, its task and the process."""
        stop = asyncio.Event()
        process = Process(worker.worker_id)
        task = self.loop.spawn(process, lambda: worker.run(stop))
        return stop, task, process

    async def put(self, *events: Mapping[str, Any] | bytes, key: str | None = None) -> None:
        """Put events into the source stream."""
        for event in events:
            data = event if isinstance(event, bytes) else orjson.dumps(event)
            session = "a1" if isinstance(event, bytes) else event["session_id"]
            await self.kinesis.put_record(SOURCE, PutEntry(data, key or session))

    async def put_numbered(self, first: int, end: int) -> None:
        """Put events numbered `first` to `end` - 1 of ten sessions."""
        await self.put(*({"session_id": f"s{n % 10}", "n": n, "country": "Spain"} for n in range(first, end)))

    def stored(self, folder: str = "archive/") -> list[dict[str, Any]]:
        """Return all lines of all objects below a folder, in key order."""
        found: list[dict[str, Any]] = []
        for key in sorted(self.objects.objects):
            if key.startswith(folder):
                body = self.objects.objects[key].body
                found += [orjson.loads(line) for line in gzip.decompress(body).splitlines()]
        return found

    def delivered(self, stream: str) -> list[dict[str, Any]]:
        """Return what a destination stream holds."""
        return [orjson.loads(record.data) for _, record in self.kinesis.records(stream)]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let virtual time pass until a condition holds, at most 100 s."""
        for _ in range(10_000):
            if condition():
                return
            await asyncio.sleep(0.01)
        pytest.fail("the condition did not come to hold within 100 virtual seconds")

    def run(self, main: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a test's story in virtual time."""
        try:
            return self.loop.run(main())
        finally:
            self.loop.close()
