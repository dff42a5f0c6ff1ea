"""DynamoDB's form of items, and of conditional writes as its expressions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal, DecimalException
from typing import Any, Final

from boto3.dynamodb.types import DYNAMODB_CONTEXT, TypeDeserializer, TypeSerializer

from sched_plugins.core.write import KEY, Condition, Operator, Write

WRITE_ID: Final = "write_id"
"""Attribute that names the write which an item's present state came from."""

# AWS, DynamoDB: "Attribute name and nesting: 32 levels"; a few are kept for the item around the value.
_MAX_DEPTH: Final = 28

_serializer = TypeSerializer()
_deserializer = TypeDeserializer()


def to_attribute(value: Any) -> Any:
    """A plain value in DynamoDB's form.

    What DynamoDB cannot hold is kept as text, so that nothing a job reports about itself can keep its end from
    being recorded: numbers beyond 38 digits or 1e125, infinities, and what nests deeper than 28 levels. Half
    of a surrogate pair becomes a question mark.
    """
    return _serializer.serialize(_storable(value, 0))


def _storable(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int | float):
        return _number(value)
    if isinstance(value, Mapping | Sequence) and depth >= _MAX_DEPTH:
        return _text(json.dumps(value))
    if isinstance(value, Mapping):
        return {_text(str(name)) or "_": _storable(inner, depth + 1) for name, inner in value.items()}
    if isinstance(value, Sequence):
        return [_storable(inner, depth + 1) for inner in value]
    raise TypeError(f"an item cannot hold {value!r}")


def _text(value: str) -> str:
    return value.encode(errors="replace").decode()


def _number(value: float) -> Decimal | str:
    text = str(value)
    try:
        number = DYNAMODB_CONTEXT.create_decimal(text)
    except DecimalException:
        return text
    return number if number.is_finite() else text


def from_attributes(item: Mapping[str, Any]) -> dict[str, Any]:
    """An item in plain types: whole numbers as int, others as float."""
    return {name: _plain(_deserializer.deserialize(value)) for name, value in item.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    return value


class Placeholders:
    """Names and values of an expression; placeholders keep clear of DynamoDB's 573 reserved words."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._values: dict[str, Any] = {}

    def name(self, field: str) -> str:
        """The placeholder of a field."""
        return self._names.setdefault(field, f"#{len(self._names)}")

    def value(self, value: Any) -> str:
        """A placeholder for a value."""
        placeholder = f":{len(self._values)}"
        self._values[placeholder] = to_attribute(value)
        return placeholder

    def arguments(self) -> dict[str, Any]:
        """The arguments of a call that define what was used; DynamoDB refuses empty ones."""
        arguments: dict[str, Any] = {}
        if self._names:
            arguments["ExpressionAttributeNames"] = {short: field for field, short in self._names.items()}
        if self._values:
            arguments["ExpressionAttributeValues"] = self._values
        return arguments


def key_of(write: Write) -> dict[str, Any]:
    """The key of the written item."""
    return {KEY[write.table]: to_attribute(write.key)}


def arguments_of(write: Write, write_id: str) -> dict[str, Any]:
    """The arguments of UpdateItem or DeleteItem, and of their forms in a transaction, but for the table's name.

    An update always sets :data:`WRITE_ID`, so that its writer recognises it when the reply was lost. A failed
    condition returns the item as it stands.
    """
    places = Placeholders()
    arguments: dict[str, Any] = {"Key": key_of(write), "ReturnValuesOnConditionCheckFailure": "ALL_OLD"}
    if not write.delete:
        changes = {**write.changes, WRITE_ID: write_id}
        sets = ", ".join(f"{places.name(field)} = {places.value(value)}" for field, value in changes.items())
        removed = ", ".join(places.name(field) for field in write.removals)
        arguments["UpdateExpression"] = f"SET {sets} REMOVE {removed}" if removed else f"SET {sets}"
    if write.conditions:
        arguments["ConditionExpression"] = " AND ".join(_expression(one, places) for one in write.conditions)
    return arguments | places.arguments()


def _expression(condition: Condition, places: Placeholders) -> str:
    name = places.name(condition.field)
    match condition.operator:
        case Operator.EQUALS:
            return f"{name} = {places.value(condition.value)}"
        case Operator.ABSENT:
            return f"attribute_not_exists({name})"
        case Operator.ONE_OF:
            return f"{name} IN ({', '.join(places.value(value) for value in condition.value)})"
        case Operator.AT_MOST:
            return f"(attribute_not_exists({name}) OR {name} <= {places.value(condition.value)})"
