"""The gate between the shards of a process: a suspect is looked at alone, and nobody waits for ever."""

from __future__ import annotations

import asyncio

import pytest

from consumer.care import Care


async def test_nobody_passes_while_a_suspect_is_looked_at() -> None:
    """Others go on once it is stored; a second suspect waits for those that came before it."""
    care = Care()
    told: list[str] = []
    stored = asyncio.Event()

    async def suspect(name: str) -> None:
        async with care.alone():
            told.append(f"{name} begins")
            await stored.wait()
            told.append(f"{name} ends")

    async def other(name: str) -> None:
        await care.pass_by()
        told.append(name)

    await other("free")
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(suspect("first"))
        await asyncio.sleep(0)
        tasks.create_task(other("a"))
        tasks.create_task(suspect("second"))
        tasks.create_task(other("b"))
        for _ in range(5):
            await asyncio.sleep(0)
        assert told == ["free", "first begins"]
        stored.set()
    assert told == ["free", "first begins", "first ends", "a", "second begins", "second ends", "b"]


async def test_a_suspect_that_fails_opens_the_gate() -> None:
    """What was looked at and failed holds nobody back."""
    care = Care()

    async def fail() -> None:
        raise OSError("broken")

    with pytest.raises(OSError, match="broken"):
        async with care.alone():
            await fail()
    await care.pass_by()
