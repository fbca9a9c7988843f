"""Put web-server events into a Kinesis data stream: batched, ordered by partition key, accounted for.

`from producer import Producer` gives the library's producer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from producer.api import EventProducer as Producer

__all__ = ["Producer"]


def __getattr__(name: str) -> Any:
    # Loaded at first use: the commands live in this package, too, and `--help` must not wait for the AWS SDK.
    if name == "Producer":
        from producer.api import EventProducer  # noqa: PLC0415 - see above

        return EventProducer
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
