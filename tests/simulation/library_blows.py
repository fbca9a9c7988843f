"""The blows that fall on the worlds of library users: kills, stops, freezes and reshardings."""

from __future__ import annotations

import random
from collections.abc import Collection
from itertools import pairwise

from shared.lanes import LANES, start_of
from tests.simulation.actor import Actor
from tests.support.fake_kinesis import FakeKinesis, FakeStream


def strike(actor: Actor, action: str, chance: random.Random) -> None:
    """Kill, stop or freeze a process."""
    match action:
        case "kill":
            actor.kill("at random")
        case "stop":
            actor.stop()
        case _:
            actor.freeze(chance.uniform(1, 20))


def reshard(kinesis: FakeKinesis, stream: FakeStream, chance: random.Random, lanes: Collection[int] = ()) -> None:
    """Merge two neighbours, or split a shard, inside one of these `lanes` if it has any; mostly one with records."""
    found = stream.open_shards()
    used = [each for each in found if each.records] if len(found) > LANES else found
    shards = [each.shard for each in used or found]
    pairs = [each for each in pairwise(shards) if each[0].hash_key_range.is_adjacent_to(each[1].hash_key_range)]
    if pairs and chance.random() < 0.5:
        low, high = chance.choice(pairs)
        kinesis.merge_shards(stream.name, low.shard_id, high.shard_id)
    else:
        shard = chance.choice(shards)
        places = [start_of(lane) + chance.randrange(1, start_of(1)) for lane in sorted(lanes)]
        inside = [each for each in places if shard.hash_key_range.start < each <= shard.hash_key_range.end]
        kinesis.split_shard(stream.name, shard.shard_id, chance.choice(inside) if inside else None)
