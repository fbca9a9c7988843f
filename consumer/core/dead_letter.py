"""What is kept of a record that can never be processed: its bytes, its place and the reason, as Firehose writes it."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import orjson

from consumer.core.object_key import FORMAT_CONVERSION_FAILED
from shared.records import Position


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that failed for good; `arrival_timestamp` in seconds since the epoch.

    `shard_id` is told to a function of the user's own; where batches keep letters, they know their shard.
    """

    error_type: str
    error_code: str
    error_message: str
    data: bytes
    partition_key: str
    position: Position
    arrival_timestamp: float
    event_id: str | None = None
    destination: str | None = None
    attempts: int = 1
    shard_id: str = ""

    def encode(self, shard_id: str, ended_at: float) -> bytes:
        """Return one line of JSON without a newline, in Firehose's fields and the place in the source stream.

        Timestamps are milliseconds since the epoch, as in the objects that Firehose writes.
        """
        sequence_number, sub_sequence_number = self.position
        line = {
            "attemptsMade": self.attempts,
            "arrivalTimestamp": int(self.arrival_timestamp * 1000),
            "errorCode": self.error_code,
            "errorMessage": self.error_message,
            "attemptEndingTimestamp": int(ended_at * 1000),
            "rawData": base64.b64encode(self.data).decode("ascii"),
            "shardId": shard_id,
            "sequenceNumber": str(sequence_number),
            "subSequenceNumber": sub_sequence_number,
            # A key of a broken aggregate may hold lone surrogates, which JSON can't carry.
            "partitionKey": self.partition_key.encode("utf-8", "replace").decode(),
        }
        if self.error_type == FORMAT_CONVERSION_FAILED:
            # Firehose names these two otherwise here; whoever reads one kind of dead letters or all finds them.
            line |= {"lastErrorCode": self.error_code, "lastErrorMessage": self.error_message}
        if self.event_id is not None:
            line["eventId"] = self.event_id
        if self.destination is not None:
            line["destination"] = self.destination
        return orjson.dumps(line)
