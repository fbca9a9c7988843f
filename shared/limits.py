"""Every AWS limit that the product relies on, once, with its unit and its relations asserted.

Sources: the Kinesis, Firehose, DynamoDB and S3 API references of 2026 (service models 2013-12-02 and later).
"""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

# Kinesis Data Streams, writing.
PUT_RECORDS_COUNT_MAX: Final = 500
PUT_RECORDS_BYTES_MAX: Final = 10 * MIB  # data and partition keys of one request
RECORD_BYTES_MAX_DEFAULT: Final = 1 * MIB  # data and partition key; a stream can be raised to 10 MiB
RECORD_BYTES_MAX_CEILING: Final = 10 * MIB
PARTITION_KEY_CHARACTERS_MAX: Final = 256
SHARD_WRITE_RECORDS_PER_SECOND: Final = 1_000
SHARD_WRITE_BYTES_PER_SECOND: Final = 1 * MIB

# Kinesis Data Streams, reading.
GET_RECORDS_COUNT_MAX: Final = 10_000
GET_RECORDS_BYTES_MAX: Final = 10 * MIB
SHARD_READ_CALLS_PER_SECOND: Final = 5
SHARD_READ_BYTES_PER_SECOND: Final = 2 * MIB
ITERATOR_LIFETIME_SECONDS: Final = 300
SUBSCRIPTION_LIFETIME_SECONDS: Final = 300
SUBSCRIPTION_SILENCE_SECONDS_MAX: Final = 60  # ours, as KCL's: idle shards send empty events far more often
RESUBSCRIBE_SECONDS_MIN: Final = 5
CONSUMERS_PER_STREAM_MAX: Final = 20

# Kinesis Data Streams, control plane.
LIST_SHARDS_COUNT_MAX: Final = 1_000
LIST_SHARDS_TOKEN_LIFETIME_SECONDS: Final = 300
RETENTION_HOURS_DEFAULT: Final = 24
RETENTION_HOURS_MAX: Final = 8_760
SHARDS_PER_STREAM_MAX: Final = 10_000
HASH_KEY_MAX: Final = 2**128 - 1

# KPL aggregation (KPL's defaults; a decoder accepts more).
AGGREGATE_BYTES_MAX_DEFAULT: Final = 50 * KIB
DESTINATION_AGGREGATE_BYTES_MAX_DEFAULT: Final = 128 * KIB  # as many enriched events as others in the default
AGGREGATE_RECORDS_MAX: Final = 10_000
AGGREGATE_RECORDS_DECODED_MAX: Final = 200_000  # a member takes 6 bytes at least: more than 1 MiB can hold

# S3 and DynamoDB.
S3_KEY_BYTES_MAX: Final = 1_024
S3_SINGLE_PUT_BYTES_MAX: Final = 5 * 1024 * MIB
DYNAMODB_ITEM_BYTES_MAX: Final = 400 * KIB

# Bounds of our own on hostile input.
EVENT_BYTES_MAX: Final = 10 * MIB  # as a record, where the stream allows that
EVENT_DEPTH_MAX: Final = 64
EVENT_KEYS_MAX: Final = 1_000
LINE_BYTES_MAX: Final = 1 * MIB
GZIP_RATIO_MAX: Final = 200
BROWSE_HISTORY_ITEMS_MAX: Final = 1_000

assert RECORD_BYTES_MAX_DEFAULT <= RECORD_BYTES_MAX_CEILING <= PUT_RECORDS_BYTES_MAX
assert AGGREGATE_BYTES_MAX_DEFAULT <= RECORD_BYTES_MAX_DEFAULT
assert AGGREGATE_RECORDS_MAX <= RECORD_BYTES_MAX_DEFAULT // 6 < AGGREGATE_RECORDS_DECODED_MAX
assert EVENT_BYTES_MAX <= RECORD_BYTES_MAX_CEILING
assert SHARD_READ_BYTES_PER_SECOND * RESUBSCRIBE_SECONDS_MIN == GET_RECORDS_BYTES_MAX
