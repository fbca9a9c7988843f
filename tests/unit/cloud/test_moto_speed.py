"""moto, hastened, gives the answers that it gives by itself."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from moto.core.model import ServiceModel
from moto.core.responses import XFormedAttributePicker
from moto.core.utils import get_service_model

from infra.cloud.moto_speed import DynamoDbSerializer, MotoSerializer

_MODEL: ServiceModel = get_service_model("dynamodb")
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


def _answer(serializer: Any, operation: str, result: Any) -> Any:
    made = serializer(operation_model=_MODEL.operation_model(operation), value_picker=XFormedAttributePicker())
    return made.serialize(result)


@given(_ITEMS, st.lists(_ITEMS, max_size=2))
def test_items_are_written_as_moto_writes_them(item: dict[str, Any], items: list[dict[str, Any]]) -> None:
    """Values of every type, nested, with names that moto has a meaning for, in single items and in lists."""
    results: dict[str, Any] = {
        "GetItem": {"Item": item},
        "Scan": {"Items": items, "Count": len(items), "LastEvaluatedKey": item},
        "BatchGetItem": {"Responses": {"table": items}},
    }
    for operation, result in results.items():
        assert _answer(DynamoDbSerializer, operation, result) == _answer(MotoSerializer, operation, result)


def test_what_has_no_items_is_left_to_moto() -> None:
    """An answer without attributes is that of moto."""
    result = {"Table": {"TableName": "t", "KeySchema": [{"AttributeName": "k", "KeyType": "HASH"}]}}
    assert _answer(DynamoDbSerializer, "DescribeTable", result) == _answer(MotoSerializer, "DescribeTable", result)
