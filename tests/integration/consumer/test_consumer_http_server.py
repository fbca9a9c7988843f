"""Health, readiness, metrics and the live page over loopback."""

from __future__ import annotations

import socket
from dataclasses import replace

import aiohttp
import pytest

from consumer.http_server import HttpServer
from consumer.status import Counters, ShardState, ShardStatus, WorkerState, WorkerStatus
from shared.errors import ConfigurationError
from shared.telemetry import SilentTelemetry, StructlogTelemetry

STATUS = WorkerStatus(
    worker_id="worker-1",
    state=WorkerState.RUNNING,
    application="app",
    source_stream="source",
    uptime_seconds=5,
    renewal_age_seconds=1,
    is_renewal_fresh=True,
    is_ready=True,
    budget_bytes_used=10,
    budget_bytes_max=100,
    totals=Counters(read=3, enriched=2, duplicates=1, destinations={"<script>": 2}),
    shards=(ShardStatus("shardId-000000000000", "worker-1", 1, ShardState.READING, "TRIM_HORIZON", 250, 3, 7),),
)


class Told:
    """A status that a test can change."""

    def __init__(self) -> None:
        self.status = STATUS

    def __call__(self) -> WorkerStatus:
        """Return it."""
        return self.status


async def test_health_and_readiness_follow_the_status() -> None:
    """/healthz fails when renewal is stale, /readyz when the worker is not ready; both are JSON."""
    told = Told()
    async with HttpServer(told, SilentTelemetry(), host="127.0.0.1", port=0) as server, aiohttp.ClientSession() as web:
        for path in ("healthz", "readyz"):
            async with web.get(server.url + path) as answer:
                assert answer.status == 200
        told.status = replace(STATUS, is_renewal_fresh=False, is_ready=False)
        for path in ("healthz", "readyz"):
            async with web.get(server.url + path) as answer:
                assert answer.status == 503
                assert answer.content_type == "application/json"
        told.status = replace(told.status, state=WorkerState.DRAINING)
        async with web.get(server.url + "healthz") as answer:
            assert answer.status == 200, "a worker that drains is alive"


async def test_metrics_hold_totals_shards_and_telemetry() -> None:
    """/metrics is Prometheus text of the status and of the telemetry's own counters."""
    telemetry = StructlogTelemetry()
    telemetry.count("iterators_expired", 4)
    async with (
        HttpServer(Told(), telemetry, host="127.0.0.1", port=0) as server,
        aiohttp.ClientSession() as web,
        web.get(server.url + "metrics") as answer,
    ):
        text = await answer.text()
    assert "# HELP headrace_worker_records_total records read, since the start of the worker" in text
    assert "headrace_worker_records_total 3.0" in text
    assert 'headrace_iterator_age_milliseconds{shard_id="shardId-000000000000"} 250.0' in text
    assert "headrace_iterators_expired_total 4.0" in text


async def test_the_live_page_is_self_contained_and_its_data_is_apart() -> None:
    """The page loads nothing from elsewhere and holds no value; values come as JSON with a strict policy."""
    async with (
        HttpServer(Told(), SilentTelemetry(), host="127.0.0.1", port=0) as server,
        aiohttp.ClientSession() as web,
    ):
        async with web.get(server.url) as answer:
            page = await answer.text()
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        async with web.get(server.url + "status.json") as answer:
            status = await answer.json()
    assert "http://" not in page
    assert "https://" not in page
    assert "innerHTML" not in page
    assert status["totals"]["destinations"] == {"<script>": 2}
    assert status["shards"][0]["iterator_age_milliseconds"] == 250


async def test_a_port_in_use_is_an_error_with_a_hint() -> None:
    """Listening on a taken port names the port and the way out."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=str(port)) as raised:
            await HttpServer(Told(), SilentTelemetry(), host="127.0.0.1", port=port).__aenter__()
    assert "-1" in raised.value.hint


async def test_port_minus_one_means_no_server() -> None:
    """Nothing listens, and the url is empty."""
    async with HttpServer(Told(), SilentTelemetry(), host="127.0.0.1", port=-1) as server:
        assert server.url == ""
