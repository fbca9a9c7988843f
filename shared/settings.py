"""The settings of the product: every field with its default, unit, bounds and meaning; each is an environment variable.

Credentials, regions, profiles and endpoints are not settings of ours: they follow the AWS conventions
(`AWS_ENDPOINT_URL`, `AWS_PROFILE`, `AWS_REGION`, ...).
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Annotated, Any, Final, TypeVar

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared.errors import ConfigurationError
from shared.limits import (
    AGGREGATE_BYTES_MAX_DEFAULT,
    DESTINATION_AGGREGATE_BYTES_MAX_DEFAULT,
    GET_RECORDS_COUNT_MAX,
    KIB,
    LINE_BYTES_MAX,
    MIB,
    PUT_RECORDS_BYTES_MAX,
    PUT_RECORDS_COUNT_MAX,
    RECORD_BYTES_MAX_DEFAULT,
    S3_SINGLE_PUT_BYTES_MAX,
)
from shared.records import Wire

_TAG_KEY: Final = re.compile(r"(?!aws:)[\w +=.:/@-]{1,128}")
_TAG_VALUE: Final = re.compile(r"[\w +=.:/@-]{0,256}")
STREAM_NAME_PATTERN = r"^[a-zA-Z0-9_.-]{1,128}$"
INTERNATIONAL = "International"
SettingsT = TypeVar("SettingsT", bound=BaseSettings)


class Ordering(Enum):
    """How much order the producer keeps: per partition key (in lanes), or none."""

    LANE = "lane"
    NONE = "none"


class Compression(Enum):
    """How S3 objects are compressed."""

    GZIP = "gzip"
    ZSTD = "zstd"
    SNAPPY = "snappy"
    NONE = "none"


class ArchiveFormat(Enum):
    """What S3 objects are."""

    JSON = "json"
    CSV = "csv"
    PARQUET = "parquet"


class ObjectEncryption(Enum):
    """How S3 encrypts an object, in the words of its API."""

    BUCKET = ""
    S3 = "AES256"
    KMS = "aws:kms"


class ProducerSettings(BaseSettings):
    """Settings of a producer; environment variables start with `HEADRACE_PRODUCER_`."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_PRODUCER_", frozen=True, extra="ignore")

    ordering: Ordering = Field(
        default=Ordering.LANE, description="`lane` keeps order per partition key; `none` does not"
    )
    lanes_fine: bool = Field(
        default=True,
        description="cut the 256 classes of partition keys in which order is kept where a boundary of the stream's "
        "shards lies inside one, at the start and after a reshard, so that none waits for two shards: several times "
        "faster where the number of shards is no power of two; an event that brings an id of a class that is cut is "
        "refused, unless the first event that is put brings an id, too: then none is cut",
    )
    wire: Wire = Field(
        default=Wire.JSON,
        description="how records are put: `json`, or `cbor` (a quarter less to send; tried on the local cloud only)",
    )
    aggregate: bool = Field(default=True, description="pack many user records into one stream record (KPL format)")
    aggregate_bytes_max: int = Field(
        default=AGGREGATE_BYTES_MAX_DEFAULT,
        ge=1 * KIB,
        le=RECORD_BYTES_MAX_DEFAULT,
        description=f"size of an aggregate, bytes; {DESTINATION_AGGREGATE_BYTES_MAX_DEFAULT:,} in a consumer's "
        "destination streams, unless set",
    )
    batch_records_max: int = Field(
        default=PUT_RECORDS_COUNT_MAX, ge=1, le=PUT_RECORDS_COUNT_MAX, description="stream records per PutRecords call"
    )
    batch_bytes_max: int = Field(
        default=4 * MIB, ge=16 * KIB, le=PUT_RECORDS_BYTES_MAX, description="data and keys per PutRecords call, bytes"
    )
    batch_linger_seconds: float = Field(
        default=0.1, ge=0, le=60, description="how long a record may wait for others before it is sent, seconds"
    )
    buffer_bytes_max: int = Field(
        default=64 * MIB, ge=2 * MIB, description="accepted and not yet acknowledged, bytes; when full, `put` waits"
    )
    shard_rate_percent: int = Field(
        default=100,
        ge=0,
        le=1000,
        description="share of a shard's 1,000 records/s and 1 MiB/s that is sent at most, percent; 0: no bound of ours",
    )
    spill_bytes_max: int = Field(
        default=0,
        ge=0,
        description="what `put` may keep on disk when the buffer is full, bytes; 0: it waits. "
        "The state folder must then be this process's own",
    )
    inflight_requests_max: int = Field(default=16, ge=1, le=256, description="PutRecords calls under way at once")
    call_timeout_seconds: float = Field(
        default=10, gt=0, le=120, description="when a call without an answer is given up, seconds"
    )
    retry_backoff_seconds_min: float = Field(
        default=0.05, gt=0, le=60, description="first back-off (full jitter), seconds"
    )
    retry_backoff_seconds_max: float = Field(
        default=4,
        gt=0,
        le=300,
        description="longest back-off (full jitter), seconds; bounds the recovery after an outage",
    )
    refused_backoff_seconds_max: float = Field(
        default=60,
        ge=0,
        le=3600,
        description="longest back-off after an error that no retry mends (access denied, no stream), seconds; 0: fail",
    )
    drain_timeout_seconds: float = Field(default=25, gt=0, le=3600, description="what a close may take, seconds")
    shard_map_refresh_seconds: float = Field(default=60, gt=0, description="how old the shard map may get, seconds")
    line_bytes_max: int = Field(default=LINE_BYTES_MAX, ge=1 * KIB, le=16 * MIB, description="longest line read, bytes")
    bookmark_interval_seconds: float = Field(
        default=1, ge=0.05, le=60, description="how often a bookmark is written, seconds"
    )
    state_dir: str = Field(default=".headrace", min_length=1, description="folder of bookmarks, keys and dead letters")
    rotate_wait_seconds: float = Field(
        default=5, ge=0, le=3600, description="how long a rotated file is still read, seconds"
    )


