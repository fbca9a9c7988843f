"""What moto does anew for each request or each value, and always with the same outcome: done once, or left out."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from moto import backends
from moto.core import responses, serialize, utils
from moto.core.serialize import SERIALIZERS, SERVICE_SPECIFIC_SERIALIZERS

_SERVICE: Final = "dynamodb"
_PROTOCOL: Final = "json"
_VALUE: Final = "AttributeValue"
_MODULES: Final = tuple(backends.list_of_moto_modules())
_SAMPLE: Final = {"Item": {"key": {"S": "a"}, "values": {"L": [{"M": {"n": {"N": "1"}}}, {"NULL": True}]}}}
_method_names: Final = cache(utils.method_names_from_class)
MotoSerializer: Any = SERIALIZERS[_PROTOCOL]


class DynamoDbSerializer(MotoSerializer):  # type: ignore[misc] # moto is not typed here
    """Takes of an attribute's value what is there: moto looks for each of ten types by several names."""

    def _serialize_type_structure(self, serialized: Any, value: Any, shape: Any, key: str) -> None:
        if shape.name != _VALUE or type(value) is not dict:
            super()._serialize_type_structure(serialized, value, shape, key)
            return
        found: dict[str, Any] = {}
        for name, member in value.items():
            if member is not None and name in shape.members:
                self._serialize(found, member, shape.members[name], name)
        self._default_serialize(serialized, found, shape, key)


def answer(serializer: Any, operation: str, result: Any) -> Any:
    """Return what a serializer makes of the result of a call."""
    model = utils.get_service_model(_SERVICE).operation_model(operation)
    return serializer(operation_model=model, value_picker=serialize.XFormedAttributePicker()).serialize(result)


def hasten() -> None:
    """Have moto give the same answers sooner: a scan of a lease table takes a fifth of the time, a get a third.

    Does nothing, or raises AttributeError, LookupError or TypeError, for a moto that is made in another way.
    """
    if answer(DynamoDbSerializer, "GetItem", _SAMPLE) != answer(MotoSerializer, "GetItem", _SAMPLE):
        return
    SERVICE_SPECIFIC_SERIALIZERS[_SERVICE] = {_PROTOCOL: DynamoDbSerializer}
    # For each request it lists a folder and looks at each entry, and looks for the methods of a class.
    backends.list_of_moto_modules = lambda: _MODULES
    caller: Any = responses
    caller.method_names_from_class = _method_names
