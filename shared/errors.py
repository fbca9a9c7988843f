"""The error tree of the product: every error that can reach a user has a name, a message and a hint.

HeadraceError
+- ConfigurationError                 a setting, option or file is not usable (exit 2)
|  +- CredentialsError                no AWS credentials or region
|  +- AddressError                    an address can't be listened on
+- RecordRejectedError                a record can't be sent as it is (dead letter)
|  +- RecordTooLargeError
|  +- PartitionKeyError
|  +- EventIdError                    its order, which readers rely on, could not be kept
|  +- MalformedEventError             not a JSON object, or outside the bounds
+- SourceError                        a file or stream can't be read
+- ServiceError                       AWS said no, or nothing
|  +- StreamNotFoundError
|  +- TableNotFoundError
|  +- BucketNotFoundError
|  +- AccessDeniedError
|  +- ThrottledError                  (retryable)
|  +- ServiceUnavailableError         (retryable; the call did not land)
|  +- AmbiguousCallError              (retryable; the call may have landed)
|  +- IteratorExpiredError            (retryable: take a new iterator)
|  +- ConsumerRefusedError            the stream takes no more registered consumers
|  +- InvalidRequestError             our own mistake: never retried
|     +- ForeignPositionError         the stream was made anew since the position was stored
+- LeaseLostError                     another owner holds the shard: stop, do not checkpoint
+- DeliveryFailedError                records are left undelivered
|  +- DrainTimeoutError
+- ShardHaltedError                   the circuit breaker stopped a shard
+- AuditFailedError                   lost, duplicated or out of order
+- QueryError                         SQL over the archive failed
+- OutputError                        stdout can't be written
"""

from __future__ import annotations

from typing import ClassVar


class HeadraceError(Exception):
    """Any error of this product; `str()` is the message, `hint` the remedy (may be empty)."""

    retryable: ClassVar[bool] = False
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint
        if hint:
            self.add_note(f"hint: {hint}")  # for a traceback of a program that uses the library


class ConfigurationError(HeadraceError):
    """A setting, option or file of the configuration is not usable."""

    exit_code = 2


class CredentialsError(ConfigurationError):
    """No AWS credentials or no region could be found."""

    exit_code = 1


class AddressError(ConfigurationError):
    """An address can't be listened on: in use, not ours, or not permitted."""

    exit_code = 1


class RecordRejectedError(HeadraceError):
    """A record can't be sent as it is; `error_code` names why in the dead letter."""

    error_code: ClassVar[str] = "record-rejected"


class RecordTooLargeError(RecordRejectedError):
    """Data and partition key together exceed what the stream accepts."""

    error_code = "record-too-large"


class PartitionKeyError(RecordRejectedError):
    """The partition key is missing, empty or longer than 256 characters."""

    error_code = "bad-partition-key"


class EventIdError(RecordRejectedError):
    """The event brings an id of headrace whose order can't be kept: readers would take it for a repetition."""

    error_code = "unordered-event-id"


class MalformedEventError(RecordRejectedError):
    """The bytes are not an event: not a JSON object, too deep, too large, or a field of the wrong type."""

    error_code = "malformed-event"


class SourceError(HeadraceError):
    """A source of events can't be opened or read."""


class ServiceError(HeadraceError):
    """AWS (or what stands in for it) refused a call or did not answer; `code` is the service's own."""

    def __init__(self, message: str, *, hint: str = "", code: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code


class StreamNotFoundError(ServiceError):
    """The data stream does not exist in this account and region."""


class TableNotFoundError(ServiceError):
    """The lease table does not exist."""


class BucketNotFoundError(ServiceError):
    """The S3 bucket does not exist."""


class AccessDeniedError(ServiceError):
    """The credentials are wrong, expired, or lack the permission."""


class ThrottledError(ServiceError):
    """The call as a whole was throttled; nothing landed."""

    retryable = True


class ServiceUnavailableError(ServiceError):
    """The service or the network failed before the call landed, e.g. connection refused or a 5xx."""

    retryable = True


class AmbiguousCallError(ServiceError):
    """No answer came: the call may or may not have landed (time-out, connection lost, 5xx after sending)."""

    retryable = True


class IteratorExpiredError(ServiceError):
    """The shard iterator is older than five minutes; take a new one at the last position."""

    retryable = True


class ConsumerRefusedError(ServiceError):
    """A consumer could not be registered for enhanced fan-out: the stream has as many as it may have."""


class InvalidRequestError(ServiceError):
    """The service calls the request invalid: a mistake of ours or of the configuration, never retried."""


class ForeignPositionError(InvalidRequestError):
    """A stored position is not of this stream: it was deleted and made again by the same name."""


class LeaseLostError(HeadraceError):
    """A fenced write was refused: another worker owns the shard; stop it and do not checkpoint."""


class DeliveryFailedError(HeadraceError):
    """Some records were not delivered; the message names how many and why."""

    exit_code = 3


class DrainTimeoutError(DeliveryFailedError):
    """A producer was closed with records undelivered, e.g. as the deadline of its close passed."""


class ShardHaltedError(HeadraceError):
    """Too many records of a shard failed deterministically; it stopped rather than fill the dead letters."""


class AuditFailedError(HeadraceError):
    """The audit found lost, duplicated or reordered events."""


class QueryError(HeadraceError):
    """SQL over the archive failed: the query, or an object that is not what its name says."""


class OutputError(HeadraceError):
    """What a command has to say can't be written to stdout, e.g., as the disk is full."""
