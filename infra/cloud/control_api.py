"""The local cloud's own pages below `/_headrace/`: health, faults, reshards and state, for this machine only."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import parse_qs

import orjson

from infra.cloud.core.api_error import ApiError
from infra.cloud.core.engine import REGION, KinesisEngine
from infra.cloud.core.fault_file import parse_faults, reshard_of
from infra.cloud.core.faults import FaultPlan
from infra.cloud.core.shard import Shard
from infra.cloud.fault_files import SHIPPED, load_faults
from infra.cloud.fault_injector import FaultInjector
from infra.cloud.kinesis_service import KinesisService
from infra.cloud.misbehaviour import Reply
from infra.cloud.resharder import Resharder
from shared.errors import ConfigurationError

PREFIX: Final = "/_headrace/"
CONTROL_BODY_BYTES_MAX: Final = 512 * 1024

_OK: Final = 200
_BAD_REQUEST: Final = 400
_NOT_FOUND: Final = 404
_WRONG_METHOD: Final = 405
_CONFLICT: Final = 409
_METHODS: Final = {"health": "GET", "faults": "GET, PUT, DELETE", "reshard": "POST", "state": "GET"}


def control_reply(status: int, answer: dict[str, Any]) -> Reply:
    """An answer in JSON."""
    return Reply(status, orjson.dumps(answer), [("Content-Type", "application/json")])


class ControlApi:
    """Answers the pages; `injector` is None where the faults are somebody else's business."""

    def __init__(self, kinesis: KinesisService, injector: FaultInjector | None) -> None:
        self._kinesis = kinesis
        self._injector = injector
        self._resharder = Resharder(kinesis)

    def answer(self, method: str, path: str, query: str, body: bytes) -> Reply:
        """Answer one request; what is wrong with it is said in `error` and `hint`."""
        page = path.removeprefix(PREFIX)
        if page not in _METHODS or (page == "faults" and self._injector is None):
            return control_reply(_NOT_FOUND, {"error": "no such page", "hint": f"{PREFIX}{{{','.join(_METHODS)}}}"})
        if method not in _METHODS[page]:
            return control_reply(_WRONG_METHOD, {"error": f"{page} takes {_METHODS[page]}"})
        try:
            return control_reply(_OK, self._page(page, method, query, body))
        except ConfigurationError as error:
            return control_reply(_BAD_REQUEST, {"error": str(error), "hint": error.hint})
        except ApiError as error:
            return control_reply(_CONFLICT, {"error": error.message, "code": error.code})

    def _page(self, page: str, method: str, query: str, body: bytes) -> dict[str, Any]:
        if page == "health":
            return {"status": "ok"}
        if page == "reshard":
            return self._reshard(body)
        if page == "state":
            return {"streams": [_stream(region, each) for region, each in self._streams()]}
        assert self._injector is not None  # answer() has looked
        if method == "PUT":
            self._injector.load(_plan(query, body))
        elif method == "DELETE":
            self._injector.load(FaultPlan())
        return self._injector.state()

    def _reshard(self, body: bytes) -> dict[str, Any]:
        try:
            values = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise ConfigurationError(f"the body is not JSON: {error.msg}") from error
        region = values.pop("region", REGION) if isinstance(values, dict) else REGION
        reshard = reshard_of(values, "the body", needs_time=False)
        if reshard.stream == "*" or not isinstance(region, str):
            raise ConfigurationError("`stream` is missing", hint='{"stream": "events", "kind": "split"}')
        return {"stream": reshard.stream, "done": self._resharder.now(region, reshard)}

    def _streams(self) -> list[tuple[str, tuple[KinesisEngine, str]]]:
        return [
            (region, (engine, name))
            for region, engine in self._kinesis.engines()
            for name in engine.list_stream_names()
        ]


def _plan(query: str, body: bytes) -> FaultPlan:
    names = parse_qs(query, max_num_fields=10).get("name", [])
    if not names:
        return parse_faults(body)
    if names[0] not in SHIPPED:
        # A path would let whoever reaches the endpoint probe the files of this machine.
        raise ConfigurationError("no ready-made faults have that name", hint=f"one of: {', '.join(SHIPPED)}")
    return load_faults(names[0])


def _stream(region: str, place: tuple[KinesisEngine, str]) -> dict[str, Any]:
    engine, name = place
    stream = engine.describe_stream(name)
    return {
        "region": region,
        "stream": name,
        "mode": stream.mode,
        "open_shards": len(stream.open_shards),
        "shards": [_shard(each) for each in engine.shards_of(name)],
    }


def _shard(shard: Shard) -> dict[str, Any]:
    return {
        "shard_id": shard.shard_id,
        "open": shard.is_open,
        "parents": list(shard.parents),
        "starting_hash_key": str(shard.hash_range.start),
        "ending_hash_key": str(shard.hash_range.end),
        "records": len(shard.log),
        "bytes": shard.log.bytes_kept,
    }
