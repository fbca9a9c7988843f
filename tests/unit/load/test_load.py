"""The load test's schedule, measurements and page."""

from __future__ import annotations

import asyncio
import random
import signal
from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from unittest.mock import Mock
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.status import WorkerState
from infra.demo_screen import PipelineResult, Screen
from infra.load import command
from infra.load.core.histogram import Histogram
from infra.load.core.meter import LoadMeter
from infra.load.core.schedule import Step, arrivals, ramp
from infra.load.report import LoadResult, page_of, text_of
from infra.load.source import ScheduledSource
from infra.local_run import wait_until_read
from shared.errors import ConfigurationError
from shared.event import decode_event


@given(st.lists(st.floats(0, 4000), min_size=1, max_size=200))
def test_percentiles_are_at_most_one_bucket_too_high(values: list[float]) -> None:
    """No percentile is understated, and none is more than 1.6 % and a microsecond above the exact one."""
    histogram = Histogram()
    for each in values:
        histogram.add(each)
    found = histogram.percentiles()
    assert found is not None
    exact = sorted(values)
    assert found.count == len(values)
    for share, value in ((0.5, found.p50), (0.9, found.p90), (0.99, found.p99), (0.999, found.p99_9)):
        rank = next(at for at in range(1, len(exact) + 1) if at >= share * len(exact))
        assert exact[rank - 1] - 1e-6 <= value <= exact[rank - 1] * (1 + 1 / 64) + 2e-6
    assert found.max == pytest.approx(exact[-1], abs=1e-6)


def test_a_histogram_takes_anything_and_starts_empty() -> None:
    """A clock that went back a little and a latency beyond all bounds are counted; nothing has no percentiles."""
    histogram = Histogram()
    assert histogram.percentiles() is None
    histogram.add(-0.001)
    histogram.add(1e12)
    found = histogram.percentiles()
    assert found is not None
    assert (found.count, found.p50) == (2, 0)


def test_a_ramp_rises_evenly_and_is_bounded() -> None:
    """Steps of one length lead from the first rate to the last; more events than the cloud could keep are refused."""
    assert ramp(100, 300, 30, 3) == (Step(0, 10, 100), Step(10, 20, 200), Step(20, 30, 300))
    assert ramp(100, 300, 30, 1) == (Step(0, 30, 300),)
    with pytest.raises(ConfigurationError, match="500,000"):
        ramp(1000, 1000, 3600, 10)


def test_arrivals_follow_the_rates() -> None:
    """Each step has as many events as its rate says, within four standard deviations, in the order of time."""
    steps = ramp(100, 900, 40, 4)
    due = arrivals(steps, random.Random(1))
    assert list(due) == sorted(due)
    for step in steps:
        expected = step.rate * (step.end - step.start)
        assert abs(sum(step.start <= at < step.end for at in due) - expected) < 4 * expected**0.5


def test_latency_counts_from_when_an_event_was_due() -> None:
    """A step's figures are those of the events due in it; throughput is what was acknowledged while it lasted."""
    meter = LoadMeter((Step(0, 1, 2), Step(1, 2, 1)), array("d", [0.2, 0.9, 1.5]))
    meter.acknowledge(0, 0.3)
    meter.acknowledge(1, 1.9)
    meter.acknowledge(2, 2.5)
    meter.deliver(2, 3.5)
    first, second = meter.figures()
    assert (first.events, first.acknowledged_per_second) == (2, 1)
    assert first.acknowledged is not None
    assert (first.acknowledged.count, first.acknowledged.max) == (2, 1.0)
    assert first.delivered is None
    assert (second.events, second.acknowledged_per_second) == (1, 1)
    assert second.delivered is not None
    assert second.delivered.max == 2.0
    assert meter.acknowledged is not None
    assert meter.acknowledged.count == 3


