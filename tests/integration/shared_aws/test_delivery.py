"""Firehose delivery streams as the lab makes them, through real requests to the local cloud."""

from __future__ import annotations

from typing import Any

import boto3
import pytest

from infra.delivery import delivery_names, role_statements
from infra.provision import Plan, deprovision, provision
from shared.aws.delivery import DeliveryAdapter
from shared.errors import ConfigurationError, InvalidRequestError, ServiceError, ThrottledError

QUICK = {"report": lambda _text: None, "poll_seconds": 0.05}


def _plan(unique: str) -> Plan:
    dests = {"USA": f"{unique}-usa", "International": f"{unique}-world"}
    return Plan(
        source_stream=f"{unique}-in", dest_streams=dests, bucket=f"{unique}-b", app=unique, shards=1, has_delivery=True
    )


async def test_each_destination_gets_the_delivery_stream_of_the_lab(point_to_cloud: None, unique: str) -> None:
    """Source = the destination's stream; prefixes, buffer and logging are the lab's; a second run changes nothing."""
    made = await provision(_plan(unique), **QUICK)  # type: ignore[arg-type] # options of both functions
    name, bucket = f"{unique}-usa-delivery-stream", f"{unique}-b-usa"
    assert made.delivery_buckets == {
        name: bucket,
        f"{unique}-international-delivery-stream": f"{unique}-b-international",
    }
    firehose = boto3.client("firehose")
    described = firehose.describe_delivery_stream(DeliveryStreamName=name)["DeliveryStreamDescription"]
    assert described["DeliveryStreamType"] == "KinesisStreamAsSource"
    source = described["Source"]["KinesisStreamSourceDescription"]
    assert source["KinesisStreamARN"].endswith(f":stream/{unique}-usa")
    destination = described["Destinations"][0]["ExtendedS3DestinationDescription"]
    assert destination["BucketARN"] == f"arn:aws:s3:::{bucket}"
    assert (destination["Prefix"], destination["ErrorOutputPrefix"]) == ("firehose/", "errors/")
    assert destination["BufferingHints"] == {"SizeInMBs": 1, "IntervalInSeconds": 60}
    assert destination["CompressionFormat"] == "UNCOMPRESSED"
    assert destination["CloudWatchLoggingOptions"] == {
        "Enabled": True,
        "LogGroupName": f"/aws/kinesisfirehose/{name}",
        "LogStreamName": "DestinationDelivery",
    }
    groups = boto3.client("logs").describe_log_groups(logGroupNamePrefix=f"/aws/kinesisfirehose/{name}")["logGroups"]
    assert len(groups) == 1
    assert await provision(_plan(unique), **QUICK) == made  # type: ignore[arg-type] # as above
    done = await deprovision(_plan(unique), **QUICK)  # type: ignore[arg-type] # as above
    assert done.kept == ()
    assert {name, bucket, f"{unique}-firehose"} <= set(done.gone)
    assert firehose.list_delivery_streams()["DeliveryStreamNames"] == []
    assert boto3.client("logs").describe_log_groups(logGroupNamePrefix="/aws/kinesisfirehose/")["logGroups"] == []


async def test_delivery_of_somebody_else_is_left_alone(point_to_cloud: None, unique: str) -> None:
    """A role, and a delivery stream, without our tag are neither changed nor removed."""
    name = f"{unique}-usa-delivery-stream"
    boto3.client("iam").create_role(RoleName=f"{unique}-firehose", AssumeRolePolicyDocument="{}")
    boto3.client("firehose").create_delivery_stream(
        DeliveryStreamName=name,
        S3DestinationConfiguration={"RoleARN": "arn:aws:iam::1:role/r", "BucketARN": "arn:aws:s3:::b"},
    )
    await provision(_plan(unique), **QUICK)  # type: ignore[arg-type] # as above
    assert boto3.client("iam").list_role_policies(RoleName=f"{unique}-firehose")["PolicyNames"] == []
    done = await deprovision(_plan(unique), **QUICK)  # type: ignore[arg-type] # as above
    assert set(done.kept) == {name, f"{unique}-firehose"}
    boto3.client("iam").delete_role(RoleName=f"{unique}-firehose")
    boto3.client("firehose").delete_delivery_stream(DeliveryStreamName=name)


def test_the_role_names_its_resources() -> None:
    """It reads the given streams and writes below the two prefixes, and nothing is a star alone."""
    statements = role_statements(["arn:aws-cn:kinesis:cn-north-1:1:stream/usa"], ["b-usa"])
    resources = [each["Resource"] for each in statements]
    assert resources == [
        ["arn:aws-cn:kinesis:cn-north-1:1:stream/usa"],
        ["arn:aws-cn:s3:::b-usa"],
        ["arn:aws-cn:s3:::b-usa/firehose/*", "arn:aws-cn:s3:::b-usa/errors/*"],
        "arn:aws-cn:logs:cn-north-1:1:log-group:/aws/kinesisfirehose/*",
    ]


def test_names_that_are_too_long_are_refused_before_anything_is_made() -> None:
    """A bucket's name has at most 63 characters."""
    with pytest.raises(ConfigurationError, match="63 are allowed"):
        delivery_names("app", "b" * 60, "International")


async def test_two_destinations_never_share_a_delivery_stream(point_to_cloud: None, unique: str) -> None:
    """`A B` and `a-b` would have one name."""
    plan = Plan(dest_streams={"A B": "one", "a-b": "two"}, bucket=f"{unique}-b", app=unique, has_delivery=True)
    with pytest.raises(ConfigurationError, match="share a delivery stream"):
        await provision(plan, **QUICK)  # type: ignore[arg-type] # as above


@pytest.mark.parametrize(
    ("message", "expected"),
    [("Firehose is unable to assume role arn:aws:iam::1:role/r.", ThrottledError), ("No.", InvalidRequestError)],
)
async def test_a_new_role_is_waited_for(message: str, expected: type[ServiceError]) -> None:
    """Only the refusal that time heals is one to wait for."""
    from botocore.exceptions import ClientError  # noqa: PLC0415 - only this test needs it

    class _Refusing:
        async def create_delivery_stream(self, **_request: Any) -> None:
            answer: Any = {"Error": {"Code": "InvalidArgumentException", "Message": message}}
            raise ClientError(answer, "CreateDeliveryStream")

    from shared.aws.delivery import DeliverySource  # noqa: PLC0415 - only this test needs it

    adapter = DeliveryAdapter(firehose=_Refusing(), iam=None, logs=None)
    source = DeliverySource("s", "b", "r", "l", "p/", "e/", 1, 60)
    with pytest.raises(expected) as failed:
        await adapter.create_delivery_stream("d", source, tags={})
    assert type(failed.value) is expected
