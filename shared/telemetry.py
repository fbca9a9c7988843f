"""What the product says of itself: log lines (readable on a terminal, else JSON) and Prometheus metrics."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Final

import orjson
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from shared.metrics import COUNTERS, GAUGES

_PREFIX: Final = "headrace_"
_LABEL_SETS_MAX: Final = 20_000  # a bound on distinct label values, so that a hostile label can't eat the memory


def configure_logging(level: str = "info") -> None:
    """Send log lines to stderr: for people on a terminal, one JSON object a line otherwise."""
    structlog.configure(
        processors=_processors(),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_StderrLogger,
        cache_logger_on_first_use=False,
    )


def _processors() -> list[Any]:
    is_terminal = sys.stderr.isatty()
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=is_terminal and "NO_COLOR" not in _environment())
        if is_terminal
        else structlog.processors.JSONRenderer(serializer=lambda value, **_: orjson.dumps(value, default=str).decode())
    )
    return [structlog.processors.add_log_level, structlog.processors.TimeStamper(fmt="iso", utc=True), renderer]


def _unconfigured_logger() -> Any:
    # structlog's own default writes to stdout, which belongs to the application that uses the library.
    return structlog.wrap_logger(
        _StderrLogger(), processors=_processors(), wrapper_class=structlog.make_filtering_bound_logger("info")
    )


class _StderrLogger:
    """Writes lines to whatever stderr is at that moment; one that is closed or broken must not stop the delivery."""

    def __init__(self, *_: Any) -> None:
        self.lines_lost = 0

    def msg(self, message: str) -> None:
        """Write one line."""
        try:
            print(message, file=sys.stderr, flush=True)  # noqa: T201 - the one place where log lines go
        except (OSError, ValueError):
            self.lines_lost += 1

    log = debug = info = warn = warning = error = critical = fatal = failure = exception = msg


def _environment() -> Mapping[str, str]:
    import os  # noqa: PLC0415 - keeps the module's surface free of os

    return os.environ


class StructlogTelemetry:
    """Telemetry into structlog and a Prometheus registry of its own."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self._unconfigured = None if structlog.is_configured() else _unconfigured_logger()
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._label_sets: set[tuple[str, ...]] = set()

    def _log(self) -> Any:
        """Whoever uses the library may configure structlog at any time; it goes its way from then on."""
        if self._unconfigured is None or structlog.is_configured():
            return structlog.get_logger()
        return self._unconfigured

    def info(self, event: str, **fields: Any) -> None:
        """Say what happened as intended."""
        self._log().info(event, **fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Say something unexpected happened and nothing was lost."""
        self._log().warning(event, **fields)

    def error(self, event: str, **fields: Any) -> None:
        """Say that data was lost or an operator is needed."""
        self._log().error(event, **fields)

    def count(self, metric: str, amount: float = 1, **labels: str) -> None:
        """Add to the counter `headrace_METRIC_total`."""
        if metric not in self._counters:
            text = COUNTERS.get(metric, metric)
            self._counters[metric] = Counter(_PREFIX + metric, text, tuple(labels), registry=self.registry)
        counter = self._counters[metric]
        if self._has_room(metric, labels):
            (counter.labels(**labels) if labels else counter).inc(amount)

    def gauge(self, metric: str, value: float, **labels: str) -> None:
        """Set the gauge `headrace_METRIC`."""
        if metric not in self._gauges:
            text = GAUGES.get(metric, metric)
            self._gauges[metric] = Gauge(_PREFIX + metric, text, tuple(labels), registry=self.registry)
        gauge = self._gauges[metric]
        if self._has_room(metric, labels):
            (gauge.labels(**labels) if labels else gauge).set(value)

    def _has_room(self, metric: str, labels: Mapping[str, str]) -> bool:
        if not labels:
            return True
        key = (metric, *labels.values())
        if key not in self._label_sets:
            if len(self._label_sets) >= _LABEL_SETS_MAX:
                return False
            self._label_sets.add(key)
        return True


class SilentTelemetry:
    """Telemetry that keeps its counters and says nothing; for tests and one-shot commands."""

    def __init__(self) -> None:
        self.counters: dict[tuple[str, ...], float] = {}

    def info(self, event: str, **fields: Any) -> None:
        """Say nothing."""

    def warning(self, event: str, **fields: Any) -> None:
        """Say nothing."""

    def error(self, event: str, **fields: Any) -> None:
        """Say nothing."""

    def count(self, metric: str, amount: float = 1, **labels: str) -> None:
        """Add to a counter that a test can read."""
        key = (metric, *(f"{name}={value}" for name, value in labels.items()))
        self.counters[key] = self.counters.get(key, 0) + amount

    def gauge(self, metric: str, value: float, **labels: str) -> None:
        """Forget the value."""
