"""Bugs that break: a duplicate is dropped, and nothing else is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from consumer.core import shard_graph
from consumer.core.duplicate_marks import DuplicateMarks
from consumer.flusher import Flusher
from consumer.shard_consumer import ShardConsumer
from tests.simulation.planted.registry import Patch, bug


@bug("an event at or below its mark is dropped")
def duplicates_not_dropped(patch: Patch) -> None:
    """Let everything through."""
    patch.setattr(DuplicateMarks, "repeated", lambda self, event_ids: set())


@bug("marks are kept per source and lane")
def marks_per_source(patch: Patch) -> None:
    """Forget the lane."""
    original = DuplicateMarks.repeated

    def forget(event_id: Any) -> Any:
        parts = event_id.split(".") if isinstance(event_id, str) else ()
        return f"{parts[0]}.00.{parts[2]}" if len(parts) == 3 else event_id

    def repeated(self: Any, event_ids: Any) -> set[int]:
        return original(self, [forget(each) for each in event_ids])

    patch.setattr(DuplicateMarks, "repeated", repeated)


@bug("marks are stored with the checkpoint")
def marks_not_saved(patch: Patch) -> None:
    """Store none."""

    async def commit(self: Any, batch: Any, last: Any) -> None:
        batch.marks = {}
        await original(self, batch, last)

    original = Flusher._commit
    patch.setattr(Flusher, "_commit", commit)


@bug("marks are those of the moment at which the batch was closed")
def marks_of_a_later_moment(patch: Patch) -> None:
    """Take the marks when they are stored: by then they cover events that the checkpoint does not."""
    original = ShardConsumer._new_batch

    def new_batch(self: Any) -> Any:
        batch = original(self)
        marks = self._marks

        class Live(type(batch)):  # type: ignore[misc] - made of whatever the product uses
            @property
            def marks(self) -> Mapping[str, int]:
                return dict(marks.snapshot())

            @marks.setter
            def marks(self, value: Any) -> None:
                """Ignore the snapshot."""

        batch.__class__ = Live
        return batch

    patch.setattr(ShardConsumer, "_new_batch", new_batch)


@bug("children inherit the marks of their parents")
def marks_not_inherited(patch: Patch) -> None:
    """Start children with none."""
    patch.setattr(shard_graph, "merge_marks", lambda rows: {})


@bug("the child of a merge inherits the higher mark of both parents")
def marks_of_one_parent(patch: Patch) -> None:
    """Take the marks of the first parent only."""
    patch.setattr(shard_graph, "merge_marks", lambda rows: dict(next((row.marks for row in rows), {})))
