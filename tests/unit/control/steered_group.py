"""A small cloud whose consumer group is steered: an operator's view of it, and events that carry ids."""

from __future__ import annotations

import asyncio
import gzip
import random
from collections import Counter
from typing import Any

import orjson

from infra.audit.core.report import AuditReport
from infra.audit.reading import AuditReader, AuditScope, object_place
from infra.control.group import Group
from infra.control.seek import SeekPlan, apply_seek, parse_target, plan_seek
from shared.event import EventId, with_event_id
from shared.hash_key import hash_key_of
from shared.lanes import lane_of
from tests.unit.consumer.small_cloud import DESTINATIONS, SOURCE, SmallCloud, VirtualClock

APPLICATION: dict[str, Any] = {
    "application": "test",
    "source_stream": SOURCE,
    "dest_streams": DESTINATIONS,
    "bucket": "bucket",
    "error_prefix": "errors/!{firehose:error-output-type}/",
    "start_from": "TRIM_HORIZON",
}


def group_of(cloud: SmallCloud) -> Group:
    """Return the group as `headrace` commands see it."""
    return Group("test", APPLICATION, cloud.kinesis, cloud.leases, cloud.objects, VirtualClock(cloud.loop), _chance())


def _chance() -> random.Random:
    return random.Random(7)


async def put_with_ids(cloud: SmallCloud, first: int, end: int) -> None:
    """Put events with ids of ours, which a consumer drops when it sees them twice."""
    for number in range(first, end):
        key = f"s{number % 10}"
        data = orjson.dumps({"session_id": key, "n": number, "country": "Spain"})
        await cloud.put(with_event_id(data, str(EventId("web", lane_of(hash_key_of(key)), number))), key=key)


async def seek(cloud: SmallCloud, to: str, *shards: str) -> SeekPlan:
    """Seek as the command does."""
    group = group_of(cloud)
    plan = await plan_seek(group, parse_target(to, group.clock.wall()), shards)
    await apply_seek(group, plan)
    return plan


def stored_by_generation(cloud: SmallCloud) -> dict[int, Counter[int]]:
    """Return how often each number is in S3, per generation."""
    found: dict[int, Counter[int]] = {}
    for key in cloud.objects.objects:
        if key.startswith("archive/"):
            numbers = found.setdefault(object_place(key, {}).generation, Counter())
            numbers.update(
                orjson.loads(line)["n"] for line in gzip.decompress(cloud.objects.objects[key].body).splitlines()
            )
    return found


async def audit(cloud: SmallCloud) -> AuditReport:
    """Audit the cloud as `headrace audit` does."""
    reader = AuditReader(kinesis=cloud.kinesis, objects=cloud.objects, random=_chance(), sleep=asyncio.sleep)
    return await reader.audit(AuditScope(SOURCE, DESTINATIONS))
