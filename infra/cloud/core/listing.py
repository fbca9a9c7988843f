"""ListShards: filters and pages over the shards of a stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from infra.cloud.core.api_error import ApiError, constraint_broken, invalid_argument, validation_failed
from infra.cloud.core.names import shard_index_of
from infra.cloud.core.shard import Shard
from infra.cloud.core.stream import Stream
from infra.cloud.core.token import PageToken
from shared.limits import LIST_SHARDS_COUNT_MAX, LIST_SHARDS_TOKEN_LIFETIME_SECONDS

FILTER_TYPES: Final = (
    "AFTER_SHARD_ID",
    "AT_TRIM_HORIZON",
    "FROM_TRIM_HORIZON",
    "AT_LATEST",
    "AT_TIMESTAMP",
    "FROM_TIMESTAMP",
)


@dataclass(frozen=True, slots=True)
class ShardFilter:
    """Which shards to list; `timestamp` in seconds since 1970."""

    type: str = "FROM_TRIM_HORIZON"
    shard_id: str | None = None
    timestamp: float | None = None


@dataclass(frozen=True, slots=True)
class ShardPage:
    """One page of shards; `next_token` is None on the last."""

    shards: list[Shard]
    next_token: str | None


def filtered(stream: Stream, wanted: ShardFilter, now: float) -> list[Shard]:
    """The shards that a filter selects, by id (the API reference has the wording of each type)."""
    shards = stream.listed(now)
    horizon = max(stream.horizon(now), stream.created_at)
    match wanted.type:
        case "AFTER_SHARD_ID":
            if wanted.shard_id is None:
                invalid_argument("ShardId must be specified for the filter type AFTER_SHARD_ID")
            after = shard_index_of(wanted.shard_id)
            return [each for each in shards if each.index > after]
        case "AT_TRIM_HORIZON":
            return [each for each in shards if each.was_open_at(horizon)]
        case "FROM_TRIM_HORIZON":
            return shards
        case "AT_LATEST":
            return [each for each in shards if each.is_open]
        case "AT_TIMESTAMP":
            moment = _timestamp(wanted, now, horizon)
            return [each for each in shards if each.was_open_at(moment)]
        case "FROM_TIMESTAMP":
            moment = _timestamp(wanted, now, horizon)
            return [each for each in shards if each.closed_at is None or each.closed_at >= moment]
    raise constraint_broken(
        wanted.type, "shardFilter.type", f"Member must satisfy enum value set: {list(FILTER_TYPES)}"
    )


def _timestamp(wanted: ShardFilter, now: float, horizon: float) -> float:
    if wanted.timestamp is None:
        invalid_argument(f"Timestamp must be specified for the filter type {wanted.type}")
    if wanted.timestamp > now:
        invalid_argument("The timestamp of the shard filter must not be in the future")
    return max(wanted.timestamp, horizon)


def first_page(
    stream: Stream, wanted: ShardFilter, exclusive_start: str | None, count_max: int, now: float
) -> ShardPage:
    """Answer ListShards without a token."""
    shards = filtered(stream, wanted, now)
    if exclusive_start is not None:
        after = shard_index_of(exclusive_start)
        shards = [each for each in shards if each.index > after]
    return _page(stream, shards, wanted, count_max, now)


def following_page(stream: Stream, token: PageToken, count_max: int, now: float) -> ShardPage:
    """Answer ListShards with a token, which holds the filter too."""
    if now - token.issued_at > LIST_SHARDS_TOKEN_LIFETIME_SECONDS:
        raise ApiError("ExpiredNextTokenException", "The pagination token has expired after 300 seconds.")
    wanted = ShardFilter(token.filter_type, token.last, token.filter_time)
    after = int(token.last)
    shards = [each for each in filtered(stream, wanted, now) if each.index > after]
    return _page(stream, shards, wanted, count_max, now)


def _page(stream: Stream, shards: list[Shard], wanted: ShardFilter, count_max: int, now: float) -> ShardPage:
    if not 1 <= count_max <= LIST_SHARDS_COUNT_MAX * 10:
        validation_failed(count_max, "maxResults", "Member must have value between 1 and 10000")
    count = min(count_max, LIST_SHARDS_COUNT_MAX)
    if len(shards) <= count:
        return ShardPage(shards, None)
    page = shards[:count]
    token = PageToken(stream.uid, now, str(page[-1].index), wanted.type, wanted.timestamp or 0.0)
    return ShardPage(page, token.encode())
