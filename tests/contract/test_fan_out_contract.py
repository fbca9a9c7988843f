"""Registered consumers and their subscriptions: the same scripts at the fake and at the local cloud."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from shared.limits import RESUBSCRIBE_SECONDS_MIN, SUBSCRIPTION_LIFETIME_SECONDS
from shared.ports import FanOut, Kinesis, Subscription
from shared.records import PutEntry, Start, StartKind
from tests.contract.answer import agree, answer_of
from tests.contract.sites import Site, Sites

pytestmark = pytest.mark.asyncio(loop_scope="session")

_STEPS = 24
_NUMBERED = (StartKind.AT_SEQUENCE_NUMBER, StartKind.AFTER_SEQUENCE_NUMBER)


class _Run:
    """One stream and one consumer at one site; steps are drawn, so that every site takes the same ones."""

    def __init__(self, site: Site, stream: str, kinesis: Kinesis, fan_out: FanOut, seed: int) -> None:
        self._site = site
        self._stream = stream
        self._kinesis = kinesis
        self._fan_out = fan_out
        self._chance = Random(f"fan-out {seed}")
        self._arn = ""
        self._stream_arn = ""
        self._shards: list[str] = []
        self._open: set[int] = set()
        self._numbers: dict[str, list[int]] = {}
        self._continuations: dict[str, int] = {}
        self._subscription: Subscription | None = None

    async def run(self) -> tuple[list[str], list[Any]]:
        """Make the stream, take every step and return their names and answers."""
        await self._site.create_stream(self._stream, 1)
        self._stream_arn = (await self._kinesis.describe_stream(self._stream)).stream_arn
        await self._learn()
        names, answers = ["register"], [await answer_of(self._register)]
        for _ in range(_STEPS):
            name = self._chance.choices(
                ("put", "subscribe", "again", "split", "register", "look", "outlive", "remove", "nowhere"),
                (8, 8, 2, 1, 1, 1, 1, 0.5, 1),
            )[0]
            names.append(name)
            answers.append(await answer_of(getattr(self, f"_{name}")))
        await self._hang_up()
        return names, answers

    async def _learn(self) -> None:
        self._shards = sorted(each.shard_id for each in await self._kinesis.list_shards(self._stream))

    async def _hang_up(self) -> None:
        if self._subscription is not None:
            await self._subscription.close()
        self._subscription = None

    # Steps.

    async def _register(self) -> Any:
        found = await self._fan_out.register_consumer(self._stream_arn, "app")
        self._arn = found.consumer_arn
        return found.consumer_arn.startswith(f"{self._stream_arn}/consumer/app:")

    async def _look(self) -> Any:
        found = await self._fan_out.describe_consumer(self._stream_arn, "app")
        none = await self._fan_out.describe_consumer(self._stream_arn, "another")
        return found and (found.consumer_arn == self._arn, found.status), none

    async def _remove(self) -> Any:
        if await self._fan_out.describe_consumer(self._stream_arn, "app") is None:
            return "gone already"
        await self._site.deregister_consumer(self._stream, "app")
        return await self._read_out()

    async def _put(self) -> Any:
        for _ in range(self._chance.randint(1, 4)):
            result = await self._kinesis.put_record(self._stream, PutEntry(b"x", str(self._chance.randrange(99))))
            self._numbers.setdefault(result.shard_id, []).append(result.sequence_number)
        self._site.turn(0.125)

    async def _split(self) -> Any:
        shards = [each for each in await self._kinesis.list_shards(self._stream) if each.is_open]
        shard = self._chance.choice(sorted(shards, key=lambda each: each.shard_id))
        middle = shard.hash_key_range.start + shard.hash_key_range.width // 2
        await self._site.split_shard(self._stream, shard.shard_id, middle)
        await self._learn()
        return len(self._shards)

    def _start(self, shard_id: str) -> Start:
        kind = self._chance.choice(list(StartKind))
        numbers = self._numbers.get(shard_id, [])
        rank = self._chance.random()
        if kind in _NUMBERED and shard_id in self._continuations and rank < 0.5:
            return Start(kind, sequence_number=self._continuations[shard_id])
        if kind in _NUMBERED:
            return Start(kind, sequence_number=numbers[int(rank * len(numbers))] if numbers else 1)
        return Start(kind, timestamp=self._site.wall() - rank) if kind is StartKind.AT_TIMESTAMP else Start(kind)

    async def _subscribe(self) -> Any:
        await self._hang_up()
        if self._chance.random() < 0.8:
            self._site.turn(RESUBSCRIBE_SECONDS_MIN - self._chance.choice((0, 0, 0, 0.125)))
        shard_id = self._chance.choice(self._shards)
        start = self._start(shard_id)
        self._subscription = await self._fan_out.subscribe_to_shard(self._arn, shard_id, start)
        answers = []
        while True:
            page = await self._next()
            answers.append(page)
            if page is None or page[1] == "ends" or not page[2]:
                return start.kind.value, answers

    async def _again(self) -> Any:
        """Subscribe to a shard while the subscription before is open, at once."""
        await self._subscribe()
        start = Start(StartKind.TRIM_HORIZON)
        await (await self._fan_out.subscribe_to_shard(self._arn, self._shards[0], start)).close()

    async def _nowhere(self) -> Any:
        at = Start(StartKind.TRIM_HORIZON)
        shard_id, arn = self._chance.choice(
            [("shardId-000000009999", self._arn), (self._shards[0], self._arn.replace("/app:", "/nobody:"))]
        )
        await self._fan_out.subscribe_to_shard(arn, shard_id, at)

    async def _outlive(self) -> Any:
        self._site.turn(SUBSCRIPTION_LIFETIME_SECONDS)
        await self._put()  # the local cloud looks at the clock when something arrives
        return await self._read_out()

    async def _read_out(self) -> Any:
        """Read a subscription that is over to its end; how much was pushed before is a matter of time."""
        while self._subscription is not None:
            page = await self._next()
            if page is None or page[1] == "ends":
                return "ended"
        return "nothing to end"

    async def _next(self) -> Any:
        assert self._subscription is not None
        page = await self._subscription.next_event()
        if page is None:
            return None
        shard_ids = {each: rank for rank, each in enumerate(self._shards)}
        ranks = {number: rank for numbers in self._numbers.values() for rank, number in enumerate(numbers)}
        if page.records and page.next_iterator is not None:
            # The number goes on behind what was delivered, whatever it is.
            assert int(page.next_iterator) >= page.records[-1].sequence_number
        return (
            [(ranks[each.sequence_number], each.data, each.partition_key) for each in page.records],
            "goes on" if page.next_iterator is not None else "ends",
            page.behind_milliseconds > 0,
            [(shard_ids[each.shard_id], tuple(shard_ids[up] for up in each.parents)) for each in page.child_shards],
        )


async def test_fan_out_scripts(sites: Sites, fan_out_seed: int) -> None:
    """Registering, subscribing anywhere, taking over, ends and refusals: the fake answers as the local cloud does."""
    name = f"fan-out-{fan_out_seed}"
    answers, steps = {}, []
    for site in (sites.fake(), sites.cloud):
        run = _Run(site, name, await site.kinesis(), await site.fan_out(name), fan_out_seed)
        steps, answers[site.name] = await run.run()
    agree(fan_out_seed, steps, answers)
