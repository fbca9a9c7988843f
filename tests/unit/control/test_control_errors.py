"""What an operator may get wrong is said in words of the command, with a remedy, and before anything is asked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import pytest

from infra.control import commands
from infra.control.dead_letters import DeadLetterFolder
from infra.control.kcl import KclPorts, plan_export, plan_import
from infra.control.seek import parse_target
from shared.errors import ConfigurationError, TableNotFoundError
from shared.lease import Lease
from tests.unit.consumer.small_cloud import SmallCloud, VirtualClock
from tests.unit.control.steered_group import group_of


class _NoTable:
    """A KCL table that is not there."""

    async def scan(self) -> Sequence[Mapping[str, Any]]:
        """Refuse."""
        raise TableNotFoundError("Table `kcl` does not exist", hint="`headrace provision` makes it")

    async def put_unowned(self, item: Mapping[str, Any]) -> bool:
        """Refuse."""
        raise AssertionError(item)


def _refused(cloud: SmallCloud, call: Callable[[], Awaitable[object]]) -> ConfigurationError:
    async def story() -> ConfigurationError:
        with pytest.raises(ConfigurationError) as refused:
            await call()
        return refused.value

    return cloud.run(story)


@pytest.mark.parametrize("key", ["errors/nothing", "", "x" * 2_000])
def test_a_dead_letter_object_that_is_not_there_is_named(key: str) -> None:
    """Missing, empty or too long: the same answer, and where to find the keys."""
    cloud = SmallCloud.make()
    error = _refused(cloud, lambda: DeadLetterFolder(group_of(cloud)).letters(key))
    assert str(error) == f"The bucket of `test` has no object `{key[:200]}`"
    assert error.hint == "`headrace deadletters list --keys` lists them"


def test_a_type_that_no_letter_has_is_refused_before_anything_else() -> None:
    """A list of none would look as if all was well; a redrive need not ask first."""
    with pytest.raises(ConfigurationError, match="No dead letter is of the type `nope`") as refused:
        commands.run_redrive(
            "app", error_type="nope", keys=(), rate=1, again=False, is_dry=False, is_sure=True, as_json=False
        )
    assert "`processing-failed`" in refused.value.hint
    cloud = SmallCloud.make()
    assert str(_refused(cloud, lambda: DeadLetterFolder(group_of(cloud)).keys("nope"))) == str(refused.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("yesterday", "--to is `yesterday`, neither"), ("1970-01-01T00:01:00", "`1970-01-01T00:01:00` is 50 s in the")],
)
def test_a_seek_names_its_own_option(text: str, message: str) -> None:
    """And not the setting that reads times, too."""
    with pytest.raises(ConfigurationError, match=message):
        parse_target(text, 10.0)


@pytest.mark.parametrize("plan", [plan_import, plan_export])
def test_a_kcl_table_that_is_not_there_is_no_table_of_ours(plan: Callable[[KclPorts], Awaitable[object]]) -> None:
    """`headrace provision` would not make it."""
    cloud = SmallCloud.make()
    group = group_of(cloud)
    ports = KclPorts(_NoTable(), cloud.leases, VirtualClock(cloud.loop), group.random)

    async def call() -> None:
        if plan is plan_export:
            cloud.leases.rows["shardId-000000000000"] = Lease("shardId-000000000000")
        await plan(ports)

    error = _refused(cloud, call)
    assert (str(error), "--table" in error.hint) == ("Table `kcl` does not exist", True)


@pytest.mark.parametrize(
    ("changed", "is_paused", "text"),
    [
        (0, True, "Nothing to pause: all are paused"),
        (0, False, "Nothing to resume: none is paused or halted"),
        (1, True, "Paused 1 shard; its owner sees it within seconds"),
        (1200, False, "Resumed 1,200 shards; their owners see it within seconds"),
    ],
)
def test_a_pause_says_what_changed(changed: int, is_paused: bool, text: str) -> None:
    """Nothing, one or many."""
    assert commands._changed_text(changed, is_paused=is_paused) == text
