"""Take an order in from whatever a channel sent: a field that cannot be right is named, not the end of the order.

``decode_order`` reads a payload by the channel's own model, ``standard_order`` builds the order in standard form. Both
repair a document until its model accepts it: a field with a fault falls back on its default, or on a neutral value
where it is required. The order names every such field in ``odd`` and is held; its payload keeps what was sent. Only an
order whose number cannot be read is refused.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import AwareDatetime, BaseModel, ValidationError
from pydantic_core import ErrorDetails, from_json

from activities.kit.errors import Unintelligible, validation_message
from activities.kit.payloads import Model, readable, unintelligible
from models.base import Neutral
from models.i18n import message
from models.order import MAX_LINES, ChannelOrder

Odd = dict[str, str]
"""What is wrong with a field, as a message, by the path of the field in the channel's own names."""

_MOST_NAMED = 100
_LONGEST_PART = 200
"""The longest part of an address that carriers take."""


def decode_order(model: type[Model], body: bytes, *identity: str) -> tuple[Model, Odd]:
    """Decode a channel's order, and name what is odd about it. ``identity``: the paths of its number.

    Raises ``Unintelligible`` where the body is no JSON object, or its number cannot be read.
    """
    try:
        document = from_json(readable(body))
    except ValueError:
        raise Unintelligible("body", "validation.json_invalid") from None
    if not isinstance(document, dict):
        raise Unintelligible("body", "validation.dict_type")
    return _repaired(model, document, identity)


def standard_order(odd: Odd, **fields: Any) -> ChannelOrder:
    """Build the order in standard form from its fields; ``odd`` names what is wrong with its payload.

    Lines without quantity are dropped, repeated line numbers are made distinct, and the summed total is rounded.
    Raises ``Unintelligible`` where the order's number cannot be one.
    """
    document: dict[str, Any] = {name: _plain(value) for name, value in fields.items()}
    document["placed_at"] = min(fields["placed_at"], fields["modified_at"])
    document["total"] = _rounded(fields["total"])
    document["lines"] = _lines(document["lines"], odd)
    order, more = _repaired(ChannelOrder, document, ("channel", "shop", "channel_order_no"))
    odd = {**odd, **more}
    for part in ("name", "phone", "province", "city", "district", "town", "street", "postcode"):
        if len(getattr(order.recipient, part)) > _LONGEST_PART:
            odd.setdefault(f"recipient.{part}", message("invalid.address.too_long", most=_LONGEST_PART))
    if order.recipient.country == "ZZ":
        odd.setdefault("recipient.country", "invalid.country.missing")
    custom = dict(order.custom)
    if order.mismatch:
        custom["total_mismatch"] = str(order.mismatch)
        odd["total"] = message("invalid.total.parts", amount=order.mismatch, currency=order.currency)
    if len(odd) > _MOST_NAMED:
        rest = len(odd) - _MOST_NAMED
        odd = {**dict(list(odd.items())[:_MOST_NAMED]), "...": message("invalid.more", count=rest)}
    return order.model_copy(update={"odd": odd, "custom": custom})


def _lines(lines: Sequence[dict[str, Any]], odd: Odd) -> list[dict[str, Any]]:
    """Return the lines with a quantity, each under a number of its own."""
    seen: Counter[str] = Counter()
    kept = []
    for line in lines:
        if line["quantity"] == 0:
            continue
        number = str(line["line_no"])
        seen[number] += 1
        if (count := seen[number]) > 1:
            odd.setdefault("lines.line_no", "invalid.lines.duplicate")
            number = f"{number}#{count}"
        kept.append({**line, "line_no": number})
    if not kept:
        odd["lines"] = "invalid.lines.none"
        kept = [{"line_no": "?", "sku": "?", "quantity": 1, "unit_price": Decimal(0)}]
    if len(kept) > MAX_LINES:
        odd["lines"] = message("invalid.lines.many", count=len(kept), most=MAX_LINES)
        kept = kept[:MAX_LINES]
    return kept


def _plain(value: Any) -> Any:
    """Return models as dictionaries, without validating them."""
    if isinstance(value, BaseModel):
        return {name: _plain(each) for name, each in vars(value).items()}
    return [_plain(each) for each in value] if isinstance(value, tuple | list) else value


