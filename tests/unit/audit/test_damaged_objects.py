"""What the audit makes of objects that are damaged, or that somebody else wrote: an error that names the object."""

from __future__ import annotations

import asyncio
import base64
import gzip
import io
import random
from collections.abc import Callable
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from infra.audit import object_events
from infra.audit.core.report import AuditReport
from infra.audit.object_events import events_of
from infra.audit.reading import AuditReader, AuditScope
from shared.errors import SourceError
from shared.records import PutEntry
from tests.support.fake_kinesis import FakeKinesis
from tests.support.fake_objects import FakeObjects
from tests.support.network import ScriptedNetwork

SHARD: Final = "shardId-000000000000"
ARCHIVED: Final = f"archive/{SHARD}-1-2.json.gz"
LETTERS: Final = f"errors/processing-failed/{SHARD}-1-2.json"
INDEX: Final = f"manifests/dt=2026-11-21/hour=05/{SHARD}-1-2.r1.e0.json"
COMPLETE: Final = "manifests/dt=2026-11-21/hour=05/_COMPLETE.json"
EVENT: Final = b'{"event_id":"a.00.1","session_id":"s"}\n'


def audited(key: str, body: bytes) -> AuditReport:
    """Audit a stream of one event and a bucket of one object."""
    network = ScriptedNetwork(wall=0.0)
    kinesis, objects = FakeKinesis(network), FakeObjects(network)

    async def story() -> AuditReport:
        kinesis.create_stream("source")
        await kinesis.put_record("source", PutEntry(EVENT, "k"))
        await objects.put_object(key, body, content_type="t")
        reader = AuditReader(
            kinesis=kinesis, objects=objects, random=random.Random(1), sleep=lambda _: asyncio.sleep(0)
        )
        return await reader.audit(AuditScope("source", archive_prefix="archive/", manifest_prefix="manifests/"))

    return asyncio.run(story())


DAMAGED: Final = {
    "no JSON": gzip.compress(b"{hello\n"),
    "a number": gzip.compress(EVENT + b"1\n"),
    "a list": gzip.compress(EVENT + b"[1]\n"),
    "null": gzip.compress(EVENT + b"null\n"),
    "too deep": gzip.compress(b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}\n"),
    "gzip cut off": gzip.compress(EVENT)[:-9],
    "more behind gzip": gzip.compress(EVENT) + b"rubbish behind its end",
    "zstd cut off": zstandard.compress(EVENT)[:-9],
    "more behind zstd": zstandard.compress(EVENT) + b"rubbish behind its end",
    "bytes": bytes(range(256)) * 8,
    "PNG": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "Latin-1": b"event_id,name\r\n1,caf\xe9\r\n",
    "a cell too many": b"event_id,name\r\nx,y,z\r\n",
    "a cell too few": b"event_id,name\r\nx\r\n",
    "a quote inside": b'event_id,name\r\n"x"y,z\r\n',
    "UTF-16": '{"event_id":"x"}\n'.encode("utf-16"),
    "no Parquet": b"PAR1 and nothing else",
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_an_archived_object_that_is_damaged_is_named(damage: str) -> None:
    """Whatever is wrong with its bytes, the audit ends with one error and the whole key."""
    with pytest.raises(SourceError, match=r"object `archive/shardId-000000000000-1-2\.json\.gz`"):
        audited(ARCHIVED, DAMAGED[damage])


def test_a_parquet_object_whose_types_are_damaged_is_named() -> None:
    """One bit makes a type that no reader knows, which pyarrow calls not implemented rather than damaged."""
    file = io.BytesIO()
    pq.write_table(pa.table({"n": [1]}), file)
    described = pq.read_metadata(file).metadata[b"ARROW:schema"]
    sixty_four, sixty_five = (bits.to_bytes(4, "little") for bits in (64, 65))
    damaged = base64.b64encode(base64.b64decode(described).replace(sixty_four, sixty_five))
    assert damaged != described
    with pytest.raises(SourceError, match="object `k` is not readable as Parquet"):
        list(events_of("k", file.getvalue().replace(described, damaged)))


@pytest.mark.parametrize(
    "body", [b"{oops\n", b'{"errorCode":"x"}\n', b'{"eventId":"","shardId":"s"}\n', b'{"errorCode":"x"}\n[2]\n']
)
def test_a_dead_letter_that_is_none_of_ours_is_named(body: bytes) -> None:
    """A letter without an event's id has to say where its record lay."""
    with pytest.raises(SourceError, match=rf"object `{LETTERS}`"):
        audited(LETTERS, body)


def test_a_dead_letter_whose_event_id_is_no_text_is_known_by_its_place() -> None:
    """An id that is a list is that of nobody."""
    letter = b'{"eventId":[1],"shardId":"s","sequenceNumber":"1","subSequenceNumber":0}\n'
    assert audited(LETTERS, letter).dead_lettered == 1


@pytest.mark.parametrize(
    ("key", "body"),
    [
        (INDEX, b'{"objects":'),
        (INDEX, b"[]"),
        (INDEX, b'{"objects":[1],"dead_letters":[]}'),
        (INDEX, b'{"objects":[{"key":1,"records":2}],"dead_letters":[]}'),
        (INDEX, b'{"objects":[{"key":"archive/x","records":"many"}],"dead_letters":[]}'),
        (COMPLETE, b"null"),
        (COMPLETE, b'{"hour":1,"time_zone":"UTC","shards":[]}'),
        (COMPLETE, b'{"hour":"2026-11-21T05","time_zone":"UTC","shards":[{"shard":[],"generation":0}]}'),
    ],
)
def test_a_manifest_that_is_none_is_named(key: str, body: bytes) -> None:
    """What stands where an index or a complete hour should is told by its key."""
    with pytest.raises(SourceError, match=rf"object `{key}` is no manifest"):
        audited(key, body)


def test_gzip_members_that_were_joined_are_all_read() -> None:
    """Objects may be joined by `cat`; what is behind the first member counts, too."""
    assert len(list(events_of("k", gzip.compress(EVENT) + gzip.compress(EVENT * 2)))) == 3


@pytest.mark.parametrize(
    "text",
    [b"event_id,x\r\ne," + b"y" * 300_000 + b"\r\n", b'{"x":"' + b"y" * 3_000_000 + b'"}\n'],
    ids=["csv", "json"],
)
def test_what_compresses_well_is_no_damage(text: bytes) -> None:
    """An event of thousands of equal bytes, as a shop may send it, is read back, as text of a cell, too."""
    assert len(list(events_of("k", gzip.compress(text)))) == 1


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_what_inflates_without_end_is_refused(pack: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded by the largest object that the archive may write."""
    monkeypatch.setattr(object_events, "_OBJECT_BYTES_MAX", 1_000)
    assert len(list(events_of("k", pack(EVENT)))) == 1
    with pytest.raises(SourceError, match="inflates to more than 1,000 bytes"):
        list(events_of("k", pack(EVENT * 100)))


@pytest.mark.parametrize("key", ["archive/dt=2026-11-21/", "errors/processing-failed/", "manifests/dt=2026-11-21/"])
def test_a_folder_that_a_console_made_is_no_object_of_the_archive(key: str) -> None:
    """S3's console makes an empty object with a slash at its end for each folder that somebody adds."""
    assert audited(key, b"").lost == 1
