"""A running consumer is looked at and steered by the commands, against the local cloud."""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from infra.audit.reading import object_place
from tests.acceptance.conftest import PATIENCE_SECONDS, Finished, Shell
from tests.acceptance.test_lab_session import names, provision

EVENTS = 200


def wait_until(look: Callable[[], bool]) -> None:
    """Look again and again, for a bounded time."""
    for _ in range(PATIENCE_SECONDS * 2):
        if look():
            return
        threading.Event().wait(0.5)
    pytest.fail("it did not come to be")


class Steered:
    """An application, its consumer and the commands that steer it."""

    def __init__(self, shell: Shell, name: str) -> None:
        self.shell = shell
        self.named = names(name)
        provision(shell, self.named)
        self.s3 = shell.client("s3")
        self.consumer = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        """Start a consumer."""
        return self.shell.start(
            "headrace", "consume", "--source_stream", self.named["source"],
            "--dest_streams", json.dumps(self.named["dests"]), "--bucket", self.named["bucket"],
            "--app", self.named["app"], "--http_port", "-1", "--flush_seconds", "0.3",
            HEADRACE_LEASE_DURATION_SECONDS="1",
        )  # fmt: skip

    def stop(self) -> None:
        """Let the consumer end in order."""
        self.consumer.send_signal(signal.SIGTERM)
        assert self.consumer.wait(timeout=PATIENCE_SECONDS) == 0

    def run(self, *arguments: str) -> Finished:
        """Run a sub-command of headrace for this application."""
        return self.shell.run("headrace", *arguments, "--app", self.named["app"])

    def json(self, *arguments: str) -> Any:
        """Run a sub-command that has to succeed, and return its JSON object."""
        done = self.run(*arguments, "--output", "json")
        assert done.code == 0, done.err
        return json.loads(done.out.splitlines()[-1])

    def put(self, lines: str) -> None:
        """Put events."""
        done = self.shell.run("producer_from_cli", "--stream", self.named["source"], stdin=lines.encode())
        assert done.code == 0, done.err

    def keys(self, prefix: str) -> list[str]:
        """Return the keys of the bucket below a prefix."""
        listed = self.s3.list_objects_v2(Bucket=self.named["bucket"], Prefix=prefix)
        return [each["Key"] for each in listed.get("Contents", [])]

    def stored(self) -> dict[int, Counter[int]]:
        """Return how often each number is in S3, per generation."""
        found: dict[int, Counter[int]] = {}
        for key in self.keys("archive/"):
            body = self.s3.get_object(Bucket=self.named["bucket"], Key=key)["Body"].read()
            numbers = found.setdefault(object_place(key, {}).generation, Counter())
            numbers.update(json.loads(line)["n"] for line in gzip.decompress(body).splitlines())
        return found


def events(first: int, end: int) -> str:
    """Return numbered events, a line each."""
    return "".join(json.dumps({"session_id": f"s{n % 7}", "n": n, "country": "USA"}) + "\n" for n in range(first, end))


