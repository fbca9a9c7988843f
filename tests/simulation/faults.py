"""The misfortunes of a simulated world: which of them a seed draws, and the network that deals them out."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from shared.errors import AmbiguousCallError, ServiceUnavailableError, ThrottledError
from tests.simulation.crash_sites import CallBlow
from tests.simulation.loop import PROCESS, WORLD_CONTEXT, Handle, Process, SimulationLoop
from tests.simulation.story import Story

T = TypeVar("T")

# Each kind of fault with the highest probability at which it strikes; a seed draws which are on, and how often.
RATES_MAX: Final = {
    "call_throttled": 0.10,
    "call_unavailable": 0.10,
    "call_failed_after_sending": 0.06,  # an answer 5xx that may mean anything
    "request_lost": 0.06,
    "reply_lost": 0.10,
    "connection_cut": 0.08,  # landed, and the caller knows at once that no answer will come
    "landed_late": 0.08,  # after the caller gave up
    "call_slow": 0.10,
    "record_throttled": 0.35,
    "record_failed": 0.10,
    "record_refused_with_unknown_code": 0.08,
    "iterator_expired": 0.08,
    "page_short": 0.50,
    "page_empty": 0.30,
    "late_shard_end": 0.90,
    "object_conflict": 0.15,
    "disk_full": 0.10,
    "torn_write": 0.50,
    "read_failed": 0.05,
}
# Drawn beside these in worlds whose workers read by fan-out.
FAN_OUT_RATES_MAX: Final = {"subscription_silent": 0.02, "subscription_ended": 0.10}
_RECORD_FAULTS: Final = {
    "record_throttled": "ProvisionedThroughputExceededException",
    "record_failed": "InternalFailure",
    "record_refused_with_unknown_code": "SomethingNewException",
}
_IS_ON: Final = 0.5
_SLOW_DISK: Final = 0.1
_YIELDING_DISK: Final = 0.4  # a call of the real disk never lets others run; more of these only cost time
LATE_SECONDS_MAX: Final = 12.0
# How the operations of a service begin: of the bucket, and of what takes records.
BUCKET: Final = "objects."
STREAMS: Final = "kinesis.put_record"
# How many blows of a kind fall on one world: one of these, drawn.
BLOWS: Final = {
    "reshard": (0, 1, 2, 4),
    "kill_worker": (0, 1, 1, 2),
    "kill_producer": (0, 1, 1, 2),
    "at_call": (2, 5, 8, 11, 14),
    "stop_worker": (0, 0, 1, 2),
    "stop_producer": (0, 1, 2, 2),
    "freeze_worker": (0, 1, 1, 2),
    "freeze_producer": (0, 1, 1, 2),
    "clock_jump": (0, 0, 1, 2),
    "power_loss": (0, 0, 1, 2),
    "log_rotated": (0, 1, 2, 4),
    "log_removed": (2, 3, 4),
    "log_cut": (0, 1, 2, 3),
}


@dataclass(slots=True)
class FaultPlan:
    """What a seed drew: rates by kind, and how many times each blow falls during the chaos."""

    rates: dict[str, float] = field(default_factory=dict)
    blows: dict[str, int] = field(default_factory=dict)

    @classmethod
    def draw(cls, chance: random.Random) -> FaultPlan:
        """Swarm testing: each seed has some faults on and others off (Groce et al., ISSTA 2012)."""
        rates = {
            kind: chance.uniform(0, highest) if chance.random() < _IS_ON else 0.0 for kind, highest in RATES_MAX.items()
        }
        return cls(rates, {kind: chance.choice(numbers) for kind, numbers in BLOWS.items()})

    def end(self) -> None:
        """No more faults from now on."""
        self.rates = dict.fromkeys(RATES_MAX, 0.0)


class SimulatedNetwork:
    """The port `Network` with latency, faults and a server side that outlives its callers.

    A request is applied in the world's own context: it lands even if the process that sent it is dead by then.
    """

    def __init__(
        self, loop: SimulationLoop, chance: random.Random, plan: FaultPlan, story: Story, *, timeout_seconds: float
    ) -> None:
        self._loop = loop
        self._chance = chance
        self._plan = plan
        self._story = story
        self._timeout_seconds = timeout_seconds
        self.epoch = 1_700_000_000.0
        self.call_blows: list[CallBlow] = []
        self.strike: Callable[[Process, CallBlow], None] | None = None
        self._service_away = ""
        self._named = ""

    def take_away(self, service: str) -> None:
        """Let nobody reach the operations that begin like this, until `bring_back`."""
        self._service_away = service
        self._story.tell("world", f"{service}* is away")

    def bring_back(self) -> None:
        """Let every service be reached again."""
        self._service_away = ""
        self._story.tell("world", "all services are back")

    def now(self) -> float:
        """Return the servers' monotonic seconds."""
        return self._loop.time()

    def wall(self) -> float:
        """Return the servers' clock; it never jumps."""
        return self.epoch + self._loop.time()

    def happens(self, kind: str) -> bool:
        """Draw whether a fault strikes."""
        rate = self._plan.rates.get(kind, 0.0)
        if not rate or self._chance.random() >= rate:
            return False
        self._story.count(kind)
        return True

    def entry_error(self, operation: str, shard_id: str) -> str:
        """Draw the fate of one record of a batch."""
        return next((code for kind, code in _RECORD_FAULTS.items() if self.happens(kind)), "")

    def page_length(self, operation: str, length: int) -> int:
        """Draw how much of what waits is in the next page."""
        if length and operation != "files.read" and self.happens("page_empty"):
            return 0
        return self._chance.randint(1, length) if length > 1 and self.happens("page_short") else length

    def part(self, whole: int) -> int:
        """Draw how much of a write landed."""
        return self._chance.randint(0, whole) if whole > 0 else 0

    def _latency(self) -> float:
        return 0.002 + self._chance.expovariate(40)

    def name_call(self, name: str) -> None:
        """Give the next call, which has to follow without an await, a narrower name for the blows that fall at it."""
        self._named = name

    async def call(self, operation: str, land: Callable[[], T]) -> T:
        """Carry a request there and its answer back, or not."""
        process = PROCESS.get()
        if process is not None and not process.alive:
            await self._loop.create_future()  # killed in this very step: nothing that it does gets out any more
        name, self._named = self._named or operation, ""
        blow = self._blow_at(process, name)
        phase = blow.phase if blow is not None else ""
        if operation.startswith("files."):
            return await self._disk_call(land, process, blow)
        request = _Request(self._loop, self._story, operation, land)
        go_there, come_back = self._latency(), self._latency()
        refusal = self._refusal(operation)
        if refusal is not None:
            self._put_off(blow)
            self._after(go_there, request.answer, None, refusal)
            return await self._answered(request, process, blow)
        request.timer = self._after(self._timeout_seconds, request.give_up, self._timeout_seconds)
        if self.happens("request_lost"):
            self._put_off(blow)
            return await self._answered(request, process, blow)
        if self.happens("call_slow"):
            go_there += self._chance.uniform(0, 0.9 * self._timeout_seconds)
        if self.happens("landed_late"):
            go_there = self._timeout_seconds + self._chance.uniform(0.001, LATE_SECONDS_MAX)
        request.come_back = come_back
        request.is_reply_lost = self.happens("reply_lost")
        request.is_cut = not request.is_reply_lost and self.happens("connection_cut")
        request.on_landing = (lambda: self._strike(process, blow)) if phase == "landed" else None
        self._after(go_there, request.arrive)
        if phase == "sent":
            self._after(0, self._strike, process, blow)
        return await self._answered(request, process, blow)

    async def _answered(self, request: _Request[T], process: Process | None, blow: CallBlow | None) -> T:
        try:
            return await request.future
        finally:
            if blow is not None and blow.phase == "answered":
                # The answer is in the process, which is struck before it has acted on it, or a moment later.
                self._after(self._chance.choice([0, 0.001]), self._strike, process, blow)

    async def _disk_call(self, land: Callable[[], T], process: Process | None, blow: CallBlow | None) -> T:
        # A system call is made or not made; it has no network to get lost in.
        fate = self._chance.random()
        if fate < _YIELDING_DISK:
            await asyncio.sleep(0.001 if fate < _SLOW_DISK else 0)
        if blow is not None and blow.phase == "sent":
            self._strike(process, blow)
            await asyncio.sleep(0)  # the dead do not come back from here
        try:
            return land()
        finally:
            if blow is not None and blow.phase == "landed":
                self._strike(process, blow)
                await asyncio.sleep(0)
            elif blow is not None and blow.phase == "answered":
                self._after(self._chance.choice([0, 0.001]), self._strike, process, blow)

    def _refusal(self, operation: str) -> Exception | None:
        if self._service_away and operation.startswith(self._service_away):
            self._story.count("service_away")
            return ServiceUnavailableError(f"could not connect for {operation}", code="EndpointConnectionError")
        if self.happens("call_throttled"):
            return ThrottledError(f"{operation} was throttled", code="ThrottlingException")
        if self.happens("call_unavailable"):
            return ServiceUnavailableError(f"could not connect for {operation}", code="EndpointConnectionError")
        if self.happens("call_failed_after_sending"):
            return AmbiguousCallError(f"{operation}: internal failure", code="InternalFailure")
        return None

    def _blow_at(self, process: Process | None, name: str) -> CallBlow | None:
        """Return the blow that falls at this call."""
        if process is None:
            return None
        for each in self.call_blows:
            if each.call == name and process.name.startswith(each.role):
                each.countdown -= 1
                if each.countdown <= 0:
                    self.call_blows.remove(each)
                    return each
        return None

    def _put_off(self, blow: CallBlow | None) -> None:
        """Let a blow fall at a later call: this one never reaches the service."""
        if blow is not None and blow.phase != "answered":
            blow.countdown = 1
            self.call_blows.append(blow)

    def _strike(self, process: Process | None, blow: CallBlow | None) -> None:
        if process is not None and process.alive and blow is not None and self.strike is not None:
            self.strike(process, blow)

    def _after(self, seconds: float, callback: Callable[..., None], *args: Any) -> Handle:
        return self._loop.call_later(seconds, callback, *args, context=WORLD_CONTEXT)


