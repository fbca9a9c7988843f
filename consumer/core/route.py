"""Which destination an event belongs to: by its country, `International` takes the rest."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import repeat
from typing import Any, Final

from consumer.core.partition import Partitioner
from shared.errors import ConfigurationError

INTERNATIONAL: Final = "International"
# A destination becomes a part of object keys and of metric labels.
_NAME: Final = re.compile(r"[\w][\w .()'*-]{0,127}")


class Router:
    """A table from country to destination; matching is exact, as in the lab.

    `fields` are the paths by which the objects of a destination are partitioned.
    """

    def __init__(self, destinations: Iterable[str], fields: tuple[str, ...] = ()) -> None:
        self.destinations = tuple(destinations) or (INTERNATIONAL,)
        for name in self.destinations:
            if not _NAME.fullmatch(name):
                raise ConfigurationError(
                    f"Destination `{name[:40]}` is not usable as a part of object keys",
                    hint="Letters, digits, spaces and . _ - ( ) ' * are allowed, at most 128 characters",
                )
        if INTERNATIONAL not in self.destinations:
            raise ConfigurationError(
                f"dest_streams names {', '.join(self.destinations)}, but nothing takes the rest",
                hint=f'Add "{INTERNATIONAL}": "STREAM"',
            )
        self._partitioner = Partitioner(fields) if fields else None
        self._by_country: Mapping[str, str] = {name: name for name in self.destinations}

    def destination_of(self, event: Mapping[str, Any]) -> str:
        """Return the destination of an event; one without a country, or with a strange one, is International."""
        return self.destinations_of((event,))[0]

    def destinations_of(self, events: Iterable[Mapping[str, Any]]) -> list[str]:
        """Return the destination of each event."""
        find = self._by_country.get
        countries: list[Any] = [event.get("country") for event in events]
        try:
            return list(map(find, countries, repeat(INTERNATIONAL)))
        except TypeError:  # a list or an object
            return [find(each, INTERNATIONAL) if type(each) is str else INTERNATIONAL for each in countries]

    def slots_of(self, destinations: list[str], events: Iterable[Mapping[str, Any]]) -> list[str]:
        """Return which object of a flush each event belongs to: its destination's, or that of one of its partitions."""
        if self._partitioner is None:
            return destinations
        slot = self._partitioner.slot
        return [slot(destination, event) for destination, event in zip(destinations, events, strict=True)]
