"""The how-to page of the HTTP source shows a description that works."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from producer.core.page_walk import ApiPlan, PageStyle

PAGE = Path(__file__).parents[3] / "docs/how-to/http-source.md"


def test_the_description_on_the_page_is_accepted() -> None:
    """Whoever copies the page's TOML gets a plan that reads pages with a token."""
    found = re.search(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    plan = ApiPlan.from_mapping(tomllib.loads(found[1]))
    assert (plan.style, plan.items) == (PageStyle.PAGE, "data.visits")
    assert plan.token is not None