def _rounded(total: Decimal) -> Decimal:
    try:
        rounded = total.quantize(Decimal("0.0001"), ROUND_HALF_EVEN)
        return total if rounded == total else rounded
    except InvalidOperation:
        return total


def _repaired(model: type[Model], document: dict[str, Any], identity: Sequence[str]) -> tuple[Model, Odd]:
    """Return the document as the model, each field with a fault replaced, and the faults by path."""
    odd: Odd = {}
    tries: Counter[tuple[int | str, ...]] = Counter()
    while True:
        try:
            return model.model_validate(document), odd
        except ValidationError as error:
            handled: set[tuple[int | str, ...]] = set()
            for fault in sorted(error.errors(include_url=False, include_input=False), key=_depth, reverse=True):
                keys = _keys(document, fault)
                if keys in handled:
                    continue
                handled |= {keys[:length] for length in range(len(keys) + 1)}
                path = _path(keys)
                if not keys:
                    raise unintelligible(error) from None
                if any(_holds(path, name) for name in identity):
                    raise _unreadable(path, fault) from None
                odd.setdefault(path, validation_message(fault))
                while tries[keys] > 1 and len(keys) > 1:
                    keys = keys[:-1]
                if tries[keys] > 1:
                    raise unintelligible(error) from None
                tries[keys] += 1
                _replace(model, document, keys, retry=tries[keys] > 1)


def _depth(fault: ErrorDetails) -> int:
    return len(fault["loc"])


def _unreadable(path: str, fault: ErrorDetails) -> Unintelligible:
    error = Unintelligible(path, "validation.missing")
    error.reason = validation_message(fault)
    return error


def _keys(document: Any, fault: ErrorDetails) -> tuple[int | str, ...]:
    """Return the place of a fault in the document, without the parts that only name a type."""
    keys: list[int | str] = []
    for part in fault["loc"]:
        if isinstance(document, list) and isinstance(part, int) and part < len(document):
            document = document[part]
        elif isinstance(document, dict) and (part in document or fault["type"] == "missing"):
            document = document.get(part)
        else:
            break
        keys.append(part)
    return tuple(keys)


def _path(keys: Sequence[int | str]) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).lstrip(".")


def _holds(path: str, name: str) -> bool:
    """Whether the field at ``path`` is the one named, or contains it."""
    return name == path or name.startswith(f"{path}.")


def _replace(model: type[BaseModel], document: Any, keys: Sequence[int | str], retry: bool) -> None:
    """Replace one field: by its neutral value where it has one of its own, by its default, by one of its type."""
    container, key = document, keys[-1]
    for part in keys[:-1]:
        container = container[part]
    kind, metadata = _type_at(model, keys)
    own = next((each for each in metadata if isinstance(each, Neutral)), None)
    if own is not None:
        container[key] = own.value(keys) if callable(own.value) else own.value
    elif isinstance(container, dict) and key in container and not retry:
        del container[key]
    else:
        container[key] = _neutral(kind)


def _type_at(model: Any, keys: Sequence[int | str]) -> tuple[Any, Sequence[Any]]:
    """Return the type of a field within a model, and its metadata."""
    kind: Any = model
    metadata: Sequence[Any] = ()
    for key in keys:
        if isinstance(key, int):
            kind, metadata = next(iter(get_args(kind)), None), ()
        elif isinstance(kind, type) and issubclass(kind, BaseModel) and key in kind.model_fields:
            kind, metadata = kind.model_fields[key].annotation, kind.model_fields[key].metadata
        else:
            kind, metadata = None, ()
        while get_origin(kind) in (Annotated, Union, UnionType):
            arguments = get_args(kind)
            metadata = (*metadata, *(arguments[1:] if get_origin(kind) is Annotated else ()))
            kind = next((each for each in arguments if each is not type(None)), None)
    return kind, metadata


def _neutral(kind: Any) -> Any:
    if (origin := get_origin(kind)) in (list, tuple):
        return []
    if origin is dict or kind is None or not isinstance(kind, type):
        return {} if origin is dict else None
    if issubclass(kind, BaseModel | Mapping):
        return {}
    if issubclass(kind, datetime | AwareDatetime):
        return datetime.now(UTC).isoformat()
    return {bool: False, int: 0, str: "?", Decimal: "0"}.get(kind)
