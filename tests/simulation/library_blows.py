"""The blows that fall on the worlds of library users: kills, stops, freezes and reshardings."""

from __future__ import annotations

import random
from itertools import pairwise

from shared.lanes import LANES
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


def reshard(kinesis: FakeKinesis, stream: FakeStream, chance: random.Random) -> None:
    """Merge two neighbours, or split a shard; of very many shards, those that have records."""
    found = stream.open_shards()
    used = [each for each in found if each.records] if len(found) > LANES else found
    shards = [each.shard for each in used or found]
    pairs = [each for each in pairwise(shards) if each[0].hash_key_range.is_adjacent_to(each[1].hash_key_range)]
    if pairs and chance.random() < 0.5:
        low, high = chance.choice(pairs)
        kinesis.merge_shards(stream.name, low.shard_id, high.shard_id)
    else:
        kinesis.split_shard(stream.name, chance.choice(shards).shard_id)
