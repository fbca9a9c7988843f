"""What the compiled module offers; its functions take columns of records, as a call for each would cost as much."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

# What an ordinary event is: what writes or reads it, the fields of its partition key and of its id, the most bytes that
# it has (where it is written: without its last brace), and the most opening brackets.
EventRules = tuple[Callable[[Any], Any], str, str, int, int]
# What stands behind the data of each line: a text that is the same in all of them, or a column.
Pieces = tuple[bytes | list[int] | list[str], ...]
# Names of all fields, the three sums of each event, and what it has for an id: None if no event has the field.
Survey = tuple[set[str], list[int], list[int], list[int], list[Any] | None]

# At most so many aggregates, bytes of them all, and bytes of each; beyond how many bytes one is full; at most so many
# records of each; and what each takes beside its records, and a record beside its data and key.
TakingLimits = tuple[int, int, int, int, int, int, int]
# Of each aggregate its shard, data and keys of its records, their bytes, and how many lanes it was made of; the indexes
# of these lanes, one aggregate after the other; the places of lanes that were left; and how many were looked at.
Taken = tuple[list[str], list[list[bytes]], list[list[str]], list[int], list[int], list[int], list[int], int]

# "SOURCE.LANE" of neighbours with rising offsets, the indexes where they start and stop, first and last offset.
IdRun = tuple[str, int, int, int, int]

# Data, keys, sequence numbers and arrivals of the records of an answer, and where they end.
Records = tuple[list[bytes], list[str], list[str], list[float], int]


class Columns(Protocol):
    """The functions of `_columns`. TypeError for arguments of other types than these, without exception."""

    SOURCES: str  # the digest of the sources that it was made of

    def lie_in_range(self, keys: list[str], start: bytes, end: bytes, /) -> bool | None:
        """Whether the MD5 of each key is at least `start` and at most `end`; None if a key is not ASCII.

        Sixteen at a time: a sixth of the time of one by one.
        """

    def encode_aggregates(self, groups: list[tuple[list[bytes], list[str]]], /) -> list[bytes] | None:
        """Return an aggregate for the data and partition keys of each group, with its magic and its digest.

        There is a key for each record, and at least one record. None if a key is not ASCII: nothing was done.
        """

    def read_records(self, body: bytes, at: int, /) -> Records | None:
        """Return data, keys, sequence numbers and arrivals of the records of a GetRecords answer, and where they end.

        The first one begins at `at`; they end with a bracket. None if one of them is not as the service writes them.
        """

    def read_log_line(self, line: bytes, /) -> tuple[bytes, bytes, bytes, int, int, bytes, bytes, bytes] | None:
        """Take apart a line in Combined Log Format, as far as one look tells that it is one; None elsewhere.

        Returns address, date (as `26/Jan/2019`), zone (as ` +0330`), second of the day, status, user agent, method, and
        path without query.
        """

    def put_body(self, head: bytes, entries: list[Any], encode: Callable[[bytes], bytes], /) -> bytes | None:
        """Return `head`, the entries of a PutRecords request in JSON, their data as `encode` has them, and the end.

        An entry is a tuple of data, partition key, and an explicit hash key or None. None if a key has to be escaped.
        """

    def encode_events(self, events: list[Any], rules: EventRules, /) -> tuple[list[bytes], list[str]] | None:
        """Return events as JSON that lacks the last brace, and their partition keys; None if one is no ordinary one.

        An ordinary one is a dict within the rules that has a partition key and no id. Errors are those of writing it,
        but TypeError, which means None.
        """

    def read_events(
        self, lines: Sequence[bytes], rules: EventRules, key_characters_max: int, /
    ) -> tuple[list[bytes], list[str]] | None:
        """Return lines that are events without their last brace, and their partition keys; None if one needs a look.

        Each is a JSON object with nothing around it, within the rules, that has a partition key and no id, and no
        integer that may be beyond 64 bits. Lines are a list or a tuple.
        """

    def stage_event(
        self,
        event: Any,
        partition_key: Any,
        rules: EventRules,
        indexes: dict[str, int],
        bodies: list[bytes],
        keys: list[str],
        /,
    ) -> int:
        """Append an event as `encode_events` writes it, and its key, to lists that have some; return how many then.

        The partition key is that of the event unless given. 0, and nothing was done, if it is no ordinary event, its
        key is not in `indexes` or nothing is in the lists.
        """

    def queue_records(
        self,
        datas: Sequence[bytes],
        keys: Sequence[str],
        indexes: dict[str, int],
        heads: tuple[bytes, ...] | None,
        numbers: int | Sequence[int],
        lane_datas: list[list[bytes]],
        lane_keys: list[list[str]],
        free: bytearray,
        room: int,
        record_bytes_max: int,
        /,
    ) -> tuple[int, int, int, list[int]] | None:
        """Append records to the lists of their lanes, which `indexes` has by key.

        With `heads`, one per lane, the data are events that lack their last brace and get an id: a head and a number,
        from `numbers` on or one for each. Sequences are lists or tuples. Returns the bytes of data and keys, those of
        lanes that are `free`, how many records these are, and the lanes that were empty, in the order of their first
        record. None, and nothing was done, if one is larger than `record_bytes_max`, all have more than `room`, or one
        needs a look of its own.
        """

    def take_lanes(
        self,
        indexes: list[int],
        shards: list[str | None],
        joins: bytes | None,
        lane_datas: list[list[bytes]],
        lane_keys: list[list[str]],
        limits: TakingLimits,
        /,
    ) -> Taken:
        """Empty lanes, one after the other, into aggregates of their shards, until one does not fit whole.

        An aggregate that is full gives way to another one if a lane does not fit; these come first, then the others. A
        lane is left as it is if it may only join an aggregate, which a byte of `joins` other than 0 says, or there
        are as many as may be, and its shard has none; not if there is none at all. A shard of None needs a look, as
        does a lane without records or with one out of the ordinary.
        """

    def size_of_records(self, datas: list[bytes], keys: list[str], start: int, /) -> int | None:
        """Return the bytes of data and keys, from record `start` on; None if one is of another type, or a bad key."""

    def look_at(self, texts: list[bytes], /) -> tuple[int, int, bool, bool]:
        """Return the longest one's length, and all opening brackets; whether there is a newline, and a long number."""

    def survey(self, events: list[Any], items_max: int, quantity_max: int, /) -> Survey | None:
        """Return the names and sums of events; None if one is no object, or has a history out of the ordinary."""

    def each_line(self, datas: list[bytes], pieces: Pieces, /) -> list[bytes]:
        """Return of each line its data without their last byte, and its value of every piece.

        Values are ASCII texts and whole numbers, none of them negative.
        """

    def lines_by_slot(
        self, datas: list[bytes], pieces: Pieces, slots: list[str], /
    ) -> list[tuple[str, list[int], bytes]]:
        """Return each slot, in the order in which they first come, the indexes of its lines, and these as one text."""

    def are_aggregates(self, datas: list[bytes], /) -> list[bool]:
        """Whether data begin with the magic of an aggregate, and end with the digest of what lies between."""

    def read_aggregate(self, data: bytes, records_max: int, /) -> tuple[list[bytes], list[str]] | None:
        """Return data and keys of the members of an aggregate; None if one has an explicit hash key, or no key.

        None, too, if there are more than `records_max`, or there is anything else in it than its format describes.
        """

    def size_of_plain(self, datas: list[bytes], /) -> int | None:
        """Return how many bytes data have together; None if one of them might be an aggregate."""

    def id_runs(self, event_ids: list[Any], /) -> list[IdRun] | None:
        """Return the runs of event ids; None if one of them has not the form of those with a positive offset."""

    def read_records_cbor(self, body: bytes, at: int, count: int, /) -> Records | None:
        """Do what `read_records` does in CBOR; a negative count stands for an end that is marked.

        None if one of the records has another form, or an unknown field.
        """
