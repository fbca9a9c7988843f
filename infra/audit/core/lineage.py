"""The order in which shards are read so that the events of a session come in the order in which they were put."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Collection, Mapping


def lineage_order(parents: Mapping[str, Collection[str]]) -> list[str]:
    """Return shard ids so that parents come before their children; of those that may come next, the lowest first.

    A session's events lie in one line of descent at a time, so that any such order keeps every session's order.
    Parents that are not keys themselves (past retention) are ignored; as ids rise, their children still come behind
    what is older. Shards inside a cycle, which no real stream has, come last.
    """
    waited_for = {shard: len({each for each in above if each in parents}) for shard, above in parents.items()}
    children: defaultdict[str, list[str]] = defaultdict(list)
    for shard, above in parents.items():
        for each in set(above):
            children[each].append(shard)
    ready = sorted(shard for shard, count in waited_for.items() if not count)
    ordered: list[str] = []
    while ready:
        shard = heapq.heappop(ready)
        ordered.append(shard)
        for child in children[shard]:
            waited_for[child] -= 1
            if not waited_for[child]:
                heapq.heappush(ready, child)
    return ordered + sorted(parents.keys() - set(ordered))


def ancestors(shard_id: str, parents: Mapping[str, Collection[str]]) -> set[str]:
    """Return the ids of all shards that a shard descends from, itself excepted."""
    found: set[str] = set()
    waiting = [*parents.get(shard_id, ())]
    while waiting:
        each = waiting.pop()
        if each not in found:
            found.add(each)
            waiting += parents.get(each, ())
    return found - {shard_id}
