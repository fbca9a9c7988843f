"""What a producer says of its calls: counters, gauges, and log lines that a bad hour does not multiply."""

from __future__ import annotations

from producer.core.batch import FlushReason, Settlement
from shared.errors import HeadraceError, InvalidRequestError
from shared.log_limit import LimitedLog
from shared.ports import Clock, Telemetry


class Report:
    """The telemetry of one producer."""

    def __init__(self, stream: str, telemetry: Telemetry, clock: Clock) -> None:
        self._stream = stream
        self._telemetry = telemetry
        self._log = LimitedLog(telemetry, clock)

    def send(self, reason: FlushReason, stream_records: int, settlement: Settlement) -> None:
        """Say that a call was answered, and what failed in it."""
        self._telemetry.count("producer_batches_sent", reason=reason.value)
        self._telemetry.count("producer_stream_records_sent", stream_records)
        if settlement.failed:
            self._log.warning("records_refused", stream=self._stream, codes=dict(settlement.failed))
            for code, count in settlement.failed.items():
                self._telemetry.count("producer_stream_records_failed", count, code=code)

    def refuse(self, error: InvalidRequestError, stream_records: int) -> None:
        """Say that a call was refused for a record that is being looked for."""
        self._telemetry.count("producer_calls_failed", error=type(error).__name__)
        self._log.warning("request_refused", stream=self._stream, code=error.code, stream_records=stream_records)

    def fail(self, error: HeadraceError, *, is_final: bool) -> None:
        """Say that a call failed as a whole."""
        self._telemetry.count("producer_calls_failed", error=type(error).__name__)
        if error.retryable:
            self._log.warning("put_failed", stream=self._stream, error=str(error))
            return
        self._telemetry.error(
            "producer_failed", stream=self._stream, error=str(error), hint=error.hint, is_final=is_final
        )
        self._telemetry.gauge("producer_is_refused", 1)

    def heal(self) -> None:
        """Say that calls go well again after one that no repetition could heal."""
        self._telemetry.info("producer_healed", stream=self._stream)
        self._telemetry.gauge("producer_is_refused", 0)

    def give_up(self, code: str, size: int) -> None:
        """Say that the stream takes a record in no request; its place and bytes go to whoever put it."""
        self._telemetry.count("producer_records_undeliverable", code=code)
        self._telemetry.error("record_undeliverable", stream=self._stream, code=code, bytes=size)

    def settle(self, acknowledged: int, pending: int, misplaced: int) -> None:
        """Say how many records got their outcome, and how many wait for it."""
        self._telemetry.count("producer_records_acknowledged", acknowledged)
        self._telemetry.gauge("producer_records_pending", pending)
        if misplaced:
            self._telemetry.count("producer_aggregates_misplaced", misplaced)
