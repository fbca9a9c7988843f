"""What provisioning makes, leaves alone and removes, against a control plane in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from infra.provision import DEST_STREAMS, TAG, Plan, Provisioned, deprovision, provision
from shared.aws.control import StreamState, TableState
from shared.errors import AccessDeniedError, ConfigurationError, ServiceError, ThrottledError
from shared.settings import ConsumerSettings, load_settings


class _FakeControl:
    """Streams, tables and buckets in memory; what is made becomes ACTIVE after `lag` looks."""

    def __init__(self, lag: int = 1) -> None:
        self.lag = lag
        self.streams: dict[str, dict[str, Any]] = {}
        self.tables: dict[str, dict[str, Any]] = {}
        self.buckets: dict[str, dict[str, Any]] = {}
        self.calls: list[str] = []
        self.throttles = 0
        self.foreign_buckets: set[str] = set()
        self.consumers: dict[tuple[str, str], bool] = {}

    async def read_account(self) -> str:
        return "123456789012"

    def _look(self, shelf: dict[str, dict[str, Any]], name: str) -> dict[str, Any] | None:
        item = shelf.get(name)
        if item is None:
            return None
        seen = dict(item)
        if item["wait"] > 0:
            item["wait"] -= 1
        elif item["status"] == "CREATING":
            item["status"] = seen["status"] = "ACTIVE"
        elif item["status"] == "DELETING":
            del shelf[name]
            return None
        return seen

    def _throttle(self, call: str) -> None:
        self.calls.append(call)
        if self.throttles:
            self.throttles -= 1
            message = "too many at once"
            raise ThrottledError(message, code="LimitExceededException")

    async def describe_stream(self, name: str) -> StreamState | None:
        item = self._look(self.streams, name)
        return item and StreamState(item["status"], item["shards"] or 4, on_demand=item["shards"] is None)

    async def create_stream(self, name: str, *, shards: int | None, tags: Mapping[str, str]) -> None:
        self._throttle(f"create {name}")
        self.streams[name] = {"status": "CREATING", "wait": self.lag, "shards": shards, "tags": dict(tags)}

    async def read_stream_tags(self, name: str) -> Mapping[str, str]:
        return self.streams[name]["tags"]

    async def deregister_consumer(self, stream: str, name: str) -> bool:
        self.calls.append(f"deregister {name}")
        return self.consumers.pop((stream, name), False)

    async def delete_stream(self, name: str) -> None:
        self._throttle(f"delete {name}")
        self.streams[name] |= {"status": "DELETING", "wait": self.lag}

    async def describe_table(self, name: str) -> TableState | None:
        item = self._look(self.tables, name)
        return item and TableState(item["status"], has_lease_key=item.get("has_lease_key", True))

    async def create_lease_table(self, name: str, *, tags: Mapping[str, str]) -> None:
        self._throttle(f"create {name}")
        self.tables[name] = {"status": "CREATING", "wait": self.lag, "tags": dict(tags)}

    async def read_table_tags(self, name: str, _: str) -> Mapping[str, str]:
        return self.tables[name]["tags"]

    async def delete_table(self, name: str) -> None:
        self._throttle(f"delete {name}")
        self.tables[name] |= {"status": "DELETING", "wait": self.lag}

    async def has_bucket(self, name: str) -> bool:
        if name in self.foreign_buckets:
            message = "HeadBucket was refused"
            raise AccessDeniedError(message, code="403")
        return name in self.buckets

    async def create_bucket(self, name: str, *, tags: Mapping[str, str]) -> None:
        self._throttle(f"create {name}")
        self.buckets[name] = {"objects": 0, "tags": dict(tags)}

    async def protect_bucket(self, name: str) -> None:
        self.calls.append(f"protect {name}")

    async def read_bucket_tags(self, name: str) -> Mapping[str, str]:
        return self.buckets[name]["tags"]

    async def empty_bucket(self, name: str) -> int:
        found = min(1000, self.buckets[name]["objects"])
        self.buckets[name]["objects"] -= found
        return found

    async def delete_bucket(self, name: str) -> bool:
        self.calls.append(f"delete {name}")
        if self.buckets[name]["objects"]:
            return False
        del self.buckets[name]
        return True


async def make(control: _FakeControl, plan: Plan | None = None, **options: Any) -> tuple[Provisioned, list[str]]:
    """Provision against the fake; return the result and what was reported."""
    said: list[str] = []
    made = await provision(plan or Plan(), control=control, report=said.append, poll_seconds=0, **options)
    return made, said


async def test_a_function_of_ones_own_needs_no_more_than_a_stream_and_a_table() -> None:
    """Without destinations there is nothing to write into a bucket either, and the library is what comes next."""
    control = _FakeControl()
    plan = Plan("orders", {}, app="billing")
    made, said = await make(control, plan)
    assert (set(control.streams), set(control.tables), control.buckets) == ({"orders"}, {"billing"}, {})
    assert made == Provisioned("orders", {}, "", "billing")
    assert said[-1] == "Table `billing`: ready"
    assert made.next_step == 'In Python: from consumer import Consumer; Consumer("orders", app="billing")'
    removed = await deprovision(plan, control=control, report=lambda _: None, poll_seconds=0)
    assert (removed.gone, control.streams, control.tables) == (("orders", "billing"), {}, {})


async def test_what_comes_next_names_what_was_made() -> None:
    """Destinations, a bucket, or both, ready to be pasted into a shell."""
    both, _ = await make(_FakeControl(), Plan("in", {"USA": "u"}, "b", "shop"))
    assert both.next_step == (
        """headrace consume --source_stream in --dest_streams '{"USA":"u"}' --bucket b --app shop"""
    )
    archive, _ = await make(_FakeControl(), Plan("in", {}, "b", "shop"))
    assert archive.next_step == "headrace consume --source_stream in --bucket b --app shop"


@pytest.mark.parametrize(
    ("given", "expected"), [(None, DEST_STREAMS), ("{}", {}), ('{"USA": "u"}', {"USA": "u"})], ids=str
)
def test_no_destinations_is_something_else_than_none_given(
    given: str | None, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By option or by environment."""
    settings = load_settings(ConsumerSettings, dest_streams=given)
    assert Plan.of(settings).dest_streams == expected
    if given is not None:
        monkeypatch.setenv("HEADRACE_DEST_STREAMS", given)
        assert Plan.of(load_settings(ConsumerSettings)).dest_streams == expected


