"""The same Kinesis scripts at the fake, the local cloud and moto."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from shared.limits import RECORD_BYTES_MAX_DEFAULT
from shared.records import PutEntry, StartKind
from tests.contract.answer import Refused, agree
from tests.contract.kinesis_run import KinesisRun
from tests.contract.kinesis_script import KinesisScript
from tests.contract.kinesis_steps import From, Put, Read, Step
from tests.contract.sites import Site, Sites

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    # aiohttp warns of bodies above 1 MiB; the largest records are meant here.
    pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning"),
]


async def _answers(script: KinesisScript, name: str, sites: list[Site], *, times: bool) -> dict[str, list[Any]]:
    found = {}
    for site in sites:
        run = KinesisRun(site, await site.kinesis(), name, times=times)
        found[site.name] = await run.run(script.shard_count, script.steps)
    return found


async def test_kinesis_with_resharding(sites: Sites, reshard_seed: int) -> None:
    """Splits, merges, closed shards, expiry and refusals: the fake answers as the local cloud does."""
    script = KinesisScript(Random(f"reshard {reshard_seed}"), reshards=True)
    answers = await _answers(script, f"reshard-{reshard_seed}", [sites.fake(), sites.cloud], times=True)
    agree(reshard_seed, script.steps, answers)


async def test_kinesis_with_open_shards(sites: Sites, plain_seed: int) -> None:
    """Puts, reads and refusals on open shards: fake, local cloud and moto answer the same."""
    script = KinesisScript(Random(f"plain {plain_seed}"), reshards=False)
    answers = await _answers(script, f"plain-{plain_seed}", [sites.fake(), sites.cloud, sites.moto], times=False)
    agree(plain_seed, script.steps, answers)


async def test_the_largest_requests(sites: Sites) -> None:
    """The bounds of a record and of a batch lie at the same byte, and keys count as bytes, not as characters."""
    largest = PutEntry(bytes(RECORD_BYTES_MAX_DEFAULT - 2), "ü")
    steps: list[Step] = [
        Put((largest,), is_single=True),
        Put((largest._replace(data=largest.data + b"x"),), is_single=True),
        Put((largest,) * 10, is_single=False),
        Put((*(largest,) * 10, PutEntry(b"", "k")), is_single=False),
        Read(0, From(StartKind.TRIM_HORIZON), 10_000, 3),
    ]
    answers = {
        site.name: await KinesisRun(site, await site.kinesis(), "largest", times=False).run(1, steps)
        for site in (sites.fake(), sites.cloud)
    }
    agree("largest", steps, answers)
    assert [isinstance(each, Refused) for each in answers["fake"]] == [False, True, False, True, False]
    assert [len(page[0]) for page in answers["fake"][-1]] == [10, 1, 0]
