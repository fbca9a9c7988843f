"""The order in which shards are read so that the events of a session come in the order in which they were put."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def lineage_order(parents: Mapping[str, Sequence[str]]) -> list[str]:
    """Return shard ids so that parents come before their children; ties by id.

    A session's events lie in one line of descent at a time, so that any such order keeps every session's order.
    Parents that are not keys themselves (past retention) are ignored. Shards inside a cycle, which no real stream has,
    come last.
    """
    waiting = {shard: {each for each in above if each in parents} for shard, above in sorted(parents.items())}
    ordered: list[str] = []
    while waiting:
        ready = [shard for shard, above in waiting.items() if not above]
        if not ready:
            return ordered + sorted(waiting)
        for shard in ready:
            del waiting[shard]
        for above in waiting.values():
            above.difference_update(ready)
        ordered += ready
    return ordered
