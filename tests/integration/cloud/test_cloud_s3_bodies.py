"""Bodies that a client sends in its own way: held back until told to go on, or encoded."""

from __future__ import annotations

import gzip
from typing import Any

import pytest
from aiobotocore.session import get_session

from infra.cloud.server import LocalCloud


@pytest.mark.parametrize("encoding", ["", "gzip"])
async def test_objects_put_by_aiobotocore_come_back_as_they_were(encoding: str) -> None:
    """A PutObject with `Expect: 100-continue` is answered at once, and an encoded body is kept encoded."""
    body = gzip.compress(b"line\n" * 1000)
    options: dict[str, Any] = {"ContentEncoding": encoding} if encoding else {}
    async with LocalCloud() as cloud, _client(cloud) as client:
        await client.create_bucket(Bucket="shelf")
        await client.put_object(Bucket="shelf", Key="k", Body=body, IfNoneMatch="*", **options)
        answer = await client.get_object(Bucket="shelf", Key="k")
        async with answer["Body"] as stream:
            stored = await stream.read()
    assert stored == body
    assert answer.get("ContentEncoding", "") == encoding


def _client(cloud: LocalCloud) -> Any:
    return get_session().create_client(
        "s3",
        endpoint_url=cloud.endpoint_url,
        region_name="us-east-1",
        aws_access_key_id="local",
        aws_secret_access_key="local",
    )
