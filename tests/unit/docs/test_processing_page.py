"""The how-to page of the library shows a program that works."""

from __future__ import annotations

import os
import re
import signal
import types
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest

from consumer import Consumer
from shared.records import PutEntry
from shared.settings import ConsumerSettings
from shared.telemetry import SilentTelemetry
from tests.support.fake_kinesis import FakeKinesis
from tests.support.fake_leases import FakeLeases
from tests.support.network import PerfectNetwork

PAGE = Path(__file__).parents[3] / "docs/how-to/processing.md"
NUMBERS = 20


async def test_the_program_on_the_page_bills_every_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It charges each order in order although the database is away once, keeps the bad one and ends on SIGTERM."""
    found = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    page = types.ModuleType("page")
    exec(compile(found[1], str(PAGE), "exec"), page.__dict__)  # noqa: S102 - our own page
    network = PerfectNetwork()
    kinesis = FakeKinesis(network)
    kinesis.create_stream("orders")
    charged: list[int] = []
    outages = [ConnectionError("away")]

    async def charge(event: Mapping[str, Any]) -> None:
        if event["n"] == NUMBERS // 2 and outages:
            raise outages.pop()
        charged.append(event["n"])
        if event["n"] == NUMBERS - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    for number in range(NUMBERS):
        await kinesis.put_record("orders", PutEntry(orjson.dumps({"n": number, "credit_limit": 1}), "a1"))
        if number == 3:
            await kinesis.put_record("orders", PutEntry(b"not json", "a1"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(page, "charge", charge)
    leases = FakeLeases(network)
    fakes = {"kinesis": kinesis, "leases": leases, "telemetry": SilentTelemetry(), "settings": ConsumerSettings()}
    monkeypatch.setattr(page, "Consumer", partial(Consumer, **fakes))
    await page.main()
    once = list(dict.fromkeys(charged))
    assert once == list(range(NUMBERS))
    assert len(charged) <= 2 * NUMBERS
    (letter,) = (tmp_path / "dead-letters.ndjson").read_bytes().splitlines()
    assert orjson.loads(letter)["errorMessage"] == "no credit limit"
    (row,) = leases.rows.values()
    assert row.owner is None
    assert row.checkpoint.position.sequence_number == kinesis.records("orders")[-1][1].sequence_number