@pytest.mark.slow
def test_a_running_group_is_paused_resumed_sent_back_and_redriven(shell: Shell) -> None:
    """Paused, nothing is read; sent back, every event comes once more in its own generation; letters come back once."""
    group = Steered(shell, "control")
    group.put(events(0, EVENTS))
    wait_until(lambda: group.stored() == {0: Counter(range(EVENTS))})

    assert group.json("pause")["paused"] >= 1
    threading.Event().wait(1.5)  # more than the owner's round: from then on it reads nothing
    group.put(events(EVENTS, EVENTS + 50))
    threading.Event().wait(1.5)
    assert sum(group.stored()[0].values()) == EVENTS
    status = group.json("status")
    assert {shard["state"] for shard in status["shards"]} == {"paused"}
    assert max(shard["iterator_age_seconds"] for shard in status["shards"]) > 0.5
    assert [worker["shards"] for worker in status["workers"] if worker["shards"]] == [len(status["shards"])]
    group.json("resume")
    wait_until(lambda: group.stored() == {0: Counter(range(EVENTS + 50))})

    plan = group.json("seek", "--to", "TRIM_HORIZON", "--dry-run")
    assert (plan["applied"], len(plan["shards"])) == (False, len(status["shards"]))
    refused = group.run("seek", "--to", "TRIM_HORIZON")
    assert (refused.code, "--yes" in refused.err) == (2, True)
    assert group.json("seek", "--to", "TRIM_HORIZON", "--yes")["applied"]
    everything = Counter(range(EVENTS + 50))
    wait_until(lambda: group.stored() == {0: everything, 1: everything})

    group.put(json.dumps({"session_id": "bad", "country": "USA", "browse_history": 7}) + "\n")
    wait_until(lambda: len(group.keys("errors/")) == 1)
    (key,) = group.json("deadletters", "list", "--keys")["keys"]
    shown = group.json("deadletters", "show", key)
    assert (shown["errorCode"], shown["data"]["browse_history"]) == ("malformed-event", 7)
    assert group.json("deadletters", "redrive", "--key", key, "--yes")["records"] == 1
    assert group.json("deadletters", "redrive", "--key", key, "--yes")["objects_done_before"] == 1
    wait_until(lambda: len(group.keys("errors/processing-failed/")) == 2)
    assert group.json("deadletters", "list")["letters"] == 2

    report = group.json("audit")
    assert (report["verdict"], report["lost"], report["duplicated_in_s3"]) == ("ok", 0, 0)
    hot = json.loads(shell.run("headrace", "status", "--stream", group.named["source"], "--output", "json").out)
    assert sum(shard["records"] for shard in hot["shards"]) == EVENTS + 52
    group.stop()
    _check_kcl(group)


@pytest.mark.slow
def test_a_stream_that_was_made_anew_is_read_after_the_application_was_forgotten(shell: Shell) -> None:
    """By the same name, from its beginning; not while a worker is alive."""
    group = Steered(shell, "anew")
    group.put(events(0, EVENTS))
    wait_until(lambda: group.stored() == {0: Counter(range(EVENTS))})
    unasked = group.run("forget")
    assert (unasked.code, "--yes" in unasked.err, "--dry-run" in unasked.err) == (2, True, False)
    refused = group.run("forget", "--yes")
    assert (refused.code, "is alive" in refused.err) == (2, True), refused.err
    group.stop()

    kinesis = shell.client("kinesis")
    kinesis.delete_stream(StreamName=group.named["source"], EnforceConsumerDeletion=True)
    kinesis.get_waiter("stream_not_exists").wait(StreamName=group.named["source"])
    provision(shell, group.named)
    group.put(events(EVENTS, EVENTS + 50))
    forgotten = group.json("forget", "--yes")
    assert (forgotten["source_stream"], forgotten["forgotten"]) == (group.named["source"], True)
    assert forgotten["shards"] >= 1
    group.consumer = group.start()
    wait_until(lambda: group.stored() == {0: Counter(range(EVENTS + 50))})
    group.stop()


def _check_kcl(group: Steered) -> None:
    """The checkpoints of the stopped group go into a KCL table and from there into another application."""
    dynamodb = group.shell.client("dynamodb")
    for table in ("kcl", "again"):
        dynamodb.create_table(
            TableName=f"{group.named['app']}-{table}",
            AttributeDefinitions=[{"AttributeName": "leaseKey", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "leaseKey", "KeyType": "HASH"}],
            BillingMode="PAY_PER_REQUEST",
        )
    kcl = f"{group.named['app']}-kcl"
    exported = group.json("kcl", "export", "--table", kcl)
    assert exported["written"] == len(exported["shards"]) >= 1
    again = group.shell.run(
        "headrace", "kcl", "import", "--table", kcl, "--app", f"{group.named['app']}-again", "--output", "json"
    )
    assert again.code == 0, again.err
    assert json.loads(again.out.splitlines()[-1]) == exported
