"""The shipped sample: what the generator makes, and what the producer makes of it."""

from __future__ import annotations

import gzip
import shutil
from collections import Counter
from itertools import pairwise
from pathlib import Path

import orjson
import pytest

from infra.sample.__main__ import main
from infra.sample.generator import LINES, SEED, lines
from infra.sample.package import (
    COUNTRIES_NAME,
    COUNTRIES_PATH,
    FOLDER,
    LOG_NAME,
    LOG_PATH,
    differing_files,
    write_files,
)
from infra.sample.shop import PRODUCTS
from producer.core.country import CountryTable
from producer.core.line import FilteredLine, ParsedEvent, RejectedLine
from producer.core.line_format import LineFormat, detect_format
from producer.core.site import DEFAULT, choose_site
from producer.core.visit_line import VisitLineParser
from producer.crawler import is_crawler
from tests.support.ways import way  # noqa: F401 - each test is run both ways


def test_the_shipped_files_are_what_the_generator_makes() -> None:
    """Nobody edits the sample by hand."""
    assert (differing_files(FOLDER), main(["--check"])) == ([], 0)


def test_the_shipped_log_is_small() -> None:
    """The package stays light."""
    assert LOG_PATH.stat().st_size <= 400_000


def test_a_difference_is_named(tmp_path: Path) -> None:
    """A changed, damaged or missing file differs; a fresh one does not."""
    write_files(tmp_path)
    assert differing_files(tmp_path) == []
    (tmp_path / LOG_NAME).write_bytes(b"not gzip")
    (tmp_path / COUNTRIES_NAME).unlink()
    assert differing_files(tmp_path) == [LOG_NAME, COUNTRIES_NAME]
    shutil.copy(LOG_PATH, tmp_path)
    assert differing_files(tmp_path) == [COUNTRIES_NAME]


def test_unknown_arguments_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """A typing error does not overwrite the sample."""
    assert main(["--chekc"]) == 2
    assert capsys.readouterr().err == "error: unknown arguments\n\nhint: python -m infra.sample [--check]\n"


def test_the_seed_decides() -> None:
    """The same seed gives the same lines, a shorter log is the head of a longer one, another seed is another log."""
    head = list(lines(SEED, 300))
    assert head == list(lines(SEED, 400))[:300]
    assert head != list(lines(SEED + 1, 300))


def test_every_line_of_the_sample_is_accounted_for() -> None:
    """Lines = events + filtered + rejected, with every reason, action, product and several countries among them."""
    log = gzip.decompress(LOG_PATH.read_bytes()).splitlines()
    assert (len(log), detect_format(log[0]), choose_site(log[:1_000])) == (LINES, LineFormat.COMBINED, DEFAULT)
    parser = VisitLineParser(DEFAULT, b"k" * 16, is_crawler, CountryTable.from_bytes(COUNTRIES_PATH.read_bytes()))
    results = [parser.parse(line) for line in log]
    events = [orjson.loads(result.data) for result in results if isinstance(result, ParsedEvent)]
    reasons = Counter(result.reason for result in results if isinstance(result, FilteredLine))
    rejected = sum(isinstance(result, RejectedLine) for result in results)
    assert len(events) + reasons.total() + rejected == LINES
    assert (rejected, set(reasons)) == (5, {"asset", "bot", "internal", "method", "status"})
    actions = {event["action"] for event in events}
    assert actions == {"page_view", "product_view", "basket_add", "basket_view", "checkout", "order"}
    assert {event["product_code"] for event in events if "product_code" in event} == {p.code for p in PRODUCTS}
    countries = Counter(event.get("country", "") for event in events)
    assert set(countries) == {"USA", "DE", "FR", "JP", "BR", ""}
    assert 0.2 < countries["USA"] / len(events) < 0.6
    sessions = {event["session_id"]: event["browse_history"] for event in events}
    assert sum(len(history) > 1 for history in sessions.values()) > 500
    times = [event["timestamp"] for event in events]
    assert any(later < earlier for earlier, later in pairwise(times))
