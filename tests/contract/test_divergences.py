"""DIVERGENCES.md: every row still true, every sentence AWS's own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import botocore.loaders
import pytest

from tests.contract.divergences import DIVERGENCES, Divergence, document
from tests.contract.sites import Sites

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    # aiohttp warns of bodies above 1 MiB; the largest records are meant here.
    pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning"),
]
_PAGE = Path(__file__).with_name("DIVERGENCES.md")


@cache
def _model_text(service: str) -> str:
    model = botocore.loaders.Loader().load_service_model(service, "service-2")
    constraints = [
        f"{name}: {bound} {shape[bound]}"
        for name, shape in model["shapes"].items()
        for bound in ("min", "max")
        if bound in shape
    ]
    return "\n".join([*_documentation(model), *constraints])


def _documentation(node: Any) -> Iterator[str]:
    for name, value in node.items() if isinstance(node, dict) else enumerate(node):
        if name == "documentation" and isinstance(value, str):
            yield re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", value))
        elif isinstance(value, (dict, list)):
            yield from _documentation(value)


@pytest.mark.parametrize("divergence", DIVERGENCES, ids=lambda each: each.operation)
async def test_a_listed_divergence_still_exists(sites: Sites, divergence: Divergence) -> None:
    """Each site answers what the list says, and not all the same."""
    expected, actual = {}, {}
    for site in (sites.fake(), sites.cloud, sites.moto):
        listed = divergence.expected(site.name)
        if listed is not None:
            expected[site.name] = listed
            actual[site.name] = await divergence.probe(
                site, f"{divergence.probe.__name__.strip('_').replace('_', '-')}-{site.name}"
            )
    assert expected == actual
    assert len(set(actual.values())) > 1


async def test_sentences_are_the_service_models_own() -> None:
    """No sentence is made up: each is in the model that botocore ships, word by word."""
    missing = [each.sentence for each in DIVERGENCES if each.sentence not in _model_text(each.service)]
    assert missing == []


async def test_the_page_is_the_list() -> None:
    """DIVERGENCES.md says what the probes check; `python -m tests.contract.divergences` would print it anew."""
    assert document() == _PAGE.read_text()
