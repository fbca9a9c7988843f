"""The CloudFormation template: it builds, it is closed to the outside, and its roles allow just what the code calls.

moto drops most security properties of a template without a word, so those are asserted on the template itself.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import orjson
import pytest
import yaml
from moto import mock_aws

from consumer.core.enrichment import Enricher
from consumer.core.object_key import ObjectNames, ObjectRange
from shared.records import Position
from shared.settings import ConsumerSettings

ROOT = Path(__file__).parents[3]
TEMPLATE = ROOT / "infra" / "template.yaml"

# Method of an adapter -> the IAM action that its call needs.
ACTIONS = {
    "put_record": "kinesis:PutRecord",
    "put_records": "kinesis:PutRecords",
    "describe_stream": "kinesis:DescribeStreamSummary",
    "list_shards": "kinesis:ListShards",
    "get_shard_iterator": "kinesis:GetShardIterator",
    "get_records": "kinesis:GetRecords",
    "describe_consumer": "kinesis:DescribeStreamConsumer",
    "register_consumer": "kinesis:RegisterStreamConsumer",
    "subscribe_to_shard": "kinesis:SubscribeToShard",
    "list_leases": "dynamodb:Scan",
    "list_rows": "dynamodb:Scan",
    "read_lease": "dynamodb:GetItem",
    "replace_damaged": "dynamodb:PutItem",
    "write_presence": "dynamodb:PutItem",
    "delete_presence": "dynamodb:DeleteItem",
    "create_lease": "dynamodb:PutItem",
    "update_lease": "dynamodb:UpdateItem",
    "delete_lease": "dynamodb:DeleteItem",
    "read_application": "dynamodb:GetItem",
    "write_application": "dynamodb:PutItem",
    "delete_application": "dynamodb:DeleteItem",
    "hold_schema": "dynamodb:PutItem",
    "put_object": "s3:PutObject",
    "check_write": "s3:PutObject",
    "abort_uploads": "s3:AbortMultipartUpload",
    "get_object": "s3:GetObject",
    "list_objects": "s3:ListBucket",
}
# The client's methods, where they are others than the action's name in snake case.
CLIENT_CALLS = {
    "s3:ListBucket": {"list_objects_v2"},
    "s3:PutObject": {"put_object", "create_multipart_upload", "upload_part", "complete_multipart_upload"},
    "s3:AbortMultipartUpload": {"abort_multipart_upload", "list_multipart_uploads"},
}


class _Loader(yaml.SafeLoader):
    """Reads the short forms of CloudFormation's functions as {"Ref": ...}, {"Fn::Sub": ...}."""


def _function(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    name = suffix if suffix in {"Ref", "Condition"} else f"Fn::{suffix}"
    if isinstance(node, yaml.ScalarNode):
        return {name: loader.construct_scalar(node)}
    if isinstance(node, yaml.SequenceNode):
        return {name: loader.construct_sequence(node, deep=True)}
    assert isinstance(node, yaml.MappingNode)
    return {name: loader.construct_mapping(node, deep=True)}


_Loader.add_multi_constructor("!", _function)


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    """Return the parsed template."""
    loaded: dict[str, Any] = yaml.load(TEMPLATE.read_text(), Loader=_Loader)  # noqa: S506 - a SafeLoader with tags
    return loaded


def _properties(template: dict[str, Any], resource: str) -> dict[str, Any]:
    found: dict[str, Any] = template["Resources"][resource]["Properties"]
    return found


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _statements(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["Sid"]: each for each in document["Statement"]}


def _grants(template: dict[str, Any], resource: str) -> dict[str, set[str]]:
    properties = _properties(template, resource)
    documents = [each["PolicyDocument"] for each in properties.get("Policies", [properties])]
    return {sid: set(_as_list(each["Action"])) for document in documents for sid, each in _statements(document).items()}


def _called(*places: str) -> set[str]:
    """Return the IAM actions of the port methods that the Python files below `places` call or hand on."""
    found: set[str] = set()
    for place in places:
        path = ROOT / place
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            found |= {
                ACTIONS[node.attr]
                for node in ast.walk(ast.parse(file.read_text()))
                if isinstance(node, ast.Attribute) and node.attr in ACTIONS
            }
    return found


def _of(actions: set[str], *services: str) -> set[str]:
    return {each for each in actions if each.partition(":")[0] in services}


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give the test an AWS of its own, in this process."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": "eu-central-1",
        "AWS_DEFAULT_REGION": "eu-central-1",
    }.items():
        monkeypatch.setenv(name, value)
    with mock_aws():
        yield


def _create(**parameters: str) -> dict[str, str]:
    """Create the stack; return its outputs."""
    formation = boto3.client("cloudformation")
    formation.create_stack(
        StackName="headrace",
        TemplateBody=TEMPLATE.read_text(),
        Capabilities=["CAPABILITY_IAM"],
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
    )
    stack = formation.describe_stacks(StackName="headrace")["Stacks"][0]
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    return {each["OutputKey"]: each["OutputValue"] for each in stack["Outputs"]}