async def test_provision_makes_everything_and_names_it() -> None:
    """The default plan makes three streams of two shards, the bucket of the account and the lease table."""
    control = _FakeControl()
    made, said = await make(control)
    assert made == Provisioned(
        "headrace-data-stream",
        {"USA": "headrace-usa-data-stream", "International": "headrace-international-data-stream"},
        "headrace-archive-123456789012",
        "headrace",
    )
    assert {name: item["shards"] for name, item in control.streams.items()} == {
        "headrace-data-stream": 2,
        "headrace-usa-data-stream": 2,
        "headrace-international-data-stream": 2,
    }
    assert {item["status"] for item in (*control.streams.values(), *control.tables.values())} == {"ACTIVE"}
    assert set(control.tables) == {"headrace"}
    assert set(control.buckets) == {"headrace-archive-123456789012"}
    assert "Stream `headrace-data-stream`: being made, 2 shards" in said


async def test_a_second_provision_makes_nothing() -> None:
    """Provisioning again changes nothing and gives the same names."""
    control = _FakeControl()
    first, _ = await make(control)
    control.calls.clear()
    second, said = await make(control)
    assert second == first
    assert [call for call in control.calls if call.startswith("create")] == []
    assert "Stream `headrace-data-stream`: exists, 2 shards" in said


async def test_another_shard_count_is_left_alone_and_said() -> None:
    """An existing stream keeps its shards, and the difference is reported."""
    control = _FakeControl()
    await make(control)
    _, said = await make(control, Plan(shards=8))
    assert control.streams["headrace-data-stream"]["shards"] == 2
    assert "Stream `headrace-data-stream`: exists with 2 shards and is left so; 8 shards asked for" in said
    _, said = await make(control, Plan(shards=None))
    assert "Stream `headrace-data-stream`: exists with 2 shards and is left so; on-demand asked for" in said


async def test_a_name_used_twice_is_one_stream() -> None:
    """A stream that is named as source and as destination is made once."""
    control = _FakeControl()
    await make(control, Plan(dest_streams={"USA": "one", "International": "one"}, source_stream="in", bucket="b"))
    assert set(control.streams) == {"in", "one"}
    assert [call for call in control.calls if call == "create one"] == ["create one"]


