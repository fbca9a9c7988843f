"""Read a Kinesis data stream: enrich each event and deliver it, or hand the records to a function of your own.

`from consumer import Consumer` gives the library's consumer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from consumer.api import EventConsumer as Consumer
    from consumer.core.dead_letter import DeadLetter
    from consumer.core.outcome import Outcome, Reject, Retry
    from consumer.core.record import Record

__all__ = ["Consumer", "DeadLetter", "Outcome", "Record", "Reject", "Retry"]

_PLACES = {
    "Consumer": ("consumer.api", "EventConsumer"),
    "DeadLetter": ("consumer.core.dead_letter", "DeadLetter"),
    "Outcome": ("consumer.core.outcome", "Outcome"),
    "Record": ("consumer.core.record", "Record"),
    "Reject": ("consumer.core.outcome", "Reject"),
    "Retry": ("consumer.core.outcome", "Retry"),
}


def __getattr__(name: str) -> Any:
    # Loaded at first use: the commands live in this package, too, and `--help` must not wait for the AWS SDK.
    if name not in _PLACES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    from importlib import import_module  # noqa: PLC0415 - see above

    module, attribute = _PLACES[name]
    return getattr(import_module(module), attribute)