# moto leaves the bucket's policy out and says so; the policy is asserted on the template instead.
incomplete = pytest.mark.filterwarnings("ignore:Tried to parse AWS.*not supported by moto:UserWarning")


@incomplete
def test_template_creates_what_the_pipeline_needs(aws: None) -> None:
    """The stack has three streams, the lease table with its key, the bucket and both roles."""
    outputs = _create()
    kinesis = boto3.client("kinesis")
    for name in ("headrace-data-stream", "headrace-usa-data-stream", "headrace-international-data-stream"):
        summary = kinesis.describe_stream_summary(StreamName=name)["StreamDescriptionSummary"]
        assert (summary["StreamStatus"], summary["OpenShardCount"]) == ("ACTIVE", 2)
    table = boto3.client("dynamodb").describe_table(TableName="headrace")["Table"]
    assert table["KeySchema"] == [{"AttributeName": "leaseKey", "KeyType": "HASH"}]
    assert table["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
    boto3.client("s3").head_bucket(Bucket="headrace-archive-123456789012")
    roles = {each["Arn"] for each in boto3.client("iam").list_roles()["Roles"]}
    assert {outputs["ProducerRoleArn"], outputs["ConsumerRoleArn"]} == roles
    assert outputs["BucketName"] == "headrace-archive-123456789012"
    assert outputs["DestStreams"] == (
        '{"USA": "headrace-usa-data-stream", "International": "headrace-international-data-stream"}'
    )


@incomplete
def test_template_follows_its_parameters(aws: None) -> None:
    """Names and shard count are taken from the parameters."""
    outputs = _create(AppName="shop", SourceStreamName="shop-events", BucketName="shop-archive", ShardCount="3")
    assert (outputs["AppName"], outputs["SourceStreamName"], outputs["BucketName"]) == (
        "shop",
        "shop-events",
        "shop-archive",
    )
    summary = boto3.client("kinesis").describe_stream_summary(StreamName="shop-events")["StreamDescriptionSummary"]
    assert summary["OpenShardCount"] == 3


def test_template_names_equal_those_of_the_command(template: dict[str, Any]) -> None:
    """The template and `headrace provision` make resources of the same names."""
    from infra import provision  # noqa: PLC0415 - only this test needs it

    defaults = {name: each["Default"] for name, each in template["Parameters"].items()}
    assert defaults["AppName"] == provision.APP
    assert defaults["SourceStreamName"] == provision.SOURCE_STREAM
    assert {
        "USA": defaults["UsaStreamName"],
        "International": defaults["InternationalStreamName"],
    } == provision.DEST_STREAMS
    assert defaults["ShardCount"] == provision.SHARDS


def test_nothing_is_stored_in_the_clear(template: dict[str, Any]) -> None:
    """Streams, table and bucket are encrypted, and deleting the stack keeps them."""
    for name in ("SourceStream", "UsaStream", "InternationalStream"):
        assert _properties(template, name)["StreamEncryption"]["EncryptionType"] == "KMS"
    assert _properties(template, "LeaseTable")["SSESpecification"] == {"SSEEnabled": True}
    rules = _properties(template, "ArchiveBucket")["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert rules == [{"BucketKeyEnabled": True, "ServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms"}}]
    kept = {name for name, each in template["Resources"].items() if each.get("DeletionPolicy") == "Retain"}
    assert kept == {"SourceStream", "UsaStream", "InternationalStream", "LeaseTable", "ArchiveBucket"}


def test_the_bucket_is_private_and_written_once(template: dict[str, Any]) -> None:
    """No public access, no plain HTTP, and no unconditional write below the archive prefix except upload parts."""
    bucket = _properties(template, "ArchiveBucket")
    assert bucket["PublicAccessBlockConfiguration"] == dict.fromkeys(
        ("BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets"), True
    )
    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
    (rule,) = bucket["LifecycleConfiguration"]["Rules"]
    assert rule["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 1}
    policy = _statements(_properties(template, "ArchiveBucketPolicy")["PolicyDocument"])
    assert {each["Effect"] for each in policy.values()} == {"Deny"}
    assert policy["DenyWithoutTls"]["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert policy["DenyOldTls"]["Condition"] == {"NumericLessThan": {"s3:TlsVersion": "1.2"}}
    once = policy["DenyUnconditionalPut"]
    assert once["Action"] == "s3:PutObject"
    assert once["Resource"] == [
        {"Fn::Sub": "${ArchiveBucket.Arn}/${ArchivePrefix}*"},
        {"Fn::Sub": "${ArchiveBucket.Arn}/${ErrorPrefix}*"},
        {"Fn::Sub": "${ArchiveBucket.Arn}/${ManifestPrefix}*"},
    ]
    assert once["Condition"] == {
        "Null": {"s3:if-none-match": "true"},
        "Bool": {"s3:ObjectCreationOperation": "true"},
    }


def test_roles_name_their_resources(template: dict[str, Any]) -> None:
    """No permission is given on everything, and only the container service of this account takes the roles."""
    for name in ("ProducerRole", "ConsumerRole"):
        properties = _properties(template, name)
        trust = properties["AssumeRolePolicyDocument"]["Statement"]
        assert [each["Principal"] for each in trust] == [{"Service": "ecs-tasks.amazonaws.com"}]
        assert [each["Condition"] for each in trust] == [
            {"StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}}
        ]
    documents = [
        *(
            each["PolicyDocument"]
            for role in ("ProducerRole", "ConsumerRole")
            for each in _properties(template, role)["Policies"]
        ),
        _properties(template, "AuditPolicy")["PolicyDocument"],
    ]
    for document in documents:
        for statement in document["Statement"]:
            assert all(isinstance(each, dict) for each in _as_list(statement["Resource"])), statement["Sid"]
            assert not any("*" in action for action in _as_list(statement["Action"])), statement["Sid"]


def test_the_table_of_actions_knows_every_call_of_the_adapters() -> None:
    """Each SDK method that an adapter calls has its action in this file's table, and the table has no other."""
    called: set[str] = set()
    for file in ("fan_out.py", "kinesis.py", "leases.py", "objects.py"):
        for node in ast.walk(ast.parse((ROOT / "shared" / "aws" / file).read_text())):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Attribute)
                and node.value.attr == "_client"
            ):
                called.add(node.attr)
    expected = [CLIENT_CALLS.get(action, {_snake(action.partition(":")[2])}) for action in ACTIONS.values()]
    assert set().union(*expected) == called


def _snake(name: str) -> str:
    return "".join(f"_{each.lower()}" if each.isupper() else each for each in name).lstrip("_")


def test_producer_role_is_what_the_producer_calls(template: dict[str, Any]) -> None:
    """The producer's role has exactly the Kinesis actions that the producer package calls."""
    assert _grants(template, "ProducerRole") == {"WriteSource": _called("producer")}


def test_consumer_role_is_what_the_consumer_calls(template: dict[str, Any]) -> None:
    """The consumer's role has exactly what consumer and stream sink call, each on its own resource."""
    called = _called("consumer")
    fan_out = {"kinesis:DescribeStreamConsumer", "kinesis:SubscribeToShard"}
    registering = {"kinesis:RegisterStreamConsumer"}
    assert _grants(template, "ConsumerRole") == {
        "ReadSource": _of(called, "kinesis") - fan_out - registering,
        "RegisterForFanOut": registering,
        "ReadByFanOut": fan_out,
        "WriteDestinations": _called("producer/producer.py", "producer/sender.py", "producer/stream_watch.py"),
        "KeepLeases": _of(called, "dynamodb"),
        # Tags need a permission of their own; a setting asks for them.
        "WriteObjects": (_of(called, "s3") | {"s3:PutObjectTagging"}) - {"s3:ListBucket"},
        "ListManifests": {"s3:ListBucket"},
        "FindUploads": {"s3:ListBucketMultipartUploads"},
    }


def test_audit_policy_is_what_the_audit_calls(template: dict[str, Any]) -> None:
    """The audit's policy has exactly what the audit calls."""
    called = _called("infra/audit")
    grants = _grants(template, "AuditPolicy")
    assert grants["ReadStreams"] == _of(called, "kinesis")
    assert grants["ReadLeases"] == _of(called, "dynamodb")
    assert grants["ListObjects"] | grants["ReadObjects"] == _of(called, "s3")


def test_athena_finds_the_archive_where_the_consumer_writes_it(template: dict[str, Any]) -> None:
    """The Glue table names every field of an enriched event, and computes the very prefixes of the default settings."""
    event = {
        "session_id": "a",
        "customer_number": 1,
        "city": "Ulm",
        "country": "USA",
        "credit_limit": 1,
        "browse_history": [],
    }
    columns = ([orjson.dumps(event)], [event], ["1"], [0])
    lines, _ = Enricher("s", "shardId-0").enrich_all(columns, b"2026-11-21T05:00:00+00:00")
    table = _properties(template, "EventsTable")["TableInput"]
    assert {each["Name"] for each in table["StorageDescriptor"]["Columns"]} == set(orjson.loads(lines.each()[0]))
    names = ObjectNames(
        archive_prefix=ConsumerSettings().archive_prefix,
        error_prefix=ConsumerSettings().error_prefix,
        destinations=("USA", "International"),
        extension=".json.gz",
    )
    arrival = datetime(2026, 11, 21, 5, tzinfo=UTC).timestamp()
    key = names.key("USA", ObjectRange("shardId-0", Position(1), Position(2)), arrival)
    location = table["Parameters"]["storage.location.template"]["Fn::Sub"]
    values = {
        "ArchiveBucket": "B",
        "ArchivePrefix": "archive/",
        "!destination": "USA",
        "!dt": "2026-11-21",
        "!hour": "05",
    }
    for name, value in values.items():
        location = location.replace(f"${{{name}}}", value)
    assert f"s3://B/{key}".startswith(location)
    assert location.endswith("/hour=05/")
