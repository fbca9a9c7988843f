"""What a seed draws of the product: its settings, and how it is used. A feature adds its draw here."""

from __future__ import annotations

import random
from typing import Final

from shared.settings import Compression, ConsumerSettings, Ordering, ProducerSettings

SOURCE: Final = "source"
DEST_STREAMS: Final = {"USA": "dest-usa", "International": "dest-international"}
CHAOS_SECONDS: Final = 90.0


def draw_producer_settings(chance: random.Random) -> ProducerSettings:
    """Draw settings that make batches small, waits short and limits near."""
    return ProducerSettings(
        ordering=Ordering.LANE,
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


def draw_consumer_settings(chance: random.Random, dest_streams: dict[str, str]) -> ConsumerSettings:
    """Draw settings that make objects small, leases short and checkpoints frequent."""
    lease_seconds = chance.uniform(4, 12)
    return ConsumerSettings(
        app="simulated",
        source_stream=SOURCE,
        dest_streams=dest_streams,
        bucket="bucket",
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
