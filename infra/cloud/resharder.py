"""Splits, merges and scales streams of the local cloud on the faults' behalf."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Final

import structlog

from infra.cloud.core.api_error import ApiError
from infra.cloud.core.engine import KinesisEngine
from infra.cloud.core.faults import Reshard
from infra.cloud.core.reshard_schedule import (
    CountOrder,
    MergeOrder,
    OpenShard,
    Order,
    SplitOrder,
    Turn,
    chosen_stream,
    order_of,
)
from infra.cloud.core.stream import ON_DEMAND
from infra.cloud.kinesis_service import KinesisService

_LOG: Final = structlog.get_logger(__name__)


class Resharder:
    """Carries out one reshard at a time, in whichever region the stream is."""

    def __init__(self, kinesis: KinesisService) -> None:
        self._kinesis = kinesis

    def take(self, seed: int, turn: Turn) -> str | None:
        """Carry out a scheduled reshard; returns what was done, None if nothing could be."""
        found = [
            (region, name)
            for region, engine in self._kinesis.engines()
            for name in engine.list_stream_names()
            if fnmatchcase(name, turn.reshard.stream) and engine.describe_stream(name).mode != ON_DEMAND
        ]
        name = chosen_stream(seed, turn, [each for _, each in found])
        region = next((region for region, each in found if each == name), None)
        if name is None or region is None:
            return None
        try:
            return self.carry_out(self._kinesis.engine(region), name, seed, turn)
        except ApiError as error:
            # A stream that is UPDATING or at its quota is skipped this time, as an operator would see it refused.
            _LOG.info("reshard skipped", stream=name, reason=error.code)
            return None

    def now(self, region: str, reshard: Reshard) -> str | None:
        """Carry out one reshard at once; raises ApiError if the stream refuses it, None if no shard is fit for it."""
        engine = self._kinesis.engine(region)
        number = engine.streams.any_state(reshard.stream).next_index
        return self.carry_out(engine, reshard.stream, 0, Turn(reshard, 0, number))

    def carry_out(self, engine: KinesisEngine, name: str, seed: int, turn: Turn) -> str | None:
        """Choose the shards and change them."""
        engine.streams.active(name)
        shards = [OpenShard(each.shard_id, each.hash_range) for each in engine.describe_stream(name).open_shards]
        order = order_of(seed, turn, shards)
        if order is None:
            return None
        done = _do(engine, name, order)
        self._kinesis.wake()
        _LOG.info("resharded", stream=name, done=done)
        return done


def _do(engine: KinesisEngine, name: str, order: Order) -> str:
    match order:
        case SplitOrder(shard_id, new_start):
            engine.split_shard(name, shard_id, str(new_start))
            return f"split {shard_id} at {new_start}"
        case MergeOrder(shard_id, adjacent_id):
            engine.merge_shards(name, shard_id, adjacent_id)
            return f"merged {shard_id} and {adjacent_id}"
        case CountOrder(shard_count):
            before = engine.update_shard_count(name, shard_count)
            return f"scaled from {before} to {shard_count} shards"
