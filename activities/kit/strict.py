"""Strict reading of what people and their programs write: an unknown field is refused, never dropped.

Stored values and messages of other systems are read by the same models leniently; strictness belongs to the door.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails


def unknown_fields(adapter: TypeAdapter[Any], value: Any) -> list[ErrorDetails]:
    """Return what is wrong with a value if any of its fields, at any depth, is unknown; otherwise nothing.

    The errors of unknown fields carry what ``describe_unknown`` returns.
    """
    try:
        adapter.validate_python(value, extra="forbid", from_attributes=False)
    except ValidationError as error:
        found = error.errors()
    else:
        return []
    if not any(each["type"] == "extra_forbidden" for each in found):
        return []
    schema = adapter.json_schema()
    for each in found:
        if each["type"] == "extra_forbidden":
            *path, name = each["loc"]
            each.update(describe_unknown(str(name), known_fields(schema, path)))  # type: ignore[typeddict-item]
    return found


def describe_unknown(name: str, known: Collection[str]) -> dict[str, Any]:
    """Return the ``type`` and ``ctx`` of an error that names the nearest known field, or all of them."""
    if near := get_close_matches(name.lower(), known, 1, 0.6):
        return {"type": "unknown_field_near", "ctx": {"nearest": near[0]}}
    return {"type": "unknown_field", "ctx": {"known": ", ".join(sorted(known)) or "-"}}


def known_fields(schema: Mapping[str, Any], path: Sequence[int | str]) -> set[str]:
    """Return the names of the fields of the objects at ``path``, a Pydantic location, in a JSON schema."""
    here = list(_alternatives(schema, schema))
    for part in path:
        below: list[Mapping[str, Any]] = []
        for each in here:
            inner = each.get("properties", {}).get(part)
            if inner is None and isinstance(part, int):
                inner = each.get("items")
            if inner is None and isinstance(extra := each.get("additionalProperties"), dict):
                inner = extra
            if inner is not None:
                below += _alternatives(inner, schema)
        here = below or here  # the part may be the name of one alternative of a union
    return {name for each in here for name in each.get("properties", {})}


def _alternatives(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the object and list schemas that a schema stands for."""
    if "$ref" in schema:
        yield from _alternatives(root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    elif unions := [*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())]:
        for each in unions:
            yield from _alternatives(each, root)
    else:
        yield schema
