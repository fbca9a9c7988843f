"""Tells how this producer's load lies on the shards of its stream: for operators, in metrics and on request."""

from __future__ import annotations

from typing import Final

from producer.core.batch import Settlement
from producer.core.batcher import Batcher
from producer.core.hot_keys import HotKeys, ShardHeat
from shared.ports import Clock, Telemetry

_SHARDS_SHOWN_MAX: Final = 100  # in metrics; `hot_shards` gives all


class ShardHeats:
    """Learns from what was delivered; a key is never a label of a metric, as it may be a session id."""

    def __init__(self, batcher: Batcher, clock: Clock, telemetry: Telemetry) -> None:
        self._batcher = batcher
        self._clock = clock
        self._telemetry = telemetry
        self._keys = HotKeys()

    def take(self, settlement: Settlement) -> None:
        """Look at what was delivered."""
        shard_map = self._batcher.shard_map
        for members, delivered in settlement.delivered:
            self._keys.add(delivered.shard_id, shard_map.range_of(delivered.shard_id), members)
        if settlement.landed is not None:
            together, _ = settlement.landed
            for number in self._keys.looked_at(map(len, together.datas)):
                shard_id = together.shard_ids[number]
                self._keys.add(shard_id, shard_map.range_of(shard_id), together.part(number))

    def hot_shards(self) -> tuple[ShardHeat, ...]:
        """Return each open shard's load, its hottest keys and the split that helps; hottest shard first."""
        shard_map = self._batcher.shard_map
        ranges = ((name, shard_map.range_of(name)) for name in shard_map.open_ids)
        found = [self._keys.heat(name, each) for name, each in ranges if each is not None]
        return tuple(sorted((heat for heat in found if heat), key=lambda heat: (-heat.weight, heat.shard_id)))

    def report(self) -> None:
        """Let old load fade, and set the gauges of the hottest shards."""
        self._keys.age(self._clock.monotonic(), self._batcher.shard_map.open_ids)
        for heat in self.hot_shards()[:_SHARDS_SHOWN_MAX]:
            shard = heat.shard_id
            self._telemetry.gauge("producer_shard_top_key_share", heat.keys[0].share, shard=shard)
            self._telemetry.gauge("producer_shard_split_share", heat.larger_share, shard=shard)
            self._telemetry.gauge("producer_shard_rate_share", self._batcher.rates.share(shard), shard=shard)
