"""The audit compares manifests with the objects there are: what real workers wrote, then damaged by hand."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import orjson
import pytest

from infra.audit.core.manifest_check import ManifestCheck
from infra.audit.core.report import AuditReport
from infra.audit.reading import AuditReader, AuditScope
from shared.errors import SourceError
from tests.support.fake_objects import FakeObject
from tests.unit.consumer.small_cloud import SOURCE, SmallCloud

PREFIX = "manifests/"


def audited(damage: Callable[[dict[str, FakeObject]], None], prefix: str = PREFIX) -> AuditReport:
    """Let a worker archive events of an hour until it is complete, damage the bucket, and audit it."""
    cloud = SmallCloud.make(2)

    async def story() -> AuditReport:
        await asyncio.sleep(3_590 - cloud.network.wall() % 3_600)
        stop, task, _ = cloud.start(cloud.worker(manifest_prefix=prefix, manifest_wait_seconds=1, flush_seconds=2))
        for number in range(40):
            await cloud.put({"session_id": f"s{number}", "country": "USA" if number % 2 else "DE", "n": number})
            await asyncio.sleep(1)
        stop.set()
        await task
        damage(cloud.objects.objects)
        reader = AuditReader(
            kinesis=cloud.kinesis, objects=cloud.objects, random=random.Random(1), sleep=lambda _: asyncio.sleep(0)
        )
        return await reader.audit(AuditScope(SOURCE, manifest_prefix=prefix))

    return cloud.run(story)


def keys(objects: dict[str, FakeObject], prefix: str) -> list[str]:
    """Return the keys below a prefix; those of indexes without what says that an hour is complete."""
    return sorted(key for key in objects if key.startswith(prefix) and not key.endswith("_COMPLETE.json"))


def counts(report: AuditReport) -> tuple[int, int, int]:
    """Return how many objects are missing, unlisted and different."""
    return report.manifests_missing, report.manifests_unlisted, report.manifests_differing


def test_what_workers_wrote_is_as_the_manifests_say() -> None:
    """All objects of the bucket are listed, and an hour was complete; without manifests nothing is compared."""
    found: list[str] = []
    report = audited(found.extend)
    assert (report.verdict, counts(report)) == ("ok", (0, 0, 0))
    assert report.manifests_listed == len([key for key in found if key.startswith("archive/")]) > 5
    assert any(key.endswith("_COMPLETE.json") for key in found)
    report = audited(lambda _: None, prefix="")
    assert (report.verdict, report.manifests_listed) == ("ok", 0)


def test_an_object_that_is_listed_and_missing_fails_the_audit() -> None:
    """Its key is an example."""
    gone: list[str] = []

    def damage(objects: dict[str, FakeObject]) -> None:
        gone.append(keys(objects, "archive/")[3])
        del objects[gone[0]]

    report = audited(damage)
    assert counts(report) == (1, 0, 0)
    assert report.manifest_examples == tuple(gone)
    assert "1 listed in manifests but not in S3" in report.verdict


def test_an_index_that_is_gone_leaves_objects_unlisted_and_a_complete_hour_different() -> None:
    """Each object of the index is told, and the hour that counted it."""

    def damage(objects: dict[str, FakeObject]) -> None:
        complete = next(key for key in objects if key.endswith("_COMPLETE.json")).removesuffix("_COMPLETE.json")
        of_shard = [key for key in keys(objects, complete) if "shardId-000000000000" in key]
        del objects[of_shard[-1]]

    missing, unlisted, differing = counts(report := audited(damage))
    assert (missing, differing) == (0, 1)
    assert unlisted >= 1
    assert "objects in S3 but in no manifest" in report.verdict


def test_an_object_with_another_count_fails_the_audit() -> None:
    """So does one that two indexes list."""

    def recount(objects: dict[str, FakeObject]) -> None:
        key = keys(objects, PREFIX)[0]
        index = orjson.loads(objects[key].body)
        index["objects"][0]["records"] += 1
        objects[key] = FakeObject(orjson.dumps(index), "", "")

    def repeat(objects: dict[str, FakeObject]) -> None:
        key, other = keys(objects, PREFIX)[:2]
        index = orjson.loads(objects[other].body)
        index["objects"] += orjson.loads(objects[key].body)["objects"][:1]
        objects[other] = FakeObject(orjson.dumps(index), "", "")

    assert counts(audited(recount)) == counts(audited(repeat)) == (0, 0, 1)


def test_what_is_no_manifest_is_a_source_error() -> None:
    """Whatever lies below the prefix of an hour has to be a manifest."""
    for name, body in (("shardId-1-2-3.r1.e0.json", b"{"), ("shardId-1-2-3.r1.e0.json", b"{}"), ("x", b"[]")):

        def damage(objects: dict[str, FakeObject], name: str = name, body: bytes = body) -> None:
            objects[f"{PREFIX}dt=2026-01-01/hour=00/{name}"] = FakeObject(body, "", "")

        with pytest.raises(SourceError, match="no manifest"):
            audited(damage)


def test_objects_of_a_time_without_manifests_are_not_unlisted() -> None:
    """An object before the first index of its shard is in none by rights; one that came during the audit is listed."""
    check = ManifestCheck(("archive/",), {})
    shard, other = "shardId-000000000000", "shardId-000000000001"
    check.take_index(f"{shard}-100-199.r1.e0.json", {"objects": [], "dead_letters": []})
    for name in (f"{shard}-50-99", f"{shard}-200-299", f"{shard}-300-399", f"{other}-200-299"):
        check.take_object(f"archive/{name}.json.gz", 1)
    late = {"objects": [{"key": f"archive/{shard}-200-299.json.gz", "records": 1}], "dead_letters": []}
    late["objects"].append({"key": f"archive/{shard}-400-499.json.gz", "records": 1})
    check.take_index(f"{shard}-200-499.r1.e0.json", late, is_late=True)
    found = check.findings()
    assert (found.missing, found.differing) == ((), ())
    assert found.unlisted == (f"archive/{shard}-300-399.json.gz",)


def test_manifests_that_were_on_before_are_not_forgotten_by_a_child_or_a_seek() -> None:
    """Who descends from a shard with an index, or was read again, has to have indexes from the first object on."""
    parent, child, grandchild, stranger = (f"shardId-00000000000{number}" for number in range(4))
    check = ManifestCheck(("archive/",), {child: (parent,), grandchild: (child, stranger), stranger: ()})
    check.take_index(f"{parent}-100-199.g1.r1.e0.json", {"objects": [], "dead_letters": []})
    unlisted = [f"{parent}-100-199.g1", f"{parent}-10-19.g2", f"{child}-10-19.g1", f"{grandchild}-10-19.g2"]
    for name in (*unlisted, f"{parent}-300-399", f"{parent}-10-19.g1", f"{child}-20-29", f"{stranger}-10-19.g2"):
        check.take_object(f"archive/{name}.json.gz", 1)
    assert check.findings().unlisted == tuple(sorted(f"archive/{name}.json.gz" for name in unlisted))
