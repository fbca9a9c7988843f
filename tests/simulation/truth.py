"""The world's own audit, from the line in the web log to the object: by line numbers, without trusting event ids."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Iterator, Sequence
from typing import Any, Final

import orjson

from infra.audit.core.auditor import Auditor
from infra.audit.core.lineage import lineage_order
from infra.audit.core.report import AuditReport
from infra.audit.reading import object_place
from shared.aggregation import deaggregate
from tests.simulation.web_log import WebLog
from tests.support.fake_files import FakeFiles
from tests.support.fake_kinesis import FakeKinesis
from tests.support.fake_objects import FakeObjects

_GZIP_MAGIC: Final = b"\x1f\x8b"


def audit_lines(
    logs: Sequence[WebLog], kinesis: FakeKinesis, objects: FakeObjects, source: str, destinations: Sequence[str]
) -> AuditReport:
    """Compare what was written into the logs with what is in S3 and in the destination streams."""
    auditor = Auditor(has_bucket=True, has_destinations=True)
    for log in logs:
        for number, _ in log.written:
            auditor.acknowledge(str(number))
    for stream in destinations:
        for event in _events(kinesis, stream):
            if "n" in event:
                auditor.deliver(stream, str(event["n"]), event["session_id"])
    ranks = {shard: rank for rank, shard in enumerate(_lineage(kinesis, source))}
    archived = [key for key in objects.objects if key.startswith("archive/")]
    for place in sorted(object_place(key, ranks) for key in archived):
        for line in _body(objects, place.key).splitlines():
            event = orjson.loads(line)
            if "n" in event:
                auditor.store(str(event["n"]), event["session_id"], generation=place.generation)
    return auditor.report()


def missing_bad_lines(log: WebLog, disk: FakeFiles, path: str) -> list[bytes]:
    """Return the bad lines of a log that are not in the producer's dead letters as whole, readable lines."""
    kept: set[bytes] = set()
    for line in (disk.content(path) or b"").splitlines():
        try:
            kept.add(base64.b64decode(orjson.loads(line)["raw_data"]))
        except (ValueError, KeyError, TypeError):
            continue  # a torn append
    return [line for line in log.bad_lines if line not in kept]


def _lineage(kinesis: FakeKinesis, stream: str) -> list[str]:
    return lineage_order({name: each.shard.parents for name, each in kinesis.streams[stream].shards.items()})


def _events(kinesis: FakeKinesis, stream: str) -> Iterator[dict[str, Any]]:
    for shard_id in _lineage(kinesis, stream):
        shard = kinesis.streams[stream].shards[shard_id]
        for record in shard.records:
            for user in deaggregate(record, shard.shard.hash_key_range).records:
                yield orjson.loads(user.data)


def _body(objects: FakeObjects, key: str) -> bytes:
    body = objects.objects[key].body
    return gzip.decompress(body) if body.startswith(_GZIP_MAGIC) else body
