"""Health, metrics and the live page of a worker over HTTP."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from importlib.resources import files
from types import TracebackType
from typing import Any, Final, Self

import orjson
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from consumer.status import WorkerState, WorkerStatus
from shared.errors import ConfigurationError
from shared.ports import Telemetry

_LAG_PROBE_SECONDS: Final = 0.5
_LAG_SECONDS_MAX: Final = 5.0  # a loop that is later than this is not alive
_PREFIX: Final = "headrace_"
# Self-contained; whatever comes from the status is put in as text, never as markup.
_LIVE_PAGE: Final = files("consumer").joinpath("live_page.html").read_bytes()
_SECURITY_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class _StatusCollector(Collector):
    """Turns a worker's status into metrics at the moment they are asked for."""

    def __init__(self, status: Callable[[], WorkerStatus]) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """Yield all families."""
        status = self._status()
        totals = status.totals
        for name, text, value in (
            ("worker_records", "records read", totals.read),
            ("worker_duplicates", "repetitions left out", totals.duplicates),
            ("worker_events", "events enriched", totals.enriched),
            ("worker_dead_letters", "records that became dead letters", totals.dead_letters),
            ("worker_objects", "objects stored", totals.objects),
            ("worker_object_bytes", "bytes of the objects stored", totals.object_bytes),
            ("worker_commits", "checkpoints stored", totals.commits),
        ):
            yield CounterMetricFamily(_PREFIX + name, f"{text}, since the start of the worker", value=value)
        for name, text, gauge in (
            ("worker_ready", "1 if it reads and nothing of its shards is halted", float(status.is_ready)),
            ("worker_leases", "shards that it holds", float(len(status.shards))),
            ("worker_renewal_age_seconds", "time since it renewed its leases", status.renewal_age_seconds),
            ("worker_budget_used_bytes", "memory taken for records", float(status.budget_bytes_used)),
            ("worker_budget_max_bytes", "memory that records may take", float(status.budget_bytes_max)),
        ):
            yield GaugeMetricFamily(_PREFIX + name, text, value=gauge)
        age = GaugeMetricFamily(
            _PREFIX + "iterator_age_milliseconds", "how far behind the tip a shard is read", labels=["shard_id"]
        )
        for shard in status.shards:
            age.add_metric([shard.shard_id], float(shard.iterator_age_milliseconds))
        yield age


class HttpServer:
    """Serves one worker; an async context manager. `url` is empty with port -1, which means: no server."""

    def __init__(self, status: Callable[[], WorkerStatus], telemetry: Telemetry, *, host: str, port: int) -> None:
        self._status = status
        self._host = host
        self._port = port
        self._registry = CollectorRegistry()
        self._registry.register(_StatusCollector(status))
        # A telemetry with a registry of its own brings its counters along.
        self._telemetry_registry: CollectorRegistry | None = getattr(telemetry, "registry", None)
        self._runner: web.AppRunner | None = None
        self._probe: asyncio.Task[None] | None = None
        self._lag_seconds = 0.0
        self.url = ""

    async def __aenter__(self) -> Self:
        """Listen; ConfigurationError if the port is taken."""
        if self._port < 0:
            return self
        app = web.Application(client_max_size=1024)
        app.add_routes(
            [
                web.get("/", self._page),
                web.get("/status.json", self._status_json),
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        listener = self._bind()
        await web.SockSite(self._runner, listener).start()
        host = f"[{self._host}]" if ":" in self._host else self._host
        self.url = f"http://{host}:{listener.getsockname()[1]}/"
        self._probe = asyncio.get_running_loop().create_task(self._probe_lag())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening."""
        if self._probe is not None:
            self._probe.cancel()
        if self._runner is not None:
            await self._runner.cleanup()

    def _bind(self) -> socket.socket:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                self._host, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            listener = socket.socket(family, kind, protocol)
        except OSError as error:
            raise ConfigurationError(f"Can't listen on `{self._host[:255]}`: {error.strerror or error}") from error
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError as error:
            listener.close()
            raise ConfigurationError(
                f"Can't listen on {self._host}:{self._port}: {error.strerror}",
                hint="Choose another --http_port; 0 takes any free one, -1 none",
            ) from error
        return listener

    async def _probe_lag(self) -> None:
        """Measure by how much the loop is late: what blocks it blocks the renewals, too."""
        loop = asyncio.get_running_loop()
        while True:
            before = loop.time()
            await asyncio.sleep(_LAG_PROBE_SECONDS)
            self._lag_seconds = loop.time() - before - _LAG_PROBE_SECONDS

    async def _page(self, _: web.Request) -> web.Response:
        return web.Response(body=_LIVE_PAGE, content_type="text/html", charset="utf-8", headers=_SECURITY_HEADERS)

    async def _status_json(self, _: web.Request) -> web.Response:
        return _json(dict(self._status().as_mapping()), is_good=True)

    async def _healthz(self, _: web.Request) -> web.Response:
        status = self._status()
        is_alive = self._lag_seconds <= _LAG_SECONDS_MAX and (
            status.is_renewal_fresh or status.state is not WorkerState.RUNNING
        )
        return _json(
            {
                "alive": is_alive,
                "loop_lag_seconds": round(self._lag_seconds, 3),
                "renewal_age_seconds": round(status.renewal_age_seconds, 2),
            },
            is_good=is_alive,
        )

    async def _readyz(self, _: web.Request) -> web.Response:
        status = self._status()
        return _json({"ready": status.is_ready, "state": status.state.value}, is_good=status.is_ready)

    async def _metrics(self, _: web.Request) -> web.Response:
        body = generate_latest(self._registry)
        if self._telemetry_registry is not None:
            body += generate_latest(self._telemetry_registry)
        return web.Response(
            body=body, headers={**_SECURITY_HEADERS, "Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )


def _json(content: dict[str, Any], *, is_good: bool) -> web.Response:
    return web.Response(
        status=200 if is_good else 503,
        body=orjson.dumps(content),
        content_type="application/json",
        headers=_SECURITY_HEADERS,
    )
