"""Both ways through the AWS client, side by side: the same bytes out, the same records and errors in."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import re
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import cbor2
import pytest

from shared.aws.cbor import CBOR_TYPE
from shared.aws.kinesis import KinesisAdapter
from shared.aws.session import Aws, open_aws
from shared.errors import HeadraceError
from shared.hash_key import FULL_RANGE
from shared.records import TRIM_HORIZON, PutEntry, PutResult, Wire

_ENTRIES = [
    PutEntry(b'{"session_id":"a"}', "a"),
    PutEntry(bytes(range(256)), 'kä"\\\n\u2028', 7),
    PutEntry(b"", "\U0001f600", 2**128 - 1),
]
_PUT_ANSWER = (
    b'{"FailedRecordCount":1,"Records":[{"SequenceNumber":"49","ShardId":"shardId-000000000000"},'
    b'{"ErrorCode":"ProvisionedThroughputExceededException","ErrorMessage":"slow"},'
    b'{"SequenceNumber":"50","ShardId":"shardId-000000000001","ErrorCode":null}]}'
)
_GET_ANSWER = (
    b'{"Records":[{"Data":"e30=","PartitionKey":"k\\u00e4","SequenceNumber":"49","ApproximateArrivalTimestamp":1.7E9},'
    b'{"Data":"/+8=","PartitionKey":"k","SequenceNumber":"50","ApproximateArrivalTimestamp":1700000000.123}],'
    b'"NextShardIterator":"AAAB","MillisBehindLatest":5,"ChildShards":[{"ShardId":"shardId-000000000002",'
    b'"ParentShards":["shardId-000000000000"],"HashKeyRange":{"StartingHashKey":"0","EndingHashKey":"9"}}]}'
)
_INSTANT = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)


@dataclass(slots=True)
class Endpoint:
    """A loopback server that keeps each request as it came and gives the same answer to all."""

    url: str = ""
    status: int = 200
    body: bytes = _PUT_ANSWER
    content_type: str = "application/x-amz-json-1.1"
    is_silent: bool = False  # never answers
    hangs_up: bool = False  # closes instead of answering
    requests: list[bytes] = field(default_factory=list)
    let_go: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError), contextlib.closing(writer):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
                )
                self.requests.append(head + await reader.readexactly(length))
                if self.hangs_up:
                    return
                if self.is_silent:
                    await self.let_go.wait()
                    return
                writer.write(
                    b"HTTP/1.1 %d X\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b"
                    % (self.status, self.content_type.encode(), len(self.body), self.body)
                )


@pytest.fixture
async def endpoint(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Endpoint]:
    """Start a loopback server and point the AWS settings, with a session token, to it."""
    served = Endpoint()
    server = await asyncio.start_server(served.serve, "127.0.0.1", 0)
    served.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    settings = {
        "AWS_ENDPOINT_URL_KINESIS": served.url,
        "AWS_REGION": "eu-central-1",
        "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_SESSION_TOKEN": "token/with+odd=characters",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    yield served
    served.let_go.set()
    server.close()


@contextlib.asynccontextmanager
async def both_ways(aws: Aws, endpoint: Endpoint | None = None) -> AsyncIterator[tuple[KinesisAdapter, KinesisAdapter]]:
    """Yield an adapter that keeps to the ordinary way, and one whose direct way is open."""
    ordinary, direct = KinesisAdapter((await aws.kinesis())._client), await aws.kinesis()
    for call in (ordinary._direct_put, ordinary._direct_get):
        call._model = None
    if endpoint is not None:
        await direct.put_records("s", [PutEntry(b"", "k")])
        endpoint.body = _GET_ANSWER
        await direct.get_records("s", "A", 1)
        endpoint.requests.clear()
        assert direct._direct_put.is_ready
        assert direct._direct_get.is_ready
    yield ordinary, direct


def _put(adapter: KinesisAdapter) -> Any:
    return adapter.put_records("s", _ENTRIES)


def _get(adapter: KinesisAdapter) -> Any:
    return adapter.get_records("s", 'AAA/+="x', 10_000)


_CALLS = pytest.mark.parametrize(("call", "answer"), [(_put, _PUT_ANSWER), (_get, _GET_ANSWER)], ids=["put", "get"])


@_CALLS
async def test_both_ways_send_the_same_bytes(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, call: Callable[[KinesisAdapter], Any], answer: bytes
) -> None:
    """In the same instant, head (with signature and session token) and body agree byte for byte; so does the result."""
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda *_, **__: _INSTANT.replace(tzinfo=None))
    async with open_aws() as aws, both_ways(aws, endpoint) as (ordinary, direct):
        monkeypatch.setattr(uuid, "uuid4", lambda: uuid.UUID(int=7))
        endpoint.body = answer
        results = [await call(ordinary), await call(direct)]
    # Which of botocore's features a call used (`m/` in the user agent) differs between any two calls; it isn't signed.
    sent = [re.sub(rb" m/[A-Za-z0-9,]+", b"", each) for each in endpoint.requests]
    assert sent[0] == sent[1]
    assert b"token/with+odd=characters" in endpoint.requests[0]
    assert b"20260102/eu-central-1/kinesis/aws4_request" in endpoint.requests[0]
    assert b"amz-sdk-request" in endpoint.requests[0].lower()
    assert results[0] == results[1]


@_CALLS
@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (400, b'{"__type":"ProvisionedThroughputExceededException","message":"slow"}', "ThrottledError"),
        (400, b'{"__type":"com.amazonaws.kinesis#LimitExceededException","message":"x"}', "ThrottledError"),
        (400, b'{"__type":"ResourceNotFoundException","message":"no stream"}', "StreamNotFoundError"),
        (400, b'{"__type":"ExpiredTokenException","message":"expired"}', "AccessDeniedError"),
        (400, b'{"__type":"ExpiredIteratorException","message":"expired"}', "IteratorExpiredError"),
        (400, b'{"__type":"ValidationException","Message":"bad"}', "InvalidRequestError"),
        (403, b'{"__type":"AccessDeniedException","Message":"no"}', "AccessDeniedError"),
        (500, b'{"__type":"InternalFailure"}', "AmbiguousCallError"),
        (500, b"<html>oops</html>", "AmbiguousCallError"),
        (503, b"", "AmbiguousCallError"),
        (200, b"<html>a captive portal</html>", "AmbiguousCallError"),
    ],
)
async def test_refusals_are_the_same_errors_on_both_ways(
    endpoint: Endpoint, call: Callable[[KinesisAdapter], Any], answer: bytes, status: int, body: bytes, expected: str
) -> None:
    """A refusal has the same class, code, message and hint, whichever way the request went."""
    async with open_aws() as aws, both_ways(aws, endpoint) as (ordinary, direct):
        endpoint.status, endpoint.body = status, body
        raised = []
        for adapter in (ordinary, direct):
            with pytest.raises(HeadraceError) as caught:
                await call(adapter)
            raised.append(caught.value)
    assert expected == type(raised[1]).__name__
    assert type(raised[0]) is type(raised[1])
    assert (str(raised[0]), raised[0].hint) == (str(raised[1]), raised[1].hint)
    assert len(endpoint.requests) == 2  # neither way retries


@_CALLS
@pytest.mark.parametrize("misfortune", ["hangs_up", "is_silent"])
async def test_calls_without_an_answer_are_ambiguous_on_both_ways(
    endpoint: Endpoint, call: Callable[[KinesisAdapter], Any], answer: bytes, misfortune: str
) -> None:
    """A lost connection and a timeout leave open whether the call landed."""
    async with open_aws(call_timeout_seconds=0.2) as aws, both_ways(aws, endpoint) as (ordinary, direct):
        setattr(endpoint, misfortune, True)
        raised = []
        for adapter in (ordinary, direct):
            with pytest.raises(HeadraceError) as caught:
                await call(adapter)
            raised.append((type(caught.value).__name__, str(caught.value)))
    assert raised[0] == raised[1]
    assert raised[1][0] == "AmbiguousCallError"


async def test_credentials_are_looked_up_for_each_call(endpoint: Endpoint) -> None:
    """A session token that changes while the process runs is in the next request of the direct way."""
    async with open_aws() as aws, both_ways(aws, endpoint) as (_, direct):
        direct._client._request_signer._credentials.token = "renewed-token"
        await _get(direct)
    assert b"renewed-token" in endpoint.requests[0]


async def test_calls_side_by_side_keep_their_own_bodies(endpoint: Endpoint) -> None:
    """The first calls may be many at once: each sends its own entries, and later ones take the direct way."""
    endpoint.body = b'{"FailedRecordCount":0,"Records":[{"SequenceNumber":"1","ShardId":"s"}]}'
    async with open_aws() as aws:
        adapter = await aws.kinesis()
        for _ in range(2):
            calls = (adapter.put_records("s", [PutEntry(b"", f"key-{number}")]) for number in range(8))
            assert [[PutResult("s", 1)]] * 8 == await asyncio.gather(*calls)
    for number in range(8):
        assert sum(b'"key-%d"' % number in request for request in endpoint.requests) == 2
    assert adapter._direct_put.is_ready
    ids = [line for request in endpoint.requests for line in request.split(b"\r\n") if b"invocation-id" in line]
    assert len(set(ids)) == 16


async def test_a_client_that_is_made_otherwise_takes_the_ordinary_way(endpoint: Endpoint) -> None:
    """If the private parts are not as expected, or another body is sent, every call works the ordinary way."""
    async with open_aws() as aws:
        client = (await aws.kinesis())._client

        def rewrite(params: dict[str, Any], **_: Any) -> None:
            params["body"] += b" "

        client.meta.events.register("before-call.kinesis.PutRecords", rewrite)
        adapter = KinesisAdapter(client)
        results = [await _put(adapter), await _put(adapter)]
        assert not adapter._direct_put.is_possible
        assert not adapter._direct_put.is_ready
        session, client._endpoint.http_session = client._endpoint.http_session, None
        stranger = KinesisAdapter(client)
        client._endpoint.http_session = session
        assert not stranger._direct_get.is_possible
        endpoint.body = _GET_ANSWER
        assert (await _get(stranger)).next_iterator == "AAAB"
    assert results[0] == results[1]
    assert all(request.endswith(b"]} ") for request in endpoint.requests[:2])


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (400, cbor2.dumps({"__type": "ProvisionedThroughputExceededException", "message": "slow"}), "ThrottledError"),
        (400, cbor2.dumps({"__type": "ResourceNotFoundException", "message": "x"}), "StreamNotFoundError"),
        (400, b'{"__type":"ValidationException","message":"in JSON"}', "InvalidRequestError"),
        (503, b"<html>oops</html>", "AmbiguousCallError"),
        (200, b"<html>a captive portal</html>", "AmbiguousCallError"),
    ],
)
async def test_refusals_in_cbor_are_the_same_errors(
    endpoint: Endpoint, status: int, body: bytes, expected: str
) -> None:
    """A refusal of a request in CBOR is in CBOR, or in what stands in between writes; its class is the same."""
    async with open_aws() as aws:
        adapter = await aws.kinesis(Wire.CBOR)
        await adapter.put_records("s", _ENTRIES)
        endpoint.status, endpoint.body, endpoint.content_type = status, body, CBOR_TYPE
        with pytest.raises(HeadraceError) as caught:
            await adapter.put_records("s", _ENTRIES)
    assert type(caught.value).__name__ == expected
    head, _, sent = endpoint.requests[-1].partition(b"\r\n\r\n")
    assert b"content-type: application/x-amz-cbor-1.1" in head.lower()
    assert cbor2.loads(sent)["StreamName"] == "s"


_CBOR_PAGE = cbor2.dumps(
    {
        "Records": [
            {
                "SequenceNumber": "49",
                "ApproximateArrivalTimestamp": cbor2.CBORTag(1, 1_700_000_000_000),
                "Data": b"{}",
                "PartitionKey": "k\u00e4",
            },
            {
                "SequenceNumber": "50",
                "ApproximateArrivalTimestamp": cbor2.CBORTag(1, 1_700_000_000_123),
                "Data": b"\xff\xef",
                "PartitionKey": "k",
            },
        ],
        "NextShardIterator": "AAAB",
        "MillisBehindLatest": 5,
        "ChildShards": [
            {
                "ShardId": "shardId-000000000002",
                "ParentShards": ["shardId-000000000000"],
                "HashKeyRange": {"StartingHashKey": "0", "EndingHashKey": "9"},
            }
        ],
    }
)


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (400, cbor2.dumps({"__type": "ProvisionedThroughputExceededException", "message": "slow"}), "ThrottledError"),
        (400, cbor2.dumps({"__type": "ExpiredIteratorException", "message": "expired"}), "IteratorExpiredError"),
        (400, cbor2.dumps({"__type": "com.amazonaws.kinesis#LimitExceededException"}), "ThrottledError"),
        (400, b'{"__type":"AccessDeniedException","message":"in JSON"}', "AccessDeniedError"),
        (503, b"", "AmbiguousCallError"),
        (200, _GET_ANSWER, "AmbiguousCallError"),
        (200, _CBOR_PAGE[:-1], "AmbiguousCallError"),
    ],
)
async def test_a_page_read_in_cbor_is_that_read_in_json(
    endpoint: Endpoint, status: int, body: bytes, expected: str
) -> None:
    """The first page goes in JSON, those after it in CBOR; a refusal, and what is no page, are the errors they were."""
    endpoint.body = _GET_ANSWER
    async with open_aws() as aws:
        adapter = await aws.kinesis(reads=Wire.CBOR)
        in_json = await _get(adapter)
        endpoint.body, endpoint.content_type = _CBOR_PAGE, CBOR_TYPE
        assert await _get(adapter) == in_json
        endpoint.status, endpoint.body = status, body
        with pytest.raises(HeadraceError) as caught:
            await _get(adapter)
    assert type(caught.value).__name__ == expected
    head, _, sent = endpoint.requests[-1].partition(b"\r\n\r\n")
    assert b"content-type: application/x-amz-cbor-1.1" in head.lower()
    assert cbor2.loads(sent) == {"ShardIterator": 'AAA/+="x', "Limit": 10_000}


async def test_records_put_in_cbor_are_those_put_in_json(aws: Aws, unique: str) -> None:
    """On the local cloud the first call goes in JSON, those after it in CBOR, and all records read the same in both."""
    adapter = await aws.kinesis(Wire.CBOR)
    client = adapter._client
    await client.create_stream(StreamName=unique, ShardCount=1)
    await client.get_waiter("stream_exists").wait(StreamName=unique, WaiterConfig={"Delay": 1, "MaxAttempts": 9})
    for _ in range(3):
        assert [each.error_code for each in await adapter.put_records(unique, _ENTRIES)] == [""] * 3
    reader = await aws.kinesis(reads=Wire.CBOR)
    iterator = await reader.get_shard_iterator(unique, "shardId-000000000000", TRIM_HORIZON)
    pages = [await reader.get_records(unique, iterator, 100) for _ in range(2)]  # in JSON, then in CBOR
    assert reader._direct_get.is_ready
    assert [(entry.data, entry.partition_key) for entry in _ENTRIES * 3] == [
        (record.data, record.partition_key) for record in pages[1].records
    ]
    assert pages[0].records == pages[1].records
    with pytest.raises(HeadraceError, match="does not exist"):
        await adapter.put_records(f"{unique}-absent", _ENTRIES)


async def test_both_ways_agree_on_the_local_cloud(aws: Aws, unique: str) -> None:
    """Records put on either way come back on either way, record for record; so do refusals of a stream's absence."""
    async with both_ways(aws) as (ordinary, direct):
        client = direct._client
        await client.create_stream(StreamName=unique, ShardCount=1)
        await client.get_waiter("stream_exists").wait(StreamName=unique, WaiterConfig={"Delay": 1, "MaxAttempts": 9})
        for _ in range(2):
            for adapter in (ordinary, direct):
                results = await adapter.put_records(unique, _ENTRIES)
                assert [result.error_code for result in results] == [""] * 3
        iterator = await direct.get_shard_iterator(unique, "shardId-000000000000", TRIM_HORIZON)
        first = await direct.get_records(unique, iterator, 100)
        pages = [
            first,
            await ordinary.get_records(unique, iterator, 100),
            await direct.get_records(unique, iterator, 100),
        ]
        assert direct._direct_put.is_ready
        assert direct._direct_get.is_ready
        assert [(entry.data, entry.partition_key) for entry in _ENTRIES * 4] == [
            (record.data, record.partition_key) for record in first.records
        ]
        assert pages[0].records == pages[1].records == pages[2].records
        assert (await direct.list_shards(unique))[0].hash_key_range == FULL_RANGE
        for adapter in (ordinary, direct):
            with pytest.raises(HeadraceError, match="does not exist"):
                await adapter.put_records(f"{unique}-absent", _ENTRIES)