class _Request(Generic[T]):
    """One request on its way; what it does at the service and what comes back."""

    def __init__(self, loop: SimulationLoop, story: Story, operation: str, land: Callable[[], T]) -> None:
        self.operation = operation
        self.future: asyncio.Future[T] = loop.create_future()
        self.come_back = 0.0
        self.is_reply_lost = False
        self.is_cut = False
        self.on_landing: Callable[[], None] | None = None
        self.timer: Handle | None = None  # at which the caller gives up
        self._loop = loop
        self._story = story
        self._land = land

    def arrive(self) -> None:
        """Do at the service what was asked, and send the answer back."""
        result, error = None, None
        try:
            result = self._land()
        except Exception as refused:  # noqa: BLE001 - whatever the service answers goes to the caller
            error = refused
        self._story.tell("cloud", f"{self.operation} {type(error).__name__ if error else 'ok'}")
        if self.on_landing is not None:
            self.on_landing()
        if self.is_cut:
            error = AmbiguousCallError(f"the connection of {self.operation} was cut", code="ConnectionClosedError")
        if not self.is_reply_lost:
            self._loop.call_later(self.come_back, self.answer, result, error, context=WORLD_CONTEXT)

    def answer(self, result: Any, error: Exception | None) -> None:
        """Give the caller its answer, unless it has one or has gone."""
        if self.timer is not None:
            self.timer.cancel()
        if not self.future.done():
            if error is not None:
                self.future.set_exception(error)
            else:
                self.future.set_result(result)

    def give_up(self, seconds: float) -> None:
        """Tell the caller that no answer has come; the request may land all the same."""
        self.answer(None, AmbiguousCallError(f"no answer to {self.operation} after {seconds} s", code="ReadTimeout"))
