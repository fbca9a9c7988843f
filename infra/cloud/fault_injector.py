"""Carries out what the faults decide: waits, refuses, cuts, lands late, reshards."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import structlog

from infra.cloud.call_facts import facts_of
from infra.cloud.core.fault_desk import FaultDesk, Verdict
from infra.cloud.core.faults import (
    LATE_BYTES_MAX,
    LATE_COUNT_MAX,
    CutMidway,
    EmptyPage,
    ExpireIterator,
    Facts,
    Fail,
    FaultPlan,
    LandLate,
    LoseReply,
    LoseRequest,
    Refusal,
    SlowBody,
)
from infra.cloud.core.reshard_schedule import ReshardSchedule
from infra.cloud.kinesis_service import KinesisService
from infra.cloud.misbehaviour import Admission, CarryOut, Reply
from infra.cloud.resharder import Resharder
from infra.cloud.rewriting import refusal_of, with_limit, with_refusals, without_page, without_records
from infra.cloud.service_request import ServiceRequest

_EXPIRED: Final = Refusal("ExpiredIteratorException", 400, "Iterator expired: a fault was asked for.")
_LOG: Final = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, order=True)
class _Late:
    """A request that lands at `due` (monotonic seconds)."""

    due: float
    number: int
    request: ServiceRequest = field(compare=False)
    carry_out: CarryOut = field(compare=False)


class FaultInjector:
    """Misbehaves according to a plan, which can be replaced at any time; late landings of the old one still land."""

    def __init__(self, kinesis: KinesisService, plan: FaultPlan) -> None:
        self._kinesis = kinesis
        self._resharder = Resharder(kinesis)
        self._late: list[_Late] = []
        self._late_bytes = 0
        self._late_count = 0
        self._late_refused = 0
        self._wake = asyncio.Event()
        self._begin(plan)

    def _begin(self, plan: FaultPlan) -> None:
        started = time.monotonic()
        self._desk = FaultDesk(plan, started)
        self._schedule = ReshardSchedule(plan, started)

    @property
    def plan(self) -> FaultPlan:
        """What goes wrong now."""
        return self._desk.plan

    def load(self, plan: FaultPlan) -> None:
        """Let this plan begin now, with counts at zero."""
        self._begin(plan)
        self._wake.set()

    def state(self) -> dict[str, Any]:
        """Counts of the plan, as JSON values."""
        return {
            "seed": self.plan.seed,
            "seconds": round(time.monotonic() - self._desk.started, 3),
            **self._desk.counts(),
            "reshards": self._schedule.counts(),
            "late_landings": {
                "outstanding": len(self._late),
                "landed": self._late_count - len(self._late),
                "not_taken": self._late_refused,
            },
        }

    # Calls.

    async def answer(self, request: ServiceRequest, carry_out: CarryOut) -> Reply | None:
        """Answer a request with whatever is to go wrong with it; None cuts the connection."""
        if self._desk.is_idle:
            return await carry_out(request)
        facts, verdict = self._decide(request)
        if verdict.delay_seconds:
            await asyncio.sleep(verdict.delay_seconds)
        reply = await self._outcome(request, facts, verdict, carry_out)
        if verdict.delay_after_seconds:
            await asyncio.sleep(verdict.delay_after_seconds)
        return reply

    async def admit(self, request: ServiceRequest) -> Admission:
        """Decide a SubscribeToShard call, whose answer is a stream of events."""
        if self._desk.is_idle:
            return Admission()
        _, verdict = self._decide(request)
        if verdict.delay_seconds or verdict.delay_after_seconds:
            await asyncio.sleep(verdict.delay_seconds + verdict.delay_after_seconds)
        match verdict.outcome:
            case Fail(refusal):
                return Admission(refusal_of(request, refusal))
            case CutMidway(events):
                return Admission(events_max=events)
            case LoseRequest() | LoseReply() | LandLate():
                return Admission(events_max=0)
        return Admission()

    def _decide(self, request: ServiceRequest) -> tuple[Facts, Verdict]:
        facts = facts_of(request, self._kinesis, with_places=self._desk.asks_for_places)
        return facts, self._desk.decide(facts, time.monotonic())

    async def _outcome(
        self, request: ServiceRequest, facts: Facts, verdict: Verdict, carry_out: CarryOut
    ) -> Reply | None:
        if verdict.records_max is not None:
            request = with_limit(request, verdict.records_max)
        carry_out = _refusing_records(facts, verdict.record_refusals, carry_out)
        if isinstance(verdict.outcome, Fail | LoseRequest | LandLate | ExpireIterator):
            return await self._instead(request, verdict, carry_out)
        return _changed(await carry_out(request), request, facts, verdict)

    async def _instead(self, request: ServiceRequest, verdict: Verdict, carry_out: CarryOut) -> Reply | None:
        """What comes in the place of the answer, with the call carried out now, later or not at all."""
        refusal: Refusal | None = None
        match verdict.outcome:
            case Fail(refusal, landed):
                if landed:
                    await carry_out(request)
            case LandLate(_, refusal):
                self._land_late(request, verdict.late_seconds, carry_out)
            case ExpireIterator():
                refusal = _EXPIRED
        return None if refusal is None else refusal_of(request, refusal)

    # Later.

    def _land_late(self, request: ServiceRequest, seconds: float, carry_out: CarryOut) -> None:
        """Keep a request for later; beyond the bounds it is as if it had been lost on its way."""
        if len(self._late) >= LATE_COUNT_MAX or self._late_bytes + len(request.body) > LATE_BYTES_MAX:
            self._late_refused += 1
            return
        self._late_count += 1
        self._late_bytes += len(request.body)
        heapq.heappush(self._late, _Late(time.monotonic() + seconds, self._late_count, request, carry_out))
        self._wake.set()

    async def run(self) -> None:
        """Land what is due and reshard on schedule, until cancelled; what has not landed then never does."""
        while True:
            self._wake.clear()
            now = time.monotonic()
            while self._late and self._late[0].due <= now:
                late = heapq.heappop(self._late)
                self._late_bytes -= len(late.request.body)
                await _land(late)
            for turn in self._schedule.due(now):
                done = self._resharder.take(self.plan.seed, turn)
                self._schedule.report(turn, done=done is not None)
            await self._wait()

    async def _wait(self) -> None:
        deadlines = [self._late[0].due] if self._late else []
        reshard = self._schedule.next_deadline()
        if reshard is not None:
            deadlines.append(reshard)
        try:
            async with asyncio.timeout(max(0.0, min(deadlines) - time.monotonic()) if deadlines else None):
                await self._wake.wait()
        except TimeoutError:
            return


async def _land(late: _Late) -> None:
    try:
        reply = await late.carry_out(late.request)
    except Exception as error:  # noqa: BLE001 (nobody waits for the answer; a defect must not end later landings)
        _LOG.exception("late landing failed", error=type(error).__name__)
    else:
        _LOG.debug("landed late", operation=late.request.call.operation, status=reply.status)


def _changed(reply: Reply, request: ServiceRequest, facts: Facts, verdict: Verdict) -> Reply | None:
    """The answer of a call that was carried out, as the client gets it."""
    match verdict.outcome:
        case LoseReply():
            return None
        case EmptyPage():
            return without_page(request, facts.iterator, reply, time.time())
        case SlowBody(bytes_per_second):
            return replace(reply, bytes_per_second=bytes_per_second)
        case CutMidway():
            return replace(reply, bytes_max=len(reply.body) // 2)
    return reply


def _refusing_records(facts: Facts, refused: Mapping[int, Refusal], carry_out: CarryOut) -> CarryOut:
    """Carry out a put without its refused records, which the answer then names."""
    if not refused:
        return carry_out

    async def carry_out_rest(request: ServiceRequest) -> Reply:
        if facts.operation == "PutRecord":
            return refusal_of(request, refused[0])
        rest = without_records(request, refused)
        return with_refusals(request, None if rest is None else await carry_out(rest), refused)

    return carry_out_rest
