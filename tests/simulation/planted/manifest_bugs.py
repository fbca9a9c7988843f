"""Bugs that break: indexes list exactly the objects there are, and a complete hour gets no more of them."""

from __future__ import annotations

from typing import Any

from consumer import hour_closer
from consumer.archive import Archive
from consumer.core.manifest import INDEX_MARK
from shared.lease import TableRows
from tests.simulation.planted.registry import Patch, bug


@bug("an hour is complete when every shard has closed it")
def first_shard_completes(patch: Patch) -> None:
    """Complete an hour as soon as one shard is past it."""

    def closed_until(rows: TableRows) -> float | None:
        instants = [row.closed_until for row in rows.leases if row.closed_until is not None]
        return max(instants, default=None)

    patch.setattr(hour_closer, "closed_until", closed_until)


@bug("no object is named after an hour that its shard has closed")
def closed_hours_opened(patch: Patch) -> None:
    """Name objects after their oldest record, whatever was promised."""
    original = Archive.seal

    async def seal(self: Any, shard_id: str, batch: Any, generation: int, not_before: float = 0.0) -> Any:
        return await original(self, shard_id, batch, generation)

    patch.setattr(Archive, "seal", seal)


@bug("a replayed flush writes the indexes that were prepared")
def replay_without_indexes(patch: Patch) -> None:
    """Rebuild objects only."""
    original = Archive.reseal

    async def reseal(self: Any, *args: Any, **named: Any) -> Any:
        sealed = await original(self, *args, **named)
        for slot in [each for each in sealed.objects if each.startswith(INDEX_MARK)]:
            del sealed.objects[slot]  # type: ignore[attr-defined] # a dict behind a Mapping
        return sealed

    patch.setattr(Archive, "reseal", reseal)


@bug("hours that nobody was there to complete are completed later")
def hours_of_a_day_looked_back_for(patch: Patch) -> None:
    """Look for hours that are left no further back than a day."""
    patch.setattr(hour_closer, "_LOOK_BACK_SECONDS", 86_400.0)
