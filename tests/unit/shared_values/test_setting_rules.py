"""A setting that breaks a pattern is refused with a rule in words."""

from __future__ import annotations

import pytest

from shared.errors import ConfigurationError
from shared.settings import ConsumerSettings, ProducerSettings, load_settings

BROKEN = {
    "app": "my app",
    "archive_time_zone": "Berlin!",
    "file_extension": "gz",
    "manifest_prefix": "/manifests",
    "storage_class": "standard",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_rule_is_told_in_words(name: str) -> None:
    """Nobody has to read a regular expression."""
    with pytest.raises(ConfigurationError, match=f"setting `{name}` is not usable: an? [a-z]") as refused:
        load_settings(ConsumerSettings, **{name: BROKEN[name]})
    assert "pattern" not in str(refused.value)


def test_every_pattern_has_its_rule() -> None:
    """A setting that gets a pattern gets words for it, too."""
    fields = {**ConsumerSettings.model_fields, **ProducerSettings.model_fields}
    patterns = {
        name for name, field in fields.items() if any(getattr(each, "pattern", None) for each in field.metadata)
    }
    assert patterns == set(BROKEN)
