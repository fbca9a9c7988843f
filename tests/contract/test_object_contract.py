"""The same bucket scripts at the fake, the local cloud and moto."""

from __future__ import annotations

from random import Random

import pytest

from shared.errors import BucketNotFoundError
from tests.contract.answer import agree
from tests.contract.object_script import ObjectScript, run_objects
from tests.contract.sites import Sites

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_objects(sites: Sites, object_seed: int) -> None:
    """Writes that must not overwrite, overwrites, reads, listings of several pages are the same everywhere."""
    script = ObjectScript(Random(f"object {object_seed}"))
    bucket = f"objects-{object_seed}"
    answers = {}
    for site in sites.sharing_moto(object_seed):
        name = f"{bucket}-{site.name}"  # moto's state belongs to the process: the two servers share their buckets
        answers[site.name] = await run_objects(site, await site.objects(name), name, script.steps)
    agree(object_seed, script.steps, answers)


async def test_a_missing_bucket_is_named(sites: Sites) -> None:
    """Every call on a bucket that does not exist says so."""
    for site in (sites.cloud, sites.moto):
        port = await site.aws.objects("no-such-bucket")
        with pytest.raises(BucketNotFoundError):
            await port.put_object("k", b"", content_type="text/plain")
        with pytest.raises(BucketNotFoundError):
            await port.get_object("k")
        with pytest.raises(BucketNotFoundError):
            _ = [each async for each in port.list_objects("")]
