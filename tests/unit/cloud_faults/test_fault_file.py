"""A file of faults is read whole or refused with the place of the mistake."""

from __future__ import annotations

import pytest

from infra.cloud.core.fault_file import FILE_BYTES_MAX, parse_faults
from infra.cloud.core.faults import Delay, Fail, FailRecords, LandLate, status_of
from infra.cloud.fault_files import SHIPPED, load_faults
from shared.errors import ConfigurationError
from shared.hash_key import HashKeyRange

FULL = b"""
seed = 7
[[rule]]
name = "hot half"
stream = "events"
hash_keys = ["0", "170141183460469231731687303715884105727"]
effect = "fail_records"
probability = 0.5
[[rule]]
service = "s3"
operation = ["PutObject", "Get*"]
key_prefix = "archive/"
every = 3
after_seconds = 1
until_seconds = 9.5
effect = "error"
code = "SlowDown"
landed = true
[[step]]
operation = "PutRecords"
nth = 3
times = 2
effect = "land_late"
seconds_min = 1
seconds_max = 2
code = "InternalFailure"
[[reshard]]
stream = "events"
kind = "split"
at_seconds = [3, 1]
"""


def test_toml_is_read_into_a_plan() -> None:
    """Rules, steps and reshards come out with what was written, and with the defaults where nothing was."""
    plan = parse_faults(FULL)
    assert (plan.seed, len(plan.rules), len(plan.steps), len(plan.reshards)) == (7, 2, 1, 1)
    first, second = plan.rules
    assert (first.name, second.name) == ("hot half", "rule 2")
    assert isinstance(first.effect, FailRecords)
    assert first.effect.refusal.code == "ProvisionedThroughputExceededException"
    assert first.where.hash_keys == HashKeyRange(0, 2**127 - 1)
    assert first.where.operations == ("PutRecords", "PutRecord")
    assert isinstance(second.effect, Fail)
    assert (second.effect.refusal.status, second.effect.landed) == (503, True)
    assert (second.when.every, second.when.after_seconds, second.when.until_seconds) == (3, 1.0, 9.5)
    step = plan.steps[0]
    assert (step.when.nth, step.when.hits_max) == (3, 2)
    assert isinstance(step.effect, LandLate)
    assert plan.reshards[0].at_seconds == (1.0, 3.0)


def test_json_is_the_same_file() -> None:
    """What begins with a brace is read as JSON with the same keys."""
    plan = parse_faults(b'{"rule": [{"effect": "delay", "seconds": 0.5, "where": "after"}]}')
    effect = plan.rules[0].effect
    assert isinstance(effect, Delay)
    assert effect.after_landing
    assert effect.duration.pick(0.9) == 0.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sed = 1", "the file has unknown keys: `sed`"),
        ('[[rule]]\neffect = "delay"\nsecond = 1\nseconds = 1', "rule 1 has unknown keys: `second`"),
        ('[[rule]]\neffect = "lose_reply"\nseconds = 1', "rule 1 has unknown keys: `seconds`"),
        ('[[step]]\neffect = "lose_reply"\nprobability = 0.5', "step 1 has unknown keys: `probability`"),
        ("[[rule]]", "rule 1: `effect` is missing"),
        ('[[rule]]\neffect = "explode"', "rule 1: `effect` is 'explode'"),
        ('[[rule]]\neffect = "lose_reply"\nprobability = 1.5', "a number from 0 to 1 is needed"),
        ('[[rule]]\neffect = "lose_reply"\nprobability = nan', "a number from 0 to 1 is needed"),
        ('[[rule]]\neffect = "lose_reply"\nprobability = true', "a number from 0 to 1 is needed"),
        ('[[rule]]\neffect = "lose_reply"\nnth = 1\nevery = 2', "and `nth` can't both be given"),
        ('[[rule]]\neffect = "lose_reply"\nafter_seconds = 5\nuntil_seconds = 5', "not after `after_seconds`"),
        ('[[rule]]\neffect = "delay"', "`seconds` must be given alone"),
        ('[[rule]]\neffect = "delay"\nseconds = 601', "a number from 0 to 600 is needed"),
        ('[[rule]]\neffect = "delay"\nseconds_min = 3\nseconds_max = 1', "`seconds` must be given alone"),
        ('[[rule]]\neffect = "error"', "`code` is missing"),
        ('[[rule]]\neffect = "error"\ncode = "X"\nstatus = 200', "a whole number from 400 to 599 is needed"),
        ('[[rule]]\neffect = "error"\ncode = "a\\nb"', "characters that no error type has"),
        ('[[rule]]\neffect = "empty_page"\noperation = "PutRecords"', "is for Kinesis GetRecords only"),
        ('[[rule]]\neffect = "fail_records"\nservice = "s3"', "is for Kinesis PutRecords and PutRecord only"),
        ('[[rule]]\neffect = "lose_reply"\nhash_keys = ["5", "4"]', "is not a range inside"),
        ('[[rule]]\neffect = "lose_reply"\nhash_keys = ["-1", "4"]', "is not a pair of decimal numbers"),
        ('[[reshard]]\nkind = "split"', "`at_seconds` or `every_seconds` is needed"),
        ('[[reshard]]\nkind = "count"\nat_seconds = 1', "`shard_count` belongs to"),
        ('[[reshard]]\nkind = "random"\nat_seconds = 1\nshard = "x"', "`shard` belongs to"),
        ("rule = 5", "is not a list of at most 200 tables"),
        ("rule = [5]", "rule 1 is not a table"),
        ("[[rule]", "neither TOML nor JSON"),
        ("a = " + "[" * 5_000, "neither TOML nor JSON"),
        ("{" * 5_000, "neither TOML nor JSON"),
        ("\n".join(['[[rule]]\neffect = "lose_reply"'] * 201), "is not a list of at most 200 tables"),
        ("#" * (FILE_BYTES_MAX + 1), "at most 262144 are taken"),
    ],
)
def test_mistakes_are_named(text: str, message: str) -> None:
    """A misspelt key, a wrong type or a value out of bounds is refused with its place."""
    with pytest.raises(ConfigurationError) as caught:
        parse_faults(text.encode())
    assert message in str(caught.value)


def test_unknown_keys_come_with_the_known_ones() -> None:
    """The hint lists what could have been meant."""
    with pytest.raises(ConfigurationError) as caught:
        parse_faults(b'[[rule]]\neffect = "cut_midway"\nevent = 2')
    assert "events" in caught.value.hint.split(": ", 1)[1].split(", ")


@pytest.mark.parametrize("name", SHIPPED)
def test_ready_made_files_are_valid(name: str) -> None:
    """Each shipped file loads by its name and says something."""
    plan = load_faults(name)
    assert plan.rules
    assert plan.seed == 1


def test_unreadable_file_names_the_ready_made_ones() -> None:
    """A name that is neither a file nor shipped says what there is."""
    with pytest.raises(ConfigurationError) as caught:
        load_faults("bad-hair-day")
    assert "no such file" in str(caught.value)
    assert "bad-day" in caught.value.hint


def test_status_of_codes() -> None:
    """A known code has its HTTP status, an invented one is a 400."""
    assert [status_of(each) for each in ("SlowDown", "InternalFailure", "AccessDenied", "Invented")] == [
        503,
        500,
        403,
        400,
    ]
