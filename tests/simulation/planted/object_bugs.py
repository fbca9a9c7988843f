"""Bugs that break: each event is in exactly one S3 object."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from consumer.archive import Archive
from consumer.flusher import Flusher
from consumer.shard_consumer import ShardConsumer
from shared.aws.objects import ObjectAdapter
from shared.errors import ServiceError
from shared.lease import Checkpoint, LeaseChange
from tests.simulation.planted.registry import Patch, bug


@bug("objects are put before the checkpoint moves")
def checkpoint_before_put(patch: Patch) -> None:
    """Commit, then put."""

    async def flush(self: Any, batch: Any) -> None:
        if batch.last is None:
            return
        sealed = await self._archive.seal(self._held.shard_id, batch, self._held.row.generation)
        await self._commit(batch, batch.last)
        if sealed is not None:
            await self._put(self._archive, sealed)

    patch.setattr(Flusher, "flush", flush)


@bug("a boundary is fenced in the lease row before the first object is put")
def put_without_prepare(patch: Patch) -> None:
    """Put, then commit."""

    async def flush(self: Any, batch: Any) -> None:
        if batch.last is None:
            return
        sealed = await self._archive.seal(self._held.shard_id, batch, self._held.row.generation)
        if sealed is not None:
            await self._put(self._archive, sealed)
        await self._commit(batch, batch.last)

    patch.setattr(Flusher, "flush", flush)


@bug("a new owner finishes the flush that was pending before anything else")
def pending_ignored(patch: Patch) -> None:
    """Start reading at the checkpoint, whatever is pending."""

    async def replay(self: Any, pending: Any) -> None:
        """Do nothing."""

    patch.setattr(ShardConsumer, "_replay", replay)


@bug("a new owner finishes the flush that was pending before anything else")
def pending_dropped_with_its_range(patch: Patch) -> None:
    """Take the pending flush for done."""

    async def replay(self: Any, pending: Any) -> None:
        await self._held.write(LeaseChange(checkpoint=Checkpoint.at(pending.last), pending=None))

    patch.setattr(ShardConsumer, "_replay", replay)


@bug("a replay rebuilds exactly the pinned range")
def replay_beyond_its_boundary(patch: Patch) -> None:
    """Read on to the end of the page."""
    original = ShardConsumer._cut

    def cut(self: Any, records: Any, after: Any, through: Any = None) -> Any:
        return original(self, records, after, None)

    patch.setattr(ShardConsumer, "_cut", cut)


@bug("objects are written with If-None-Match")
def only_if_absent_left_out(patch: Patch) -> None:
    """Overwrite what is there."""
    original = Archive._put_one

    class Overwriting:
        def __init__(self, objects: Any) -> None:
            self._objects = objects

        async def put_object(self, key: str, body: bytes, **options: Any) -> bool:
            return bool(await self._objects.put_object(key, body, **(options | {"only_if_absent": False})))

    async def put_one(self: Any, key: str, body: bytes, described: Any) -> bool:
        return await original(replace(self, objects=Overwriting(self.objects)), key, body, described)

    patch.setattr(Archive, "_put_one", put_one)


@bug("an infrastructure error is retried until the object is there")
def failed_put_taken_for_done(patch: Patch) -> None:
    """Swallow errors of PutObject."""

    async def put_one(self: Any, key: str, body: bytes, described: Any) -> bool:
        try:
            return bool(await self.objects.put_object(key, body, content_type="t", content_encoding=""))
        except ServiceError:
            return False

    patch.setattr(Archive, "_put_one", put_one)


@bug("a flush is committed when all of its objects are there")
def first_object_of_a_flush_only(patch: Patch) -> None:
    """Write only the first key of several."""

    async def put(self: Any, sealed: Any) -> int:
        pinned = sealed.pinned
        slot = pinned.slots[0]
        return int(await self._put_slot(sealed.pending.keys[0], slot, sealed.objects[slot], pinned.format))

    patch.setattr(Archive, "put", put)


@bug("the call that completes an upload in parts carries the condition")
def upload_completed_without_condition(patch: Patch) -> None:
    """Overwrite what is there by an upload in parts only."""
    original = ObjectAdapter._put_in_parts

    async def put_in_parts(self: Any, key: str, body: bytes, described: Any, condition: Any) -> None:
        await original(self, key, body, described, {})

    patch.setattr(ObjectAdapter, "_put_in_parts", put_in_parts)


@bug("an upload that its worker died in is aborted by the next owner of the shard")
def uploads_of_the_dead_left(patch: Patch) -> None:
    """Replay a flush without a look at what was begun."""

    async def abort_uploads(self: Any, pending: Any) -> None:
        """Do nothing."""

    patch.setattr(Archive, "abort_uploads", abort_uploads)
