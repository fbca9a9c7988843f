"""What each counter and gauge of the product means, in words; `/metrics` shows them as HELP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

COUNTERS: Final[Mapping[str, str]] = {
    # Of a consumer, about records.
    "records_read": "user records read from the stream",
    "duplicates_dropped": "records left out because their event had been delivered before",
    "events_routed": "events put to a destination, by its name",
    "records_handed_over": "records given to the user's function",
    "dead_letters": "records that could not be handled and were set aside, by type and code",
    "objects_written": "objects written to the bucket",
    "objects_existing": "objects found already written as they were to be, by an attempt before",
    "object_bytes_written": "bytes of the objects written to the bucket, as they are stored",
    "uploads_aborted": "unfinished uploads aborted that a worker had left behind when it died",
    "hours_completed": "hours of the archive marked as complete by this worker",
    "hours_not_found": "looks for an hour to complete that were given up among too many keys of others",
    # About the stream that it reads.
    "calls_retried": "calls repeated after a failure, by operation and error",
    "iterators_expired": "shard iterators that were too old to be used and were replaced",
    "subscriptions_opened": "subscriptions to a shard opened, with enhanced fan-out",
    "retention_gaps": "places where records may have been trimmed before they were read",
    "retention_headroom_low": "times that the age of unread records crossed half of the retention period",
    # About its leases.
    "leases_lost": "leases lost to another worker or to time, by reason",
    "renewals_failed": "attempts to renew a lease that failed, by error",
    "shards_stalled": "shards given back because they made no progress here",
    "lease_rows_restored": "rows of the lease table written again because they were gone or could not be read",
    "succession_looks_failed": "looks at a shard that is being handed over that failed, by error",
    "dynamodb_requests": "requests to DynamoDB, by operation",
    # Of a producer.
    "producer_batches_sent": "PutRecords calls that were answered, by what made them due",
    "producer_calls_failed": "PutRecords calls that failed as a whole, by error",
    "producer_stream_records_sent": "stream records in calls that were answered, refused ones included",
    "producer_stream_records_failed": "stream records refused within a call that was answered, by code",
    "producer_records_acknowledged": "records whose delivery the stream has acknowledged",
    "producer_records_undeliverable": "records given up because the stream takes them in no request, by code",
    "producer_aggregates_misplaced": "aggregates sent again because they landed where not all of their members belong",
}
GAUGES: Final[Mapping[str, str]] = {
    "hash_key_ranges_uncovered": "ranges of hash keys of the open stream that no unfinished row covers, if that lasts",
    "retention_headroom_seconds": "retention period less the age of the oldest unread record, by shard",
    "producer_is_refused": "1 while the stream refuses calls in a way that repeating them does not heal",
    "producer_records_pending": "records accepted whose outcome is not known yet",
    "producer_records_spilled": "records that wait on disk for room in memory",
    "producer_spill_bytes": "bytes on disk of records that wait there",
    "producer_shard_rate_share": "part of a shard's limits that this producer uses at most at present, by shard",
    "producer_shard_top_key_share": "part of a shard's load that is its hottest partition key, by shard",
    "producer_shard_split_share": "part of a shard's load that stays in the larger half after the best split, by shard",
}
