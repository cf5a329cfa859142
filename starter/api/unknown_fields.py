"""Unknown fields of bodies and unknown query parameters are refused at every route of our own."""

from functools import lru_cache
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import TypeAdapter

from activities.kit.strict import describe_unknown, unknown_fields
from starter.api.authentication import key_checks


async def refuse_unknown_fields(request: Request) -> None:
    """Raise ``RequestValidationError`` where a request has a field or a query parameter that its route does not know.

    The key is checked first: who has none learns nothing of the route.
    """
    route = request.scope["route"]
    if not isinstance(route, APIRoute):
        return
    for check in key_checks(route):
        await check(request)
    known = _query_parameters(route)
    errors: list[Any] = [
        {"loc": ("query", name), "msg": "", "input": None, **describe_unknown(name, known)}
        for name in request.query_params
        if name not in known
    ]
    if route.body_field is not None and _is_json(request) and await request.body():
        annotation: Any = route.body_field.field_info.annotation
        for each in unknown_fields(_adapter(annotation), await request.json()):
            errors.append(each | {"loc": ("body", *each["loc"])})
    if errors:
        raise RequestValidationError(errors)


def _query_parameters(route: APIRoute) -> set[str]:
    dependants = (route.dependant, *route.dependant.dependencies)
    return {parameter.alias for each in dependants for parameter in each.query_params}


def _is_json(request: Request) -> bool:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return media_type == "application/json" or media_type.endswith("+json")


@lru_cache(200)
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    return TypeAdapter(annotation)