class ConsumerSettings(BaseSettings):
    """Settings of a consumer; environment variables start with `HEADRACE_`."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_", frozen=True, extra="ignore")

    app: str = Field(
        default="headrace", pattern=r"^[a-zA-Z0-9_.-]{3,128}$", description="application name: its lease table"
    )
    source_stream: str = Field(default="", description="the stream that is read")
    dest_streams: Annotated[dict[str, str], NoDecode] = Field(
        default_factory=dict, description="JSON: country -> destination stream; `International` takes the rest"
    )
    bucket: str = Field(default="", description="S3 bucket of the archive; empty: no objects are written")
    worker_id: str = Field(
        default="", max_length=128, description="name of this worker; empty: made of host, pid and chance"
    )
    read_wire: Wire = Field(
        default=Wire.JSON,
        description="how records are read: `json` or `cbor` (a quarter less to receive; tried on the local cloud only)",
    )
    start_from: str = Field(
        default="TRIM_HORIZON", description="where an unread shard starts: TRIM_HORIZON, LATEST or an ISO 8601 time"
    )
    archive_prefix: str = Field(
        default="archive/destination=!{destination}/dt=!{timestamp:yyyy-MM-dd}/hour=!{timestamp:HH}/",
        max_length=1024,
        description="prefix of archive objects, with `!{destination}`, `!{timestamp:PATTERN}` (arrival of the oldest "
        "record in the object) and `!{event:FIELD}` (dynamic partitioning; nested: `!{event:outer.inner}`)",
    )
    error_prefix: str = Field(
        default="errors/!{firehose:error-output-type}/dt=!{timestamp:yyyy-MM-dd}/hour=!{timestamp:HH}/",
        max_length=1024,
        description="prefix of dead-letter objects",
    )
    archive_time_zone: str = Field(
        default="UTC", pattern=r"^[A-Za-z0-9/_+-]{1,50}$", description="zone of `!{timestamp:...}`, e.g. Europe/Berlin"
    )
    archive_format: ArchiveFormat = Field(
        default=ArchiveFormat.JSON, description="`json` (one event a line), `csv` (with a header) or `parquet`"
    )
    archive_schema: str = Field(
        default="",
        max_length=32 * KIB,
        description='columns of CSV and Parquet objects, JSON: `{"column": "type"}` with string, int64, double, '
        "boolean, [type] or {name: type}; other fields are left out. Empty: as up to 1,000 events of the first flush "
        "have them, then held for good and for all workers; an event with a field or type that these lack becomes a "
        "dead letter",
    )
    file_extension: str = Field(
        default="",
        pattern=r"^$|^\.[0-9a-z!\-_.*'()]{1,127}$",
        description="end of the keys of archive objects; empty: as format and compression have it, e.g. `.json.gz`",
    )
    manifest_prefix: str = Field(
        default="",
        pattern=r"^$|^[A-Za-z0-9_.=-][A-Za-z0-9_.=/-]{0,198}/$",
        description="prefix of manifests, e.g. `manifests/`: per flush and hour an index of the objects written, and "
        "`_COMPLETE.json` once an hour gets no more of them; empty: none",
    )
    manifest_wait_seconds: float = Field(
        default=60,
        ge=0,
        le=3600,
        description="how long after its end an hour is taken for complete where nothing comes: at least by how much "
        "clocks differ, seconds",
    )
    compression: Compression = Field(
        default=Compression.GZIP, description="of S3 objects: gzip, zstd, none, and snappy for Parquet"
    )
    object_encryption: ObjectEncryption = Field(
        default=ObjectEncryption.BUCKET, description="AES256 (SSE-S3) or aws:kms (SSE-KMS); empty: as the bucket has it"
    )
    object_kms_key_id: str = Field(
        default="", max_length=2048, description="key of SSE-KMS, id or ARN; empty: the AWS managed key"
    )
    object_bucket_key: bool = Field(
        default=True, description="with SSE-KMS, let S3 ask KMS once for many objects (bucket key)"
    )
    storage_class: str = Field(
        default="", pattern=r"^[A-Z_]{0,40}$", description="of objects, e.g. STANDARD_IA; empty: STANDARD"
    )
    object_tags: Annotated[dict[str, str], NoDecode] = Field(
        default_factory=dict, max_length=10, description="JSON: tag -> value, at most 10, on every object"
    )
    multipart_bytes_min: int = Field(
        default=16 * MIB,
        ge=5 * MIB,
        le=S3_SINGLE_PUT_BYTES_MAX,
        description="an object of at least this size is uploaded in parts, bytes",
    )
    flush_bytes_max: int = Field(
        default=5 * MIB, ge=1 * KIB, le=128 * MIB, description="S3 batch size before compression, bytes"
    )
    object_bytes_target: int = Field(
        default=0,
        ge=0,
        le=128 * MIB,
        description="size of the largest object of a batch after compression that closes the batch, bytes, if "
        "`flush_bytes_max` doesn't before; the ratio is learned from the objects before; 0: none",
    )
    flush_records_max: int = Field(default=50_000, ge=1, description="S3 batch size, records")
    flush_seconds: float = Field(
        default=60, ge=0, le=900, description="age at which an S3 batch is closed, seconds; 0: without waiting"
    )
    checkpoint_interval_seconds: float = Field(
        default=5, ge=0.05, le=600, description="how often a checkpoint is stored where no S3 batch does it, seconds"
    )
    lease_duration_seconds: float = Field(
        default=15, ge=1, le=600, description="a lease whose heartbeat stands still this long may be taken, seconds"
    )
    progress_timeout_seconds: float = Field(
        default=300,
        ge=5,
        le=86_400,
        description="a shard whose records nothing happens to for this long is given back for another worker, seconds",
    )
    shard_sync_seconds: float = Field(default=10, ge=0.2, le=600, description="how often shards are listed, seconds")
    fan_out: bool = Field(
        default=False,
        description="read by enhanced fan-out, as the registered consumer `app`; it is charged for and not removed",
    )
    read_records_max: int = Field(
        default=GET_RECORDS_COUNT_MAX, ge=1, le=GET_RECORDS_COUNT_MAX, description="records per GetRecords call"
    )
    read_pause_seconds: float = Field(
        default=0.2,
        ge=0,
        le=60,
        description="between two GetRecords calls on a shard, seconds (the service allows 5 per second)",
    )
    read_idle_seconds: float = Field(default=1, ge=0, le=60, description="pause after an empty answer, seconds")
    budget_bytes_max: int = Field(
        default=64 * MIB,
        ge=12 * MIB,
        description="read and not yet acknowledged in this worker, bytes; taken before reading",
    )
    breaker_window_records: int = Field(default=1000, ge=50, description="records over which failures are counted")
    breaker_failed_percent: float = Field(
        default=5, gt=0, le=100, description="share of failures that halts a shard, percent"
    )
    call_timeout_seconds: float = Field(
        default=10, gt=0, le=120, description="when a call without an answer is given up, seconds"
    )
    retry_backoff_seconds_min: float = Field(
        default=0.05, gt=0, le=60, description="first back-off (full jitter), seconds"
    )
    retry_backoff_seconds_max: float = Field(
        default=5, gt=0, le=300, description="longest back-off (full jitter), seconds"
    )
    drain_timeout_seconds: float = Field(
        default=25, gt=0, le=3600, description="what a drain after SIGTERM may take, seconds"
    )
    http_host: str = Field(default="127.0.0.1", description="address of /healthz, /readyz, /metrics and the live page")
    http_port: int = Field(default=8080, ge=-1, le=65535, description="their port; 0: any free one; -1: no server")

    @field_validator("dest_streams", "object_tags", mode="before")
    @classmethod
    def _parse_json(cls, value: object) -> object:
        import orjson  # noqa: PLC0415 - only when settings are read, to keep --help quick

        if not isinstance(value, str):
            return value
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError as error:
            msg = 'not JSON; write it as {"NAME": "VALUE", "OTHER": "VALUE"}'
            raise ValueError(msg) from error

    @field_validator("object_tags")
    @classmethod
    def _check_tags(cls, tags: dict[str, str]) -> dict[str, str]:
        for key, value in tags.items():
            if not _TAG_KEY.fullmatch(key) or not _TAG_VALUE.fullmatch(value):
                msg = (
                    "a tag has 1 to 128 characters, its value up to 256: letters, digits, spaces and + - = . _ : / @;"
                    " `aws:` is not for users"
                )
                raise ValueError(msg)
        return tags


_PATTERNS_IN_WORDS: Final[dict[str, str]] = {
    "app": "an application's name is that of a DynamoDB table: 3 to 128 letters, digits and `_`, `.`, `-`",
    "archive_time_zone": "a time zone is named as in the IANA database, e.g. Europe/Berlin",
    "file_extension": "an extension begins with a dot, with 1 to 127 of a-z, 0-9 and ! - _ . * ' ( ) behind it",
    "manifest_prefix": "a prefix of manifests ends with a slash and does not begin with one; it has up to 200 letters,"
    " digits and `_`, `.`, `=`, `-`, `/`",
    "storage_class": "a storage class is written as S3 writes it, e.g. STANDARD_IA",
}


def load_settings(kind: type[SettingsT], **given: Any) -> SettingsT:
    """Read settings from the environment, overridden by the `given` values that are not None.

    Raises ConfigurationError naming the first field that is not usable, with its bounds.
    """
    try:
        return kind(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"]) or "settings"
        prefix = kind.model_config.get("env_prefix", "")
        text = _PATTERNS_IN_WORDS.get(name) if first["type"] == "string_pattern_mismatch" else None
        message = f"setting `{name}` is not usable: {text or first['msg'].removeprefix('Value error, ')}"
        variable = prefix + name.partition(".")[0].upper()
        raise ConfigurationError(message, hint=f"Set it by its option or by {variable}") from error