class TickingClock:
    """A clock that moves by a few milliseconds whenever it is looked at."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        """Return a later time than before."""
        self.now += 0.004
        return self.now

    def wall(self) -> float:
        """Return the same, long after 1970."""
        return self.now + 1.8e9


async def test_events_come_when_they_are_due_whoever_waits() -> None:
    """A run that was held up gets everything that became due meanwhile, in bounded chunks, and no event is left out."""
    clock = TickingClock()
    due = array("d", [0.0, 0.001, *(0.02 for _ in range(1200)), 0.03])
    source = ScheduledSource(due, clock=clock, random=random.Random(1))
    numbers: list[int] = []
    async with asyncio.timeout(20):
        async for chunk in source.chunks():
            assert 1 <= len(chunk.lines) <= 500
            for number, line in chunk.lines:
                assert due[number] <= clock.now - source.began_at
                assert decode_event(line)["number"] == number
                numbers.append(number)
            clock.now += 0.02
    assert numbers == list(range(len(due)))


async def test_a_stop_ends_the_wait_for_the_next_event() -> None:
    """Nobody waits for an event that is due in an hour."""
    source = ScheduledSource(array("d", [3600.0]), clock=TickingClock(), random=random.Random(1))
    async with asyncio.timeout(20):
        waiting = asyncio.ensure_future(anext(source.chunks(), None))
        await asyncio.sleep(0)
        source.stop()
        assert await waiting is None


async def test_a_worker_that_only_starts_is_waited_for() -> None:
    """Where nothing was sent, there is nothing to read, but nothing to audit either before the worker has started."""
    states = iter([WorkerState.STARTING, WorkerState.STARTING, WorkerState.RUNNING])
    worker = Mock()
    worker.status = lambda: Mock(state=next(states), totals=Mock(read=0, duplicates=0))
    consuming = asyncio.get_running_loop().create_task(asyncio.Event().wait())
    async with asyncio.timeout(20):
        await wait_until_read(worker, 0, Screen(), consuming)  # type: ignore[arg-type]  # a task that never ends
    consuming.cancel()
    assert next(states, None) is None


@pytest.mark.parametrize("stage", ["the cloud", "streams and tables"])
def test_ctrl_c_before_the_load_ends_the_command(
    stage: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Whatever is under way before the first event, one Ctrl-C ends it, with its exit code and a word about it."""

    async def interrupt(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGINT)
        async with asyncio.timeout(20):
            await asyncio.Event().wait()

    @asynccontextmanager
    async def cloud() -> AsyncIterator[None]:
        if stage == "the cloud":
            await interrupt()
        yield

    monkeypatch.setattr(command, "LocalCloudProcess", cloud)
    monkeypatch.setattr(command, "point_aws_to", lambda _cloud: None)
    monkeypatch.setattr(command, "provision", interrupt)
    page = tmp_path / "page.html"
    code = command.run_loadtest(
        rate_min=1, rate_max=1, seconds=1, steps=1, shards=1, faults=None, page=page, as_json=True
    )
    told = capsys.readouterr()
    assert (code, told.out, page.exists()) == (130, "", False)
    assert "no event was sent" in told.err


def result(verdict: str, faults: str) -> LoadResult:
    """Return a result of two steps, of which the second was not served."""
    meter = LoadMeter((Step(0, 1, 2), Step(1, 2, 1)), array("d", [0.2, 0.9, 1.5]))
    meter.acknowledge(0, 0.3)
    meter.acknowledge(1, 0.95)
    pipeline = PipelineResult(
        lines=2, filtered={}, rejected=0, events=2, acknowledged=2, dead_lettered=0, in_s3=2, in_destinations=2,
        per_destination={"USA": 2}, objects=1, object_bytes=99, lost=0, duplicated_in_s3=0, duplicated_in_streams=0,
        out_of_order=0, seconds=2, verdict=verdict,
    )  # fmt: skip
    return LoadResult(pipeline, 3, meter.figures(), meter.acknowledged, meter.delivered, 0.5, 2, faults)


def test_the_page_is_well_formed_and_needs_nothing_else() -> None:
    """Whatever a name holds stands there as text; nothing is fetched from anywhere."""
    page = page_of(result("lost: <b>1</b>", '"><script>alert(1)</script>'))
    tree = ET.fromstring(page.removeprefix("<!doctype html>\n"))  # noqa: S314 - our own page
    assert "lost: <b>1</b>" in "".join(tree.itertext())
    assert not tree.findall(".//script")
    assert "src=" not in page
    assert "href=" not in page


def test_a_step_without_answers_is_told_as_such() -> None:
    """What was not accepted is counted, and a step without latencies has none."""
    told = result("ok", "")
    assert told.not_accepted == 1
    mapping = told.as_mapping()
    assert mapping["steps"][1]["acknowledged"] is None
    assert mapping["latency_seconds"]["delivered"] is None
    assert mapping["latency_seconds"]["acknowledged"]["count"] == 2
    assert "100.0 ms" in text_of(told)