async def test_throttling_is_waited_out() -> None:
    """A refusal because too much is being made at once is no failure."""
    control = _FakeControl()
    control.throttles = 3
    await make(control)
    assert len(control.streams) == 3


async def test_a_stream_that_is_being_deleted_is_made_again() -> None:
    """Provisioning right after a deletion waits for its end and makes the stream anew."""
    control = _FakeControl()
    await make(control)
    await control.delete_stream("headrace-data-stream")
    await make(control)
    assert control.streams["headrace-data-stream"]["status"] == "ACTIVE"


async def test_the_deadline_ends_the_wait_with_the_reason() -> None:
    """What never becomes ready ends in an error that counts it and says why."""
    control = _FakeControl()
    control.throttles = 1 << 30
    with pytest.raises(ServiceError, match="5 of 5 resources are not ready after 0 s: too many at once") as failure:
        await make(control, deadline_seconds=0.02)
    assert failure.value.hint == "Run the same command again: it goes on where it stopped"


async def test_a_bucket_of_somebody_else_is_an_error_with_a_remedy() -> None:
    """A bucket name that another account holds is said so, with the option that changes it."""
    control = _FakeControl()
    control.foreign_buckets.add("taken")
    with pytest.raises(ConfigurationError, match="Bucket `taken` is not accessible") as failure:
        await make(control, Plan(bucket="taken"))
    assert "--bucket" in failure.value.hint


async def test_a_table_with_another_key_is_an_error_with_a_remedy() -> None:
    """A table that can hold no leases is not called existing, but refused with the option that changes its name."""
    control = _FakeControl()
    control.tables["headrace"] = {"status": "ACTIVE", "wait": 0, "tags": {}, "has_lease_key": False}
    with pytest.raises(ConfigurationError, match="Table `headrace` is no lease table") as failure:
        await make(control)
    assert "--app" in failure.value.hint


async def test_deprovision_removes_what_was_made() -> None:
    """After --delete nothing of the application is left, and a second time is no error."""
    control = _FakeControl()
    await make(control)
    for _ in range(2):
        done = await deprovision(Plan(), control=control, report=lambda _: None, poll_seconds=0)
        assert (len(done.gone), done.kept) == (5, ())
    assert (control.streams, control.tables, control.buckets) == ({}, {}, {})


async def test_a_consumer_of_the_application_goes_before_its_stream() -> None:
    """A stream with a registered consumer can't be deleted, so the application's own one is removed first."""
    control = _FakeControl()
    await make(control)
    name, app = Plan().source_stream, Plan().app
    control.consumers[name, app] = True
    await deprovision(Plan(), control=control, report=lambda _: None, poll_seconds=0)
    assert name not in control.streams
    assert control.calls.index(f"deregister {app}") < control.calls.index(f"delete {name}")
    assert control.calls.count(f"delete {name}") == 1


@pytest.mark.parametrize("tags", [{}, {TAG: "another"}])
async def test_deprovision_leaves_alone_what_it_did_not_make(tags: dict[str, str]) -> None:
    """A resource without the tag of this application is never removed."""
    control = _FakeControl()
    await make(control)
    for item in (*control.streams.values(), *control.tables.values(), *control.buckets.values()):
        item["tags"] = tags
    done = await deprovision(Plan(), force=True, control=control, report=lambda _: None, poll_seconds=0)
    assert (done.gone, len(done.kept)) == ((), 5)
    assert (len(control.streams), len(control.tables), len(control.buckets)) == (3, 1, 1)


async def test_a_bucket_with_objects_is_kept_without_force() -> None:
    """Objects are deleted only with --force; without it the bucket stays and the command fails."""
    control = _FakeControl()
    await make(control)
    bucket = control.buckets["headrace-archive-123456789012"]
    bucket["objects"] = 2500
    with pytest.raises(ConfigurationError, match="holds objects and was left alone"):
        await deprovision(Plan(), control=control, report=lambda _: None, poll_seconds=0)
    assert bucket["objects"] == 2500
    assert (control.streams, control.tables) == ({}, {})
    await deprovision(Plan(), force=True, control=control, report=lambda _: None, poll_seconds=0)
    assert control.buckets == {}
