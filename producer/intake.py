"""Takes records from those who put them, and wakes the sender when there is something to send."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import orjson

from producer.core.batcher import Batcher
from producer.core.lanes import Numbering, Numberings
from producer.core.record_columns import Ticket
from producer.sender import Sender
from shared.errors import DeliveryFailedError
from shared.event import event_id_of
from shared.ports import Clock

_NEVER: Final = float("inf")
_RECORDS_PER_TURN: Final = 256  # after so many, those who put let the event loop run


class Intake:
    """Accepts records without waiting; who calls it in a loop has to await something now and then.

    `is_busy` says when: `give_way` then lets senders and receivers run.
    """

    def __init__(
        self, stream: str, *, clock: Clock, batcher: Batcher, batch_bytes_max: int, sender: Sender, wake: asyncio.Event
    ) -> None:
        self.is_open = False
        self.is_busy = False
        self._stream = stream
        self._clock = clock
        self._batcher = batcher
        self._queues = batcher.queues
        self._batch_bytes_max = batch_bytes_max
        self._sender = sender
        self._wake = wake
        self._listens = False  # whether the sender may be woken
        self._wake_bytes = _NEVER  # so much that is ready wakes it
        self._turn_ends_at = _RECORDS_PER_TURN

    def try_put(
        self,
        data: bytes,
        partition_key: str,
        ticket: Ticket | None = None,
        numbering: Numbering | None = None,
        *,
        explicit_hash_key: int | None = None,
    ) -> bool:
        """Accept one record if there is room; False if not. Errors as in `Producer.put`.

        Who holds the `ticket` is told of the outcome; one ticket may serve many records. With `numbering`, the data are
        an event that gets its id here; else they are kept as they are, not copied.
        """
        self.check_open()
        queues = self._queues
        if not queues.accept(data, partition_key, ticket, explicit_hash_key, numbering):
            return False
        if queues.fresh:
            queues.stamp(self._clock.monotonic())
        if queues.ready_bytes >= self._wake_bytes:
            self.notice(1)
        if queues.accepted >= self._turn_ends_at:
            self._end_turn()
        return True

    def try_put_all(
        self,
        datas: Sequence[bytes],
        partition_keys: Sequence[str],
        ticket: Ticket | None = None,
        numbering: Numberings | None = None,
    ) -> int:
        """Accept the first ones of some records, each as `try_put` does, in half the time; return how many.

        If there are more, the next one has to be put by itself: there is no room for it, or an error to raise.
        """
        self.check_open()
        return self.take_all(datas, partition_keys, ticket, numbering)

    def take_all(
        self,
        datas: Sequence[bytes],
        partition_keys: Sequence[str],
        ticket: Ticket | None,
        numbering: Numberings | None,
    ) -> int:
        """Do what `try_put_all` does, whether the producer is open or not."""
        queues = self._queues
        ready = queues.ready_count
        accepted = queues.accept_all(datas, partition_keys, ticket, numbering)
        if queues.fresh:
            queues.stamp(self._clock.monotonic())
        if queues.ready_bytes >= self._wake_bytes:
            self.notice(queues.ready_count - ready)
        if queues.accepted >= self._turn_ends_at:
            self._end_turn()
        return accepted

    def event_id_of(self, data: bytes, partition_key: str, numbering: Numbering | None) -> str:
        """Return the id that an event gets, or the one it brings; empty if that is none."""
        if numbering is None:
            return event_id_of(orjson.loads(data)) or ""
        return self._queues.event_id(partition_key, numbering)

    def listen(self, *, listens: bool) -> None:
        """Set how much has to be ready to wake the sender: the first record does, and then a whole request."""
        self._listens = listens
        self._wake_bytes = _NEVER if not listens else self._batcher.linger.full_bytes if self._queues.ready_count else 1
        self._begin_turn()

    def notice(self, count: int) -> None:
        """Wake the sender if it listens for one of the `count` records that became ready just now."""
        queues = self._queues
        if queues.ready_bytes >= self._wake_bytes and (queues.ready_count <= count or self._batcher.linger.is_full()):
            self._call_sender()

    def _call_sender(self) -> None:
        self._listens = False
        self._wake_bytes = _NEVER
        self._wake.set()
        self.is_busy = True

    async def give_way(self) -> None:
        """Let senders and receivers run."""
        self.is_busy = False
        await asyncio.sleep(0)

    def _begin_turn(self) -> None:
        """Let as many records be put as may be before somebody has to look up, be it for a request that is full."""
        counts = self._listens and not self._batcher.linger.aggregates
        count = min(_RECORDS_PER_TURN, self._batcher.linger.missing_count()) if counts else _RECORDS_PER_TURN
        self._turn_ends_at = self._queues.accepted + count

    def _end_turn(self) -> None:
        if self._listens and self._batcher.linger.is_full():
            self._call_sender()
        self._begin_turn()
        self.is_busy = True

    def check_open(self) -> None:
        """Raise the `failure` that is final, or DeliveryFailedError if the producer is closed."""
        if not self.is_open or (self._sender.failure is not None and self._sender.has_failed):
            raise self._sender.failure or DeliveryFailedError(
                f"the producer of stream {self._stream} is closed", hint="Put inside `async with Producer(...)`"
            )
