"""The objects of one flush are put side by side, and what is counted is what was written."""

from __future__ import annotations

from tests.unit.consumer.small_cloud import SmallCloud

SESSIONS = 12  # objects of one flush: more than are put at once


def test_the_bytes_of_a_flush_are_those_of_all_its_objects() -> None:
    """Each object's bytes count, also where several puts are under way at once."""
    cloud = SmallCloud.make()

    async def story() -> None:
        await cloud.put(*({"session_id": f"s{n}", "n": n, "country": "Spain"} for n in range(SESSIONS)))
        worker = cloud.worker(flush_seconds=1, archive_prefix="archive/!{destination}/!{event:session_id}/")
        stop, task, _ = cloud.start(worker)
        await cloud.until(lambda: worker.status().totals.objects == SESSIONS)
        written = sum(len(each.body) for each in cloud.objects.objects.values())
        assert worker.status().totals.object_bytes == written
        stop.set()
        await task

    cloud.run(story)
