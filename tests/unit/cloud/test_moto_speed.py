"""moto, hastened, gives the answers that it gives by itself."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from moto.core.serialize import SERVICE_SPECIFIC_SERIALIZERS

from infra.cloud import moto_speed
from infra.cloud.moto_application import MotoApplication
from infra.cloud.moto_speed import DynamoDbSerializer, MotoSerializer, answer

_NAMES = st.sampled_from(["S", "L", "leaseKey", "value", "NULL", "items", "ListAttributeValue", "a.b"])
_LEAVES = (
    st.fixed_dictionaries({"S": st.text(max_size=3)})
    | st.fixed_dictionaries({"N": st.sampled_from(["0", "-1.5", "1E+20"])})
    | st.fixed_dictionaries({"B": st.binary(max_size=3)})
    | st.fixed_dictionaries({"BOOL": st.booleans()})
    | st.just({"NULL": True})
    | st.fixed_dictionaries({"SS": st.lists(st.text(max_size=3), max_size=2)})
    | st.fixed_dictionaries({"NS": st.lists(st.just("7"), max_size=2)})
    | st.fixed_dictionaries({"BS": st.lists(st.binary(max_size=3), max_size=2)})
)
_VALUES: st.SearchStrategy[dict[str, Any]] = st.recursive(
    _LEAVES,
    lambda inner: (
        st.fixed_dictionaries({"L": st.lists(inner, max_size=3)})
        | st.fixed_dictionaries({"M": st.dictionaries(_NAMES, inner, max_size=3)})
    ),
    max_leaves=6,
)
_ITEMS = st.dictionaries(_NAMES, _VALUES, max_size=4)


@given(_ITEMS, st.lists(_ITEMS, max_size=2))
def test_items_are_written_as_moto_writes_them(item: dict[str, Any], items: list[dict[str, Any]]) -> None:
    """Values of every type, nested, with names that moto has a meaning for, in single items and in lists."""
    results: dict[str, Any] = {
        "GetItem": {"Item": item},
        "Scan": {"Items": items, "Count": len(items), "LastEvaluatedKey": item},
        "BatchGetItem": {"Responses": {"table": items}},
    }
    for operation, result in results.items():
        assert answer(DynamoDbSerializer, operation, result) == answer(MotoSerializer, operation, result)


def test_what_has_no_items_is_left_to_moto() -> None:
    """An answer without attributes is that of moto."""
    result = {"Table": {"TableName": "t", "KeySchema": [{"AttributeName": "k", "KeyType": "HASH"}]}}
    assert answer(DynamoDbSerializer, "DescribeTable", result) == answer(MotoSerializer, "DescribeTable", result)


@pytest.mark.parametrize("other", ["without it", "with other answers", "with other arguments"])
def test_another_moto_is_left_as_it_is(other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The local cloud starts with any: where what is hastened is missing, and where it is made in another way."""
    if other == "without it":
        monkeypatch.setitem(sys.modules, "infra.cloud.moto_speed", None)
    elif other == "with other answers":
        monkeypatch.setattr(moto_speed, "answer", lambda serializer, *_: serializer)
    else:
        monkeypatch.setattr(moto_speed, "answer", lambda: None)
    monkeypatch.delitem(SERVICE_SPECIFIC_SERIALIZERS, "dynamodb", raising=False)
    MotoApplication()
    assert "dynamodb" not in SERVICE_SPECIFIC_SERIALIZERS
