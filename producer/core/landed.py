"""Where user records landed that were sent as they are."""

from __future__ import annotations

from collections.abc import Sequence

from producer.core.record_columns import RecordColumns
from shared.ports import Delivered
from shared.records import PutResult, PutResults


def landed(plain: RecordColumns, results: Sequence[PutResult]) -> list[tuple[RecordColumns, Delivered]]:
    """Return what a settlement says of those that landed; `results` has one for each record.

    Records that somebody asks after stand alone, with their own sequence number; the others are together by shard, with
    the number of the first one.
    """
    shard_ids = shards_of(results)
    if plain.tickets is None and len(shard_ids) == 1 and "" not in shard_ids:
        return [(plain, Delivered(*results[0][:2]))]
    alone: list[tuple[RecordColumns, Delivered]] = []
    by_shard: dict[str, tuple[RecordColumns, Delivered]] = {}
    for index, (shard_id, number, error_code, _) in enumerate(results):
        if error_code:
            continue
        if plain.ticket(index) is not None:
            alone.append((plain.single(index), Delivered(shard_id, number)))
            continue
        if shard_id not in by_shard:
            by_shard[shard_id] = RecordColumns(), Delivered(shard_id, number)
        data, key = plain.datas[index], plain.keys[index]
        by_shard[shard_id][0].append(data, key, None, plain.explicit(index))
    return [*alone, *by_shard.values()]


def shards_of(results: Sequence[PutResult]) -> set[str]:
    """Return where records landed; empty for one that was refused."""
    if isinstance(results, PutResults):
        return {*results.shard_ids}
    return {result.shard_id for result in results}
