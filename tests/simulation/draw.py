"""What a seed draws of the product: its settings, and how it is used. A feature adds its draw here."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from producer.core.line_format import LineFormat
from shared.records import Distribution
from shared.settings import Compression, ConsumerSettings, Ordering, ProducerSettings

SOURCE: Final = "source"
_CHAOS_SECONDS: Final = (90.0, 60.0, 45.0)  # long ones cost most; as many blows in less time meet each other sooner
_DESTINATIONS: Final[tuple[Mapping[str, str], ...]] = (
    {"USA": "dest-usa", "International": "dest-international"},
    {"USA": "dest-usa", "International": "dest-international"},
    {"USA": "dest-usa", "France": "dest-france", "International": "dest-international"},
    {"USA": "dest-all", "International": "dest-all"},
    {"International": "dest-international"},
    {},
)


def chaos_seconds(seed: int) -> float:
    """Return how long misfortune lasts in a world."""
    return _CHAOS_SECONDS[seed % len(_CHAOS_SECONDS)]


@dataclass(frozen=True, slots=True)
class Usage:
    """How a world uses the product, beyond the numbers in its settings. A feature adds its draw at the end.

    It has a generator of its own, so that what is added here leaves everything else of a seed as it was.
    """

    dest_streams: Mapping[str, str]
    has_bucket: bool
    start_from: str  # TRIM_HORIZON, LATEST or an ISO 8601 time
    start_timestamp: float  # the same as seconds since the epoch, if it is a time
    consumers_start_seconds: float
    is_ordered: bool  # by the producers of the logs
    keeps_order_in_streams: bool  # by the producers of the destination streams
    distributions: Mapping[str, Distribution]  # stream -> mode
    line_format: LineFormat
    shard_rate_percent: int

    @classmethod
    def draw(cls, seed: int, epoch: float) -> Usage:
        """Draw for a seed; `epoch` is the wall clock at virtual time 0."""
        chance = random.Random(f"{seed}/usage")
        dest_streams = chance.choice(_DESTINATIONS)
        start_from = chance.choice(["TRIM_HORIZON"] * 6 + ["LATEST", "AT_TIMESTAMP"])
        timestamp = 0.0
        consumers_start_seconds = 0.0
        if start_from != "TRIM_HORIZON":
            consumers_start_seconds = chance.uniform(5, 40)
        if start_from == "AT_TIMESTAMP":
            timestamp = round(epoch + chance.uniform(0, consumers_start_seconds), 3)
            start_from = datetime.fromtimestamp(timestamp, UTC).isoformat()
        streams = [SOURCE, *dict.fromkeys(dest_streams.values())]
        return cls(
            dest_streams=dest_streams,
            has_bucket=not dest_streams or chance.random() < 0.85,
            start_from=start_from,
            start_timestamp=timestamp,
            consumers_start_seconds=consumers_start_seconds,
            is_ordered=chance.random() < 0.9,
            keeps_order_in_streams=chance.random() < 0.9,
            distributions={
                each: Distribution.AUTO if chance.random() < 0.08 else Distribution.USER_PARTITION_KEY
                for each in streams
            },
            line_format=chance.choice([LineFormat.JSON] * 4 + [LineFormat.COMBINED]),
            shard_rate_percent=chance.choice([100, 100, 100, 1, 10, 0]),
        )

    @property
    def source_keeps_order(self) -> bool:
        """Whether order in the source stream is promised, and with it what rests on it: that duplicates are known."""
        return self.is_ordered and self.distributions[SOURCE] is not Distribution.AUTO

    @property
    def streams_keep_order(self) -> bool:
        """Whether order in the destination streams is promised."""
        is_auto = any(each is Distribution.AUTO for each in self.distributions.values())
        return self.source_keeps_order and self.keeps_order_in_streams and not is_auto


def draw_producer_settings(chance: random.Random, usage: Usage, *, is_ordered: bool) -> ProducerSettings:
    """Draw settings that make batches small, waits short and limits near."""
    return ProducerSettings(
        ordering=Ordering.LANE if is_ordered else Ordering.NONE,
        shard_rate_percent=usage.shard_rate_percent,
        aggregate=chance.random() < 0.75,
        aggregate_bytes_max=chance.choice([1_024, 4_096, 51_200]),
        batch_records_max=chance.choice([1, 3, 20, 500]),
        batch_linger_seconds=chance.choice([0, 0.05, 0.5]),
        buffer_bytes_max=2 * 1024 * 1024,
        inflight_requests_max=chance.choice([1, 2, 4, 16]),
        call_timeout_seconds=chance.uniform(2, 5),
        retry_backoff_seconds_max=2,
        drain_timeout_seconds=chance.choice([0.5, 5, 25]),
        shard_map_refresh_seconds=chance.choice([1, 10, 60]),
        bookmark_interval_seconds=chance.choice([0.05, 0.5, 2]),
        state_dir="/var/lib/headrace",
        rotate_wait_seconds=chance.choice([0.5, 5]),
    )


def draw_consumer_settings(chance: random.Random, usage: Usage) -> ConsumerSettings:
    """Draw settings that make objects small, leases short and checkpoints frequent."""
    lease_seconds = chance.uniform(4, 12)
    return ConsumerSettings(
        app="simulated",
        source_stream=SOURCE,
        dest_streams=dict(usage.dest_streams),
        bucket="bucket" if usage.has_bucket else "",
        start_from=usage.start_from,
        compression=chance.choice([Compression.GZIP, Compression.NONE]),
        flush_records_max=chance.choice([1, 5, 20, 1_000]),
        flush_bytes_max=chance.choice([1_024, 1_048_576]),
        flush_seconds=chance.uniform(1, 8),
        checkpoint_interval_seconds=chance.uniform(0.5, 4),
        lease_duration_seconds=lease_seconds,
        shard_sync_seconds=chance.uniform(1, 4),
        read_records_max=chance.choice([1, 7, 100, 10_000]),
        read_pause_seconds=chance.uniform(0.2, 0.6),
        read_idle_seconds=chance.uniform(0.3, 1.5),
        call_timeout_seconds=chance.uniform(2, 5),
        retry_backoff_seconds_max=2,
        drain_timeout_seconds=chance.choice([1, 5, 25]),
        http_port=-1,
    )
