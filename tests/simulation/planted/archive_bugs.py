"""Bugs that break: formats and partitions change nothing about where an event ends up, which is one object."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from consumer import archive
from consumer.core.object_key import ObjectNames
from consumer.core.partition import SLOT_SEPARATOR
from consumer.core.route import Router
from tests.simulation.planted.registry import Patch, bug


@bug("an event that does not fit the columns goes to the dead letters")
def misfits_left_out(patch: Patch) -> None:
    """Write what fits and forget the rest."""
    original = archive.encode

    async def encode(lines: bytearray, described: Any) -> Any:
        return replace(await original(lines, described), rejected=())

    patch.setattr(archive, "encode", encode)


@bug("each partition has an object of its own")
def partitions_share_a_name(patch: Patch) -> None:
    """Name objects by their destination only: the second one meets the key of the first."""
    original = ObjectNames.key

    def keys(self: Any, arrivals: Any, covered: Any) -> tuple[str, ...]:
        return tuple(original(self, _shared(slot), covered, oldest) for slot, oldest in arrivals.items())

    patch.setattr(ObjectNames, "keys", keys)


def _shared(slot: str) -> str:
    destination, *values = slot.split(SLOT_SEPARATOR)
    return SLOT_SEPARATOR.join([destination, *("same" for _ in values)])


@bug("a replay sorts events into the objects that were prepared")
def replay_sorts_by_other_fields(patch: Patch) -> None:
    """Partition a rebuilt batch by fewer fields than were pinned."""
    original, made = Router.slots_of, Router.__init__

    def slots_of(self: Any, destinations: list[str], events: Any) -> list[str]:
        slots = original(self, destinations, events)
        if self.is_replay:
            return [slot.rpartition(SLOT_SEPARATOR)[0] + f"{SLOT_SEPARATOR}other" for slot in slots]
        return slots

    def mark(self: Any, destinations: Any, fields: tuple[str, ...] = ()) -> None:
        made(self, destinations, fields)
        self.is_replay = bool(fields) and isinstance(destinations, tuple)  # those of a pinned format

    patch.setattr(Router, "__init__", mark)
    patch.setattr(Router, "slots_of", slots_of)
