"""Every route of our own refuses a field or query parameter that it does not know, and names the nearest one."""

from collections.abc import Iterator
from typing import Any

import httpx

from models.api_keys import Scope
from starter.api import FOREIGN, create_app
from tests.api import bearer
from tests.integration.test_api_fuzz import resolved

ODD = "no_such_field"


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    foreign = {each.path for router in FOREIGN for each in router.router.routes}
    for path, verbs in create_app().openapi()["paths"].items():
        if path not in foreign:
            for verb, operation in verbs.items():
                yield verb.upper(), path.replace("{", "").replace("}", ""), operation


def misspelt(schema: dict[str, Any], document: dict[str, Any], depth: int = 0) -> Iterator[Any]:
    """Yield values of roughly the schema's shape, each with an unknown field in one of its objects."""
    schema = resolved(schema, document)
    if depth > 8:
        return
    for union in ("anyOf", "oneOf", "allOf"):
        for each in schema.get(union, ()):
            yield from misspelt(each, document, depth + 1)
    fields = schema.get("properties", {})
    if fields:
        tags = {name: each["const"] for name, each in fields.items() if "const" in each}
        yield tags | {ODD: 1}
        for name, each in fields.items():
            yield from (tags | {name: value} for value in misspelt(each, document, depth + 1))
    if isinstance(extra := schema.get("additionalProperties"), dict):
        yield from ({"x": value} for value in misspelt(extra, document, depth + 1))
    if "items" in schema:
        yield from ([value] for value in misspelt(schema["items"], document, depth + 1))


def names(answer: httpx.Response) -> list[str]:
    return [each["field"].rpartition(".")[2] for each in answer.json().get("errors", ())]


async def test_every_object_of_every_body_refuses_an_unknown_field(api: httpx.AsyncClient) -> None:
    everything = await bearer(*Scope)
    document = create_app().openapi()
    sent = 0
    for verb, path, operation in operations():
        content = operation.get("requestBody", {}).get("content", {})
        if "application/json" in content:
            for body in misspelt(content["application/json"]["schema"], document):
                answer = await api.request(verb, path, json=body, headers=everything)
                assert (answer.status_code, ODD in names(answer)) == (422, True), (verb, path, body, answer.text)
                sent += 1
    assert sent > 60


async def test_every_route_refuses_an_unknown_query_parameter(api: httpx.AsyncClient) -> None:
    everything = await bearer(*Scope)
    for verb, path, _ in operations():
        answer = await api.request(verb, path, params={ODD: "1"}, headers=everything)
        assert (answer.status_code, names(answer)) == (422, [ODD]), (verb, path, answer.text)


async def test_nobody_without_a_key_learns_the_fields_of_a_route(api: httpx.AsyncClient) -> None:
    for verb, path, _ in operations():
        assert (await api.request(verb, path, params={ODD: "1"})).status_code == 401, (verb, path)


async def test_the_nearest_known_field_is_named(api: httpx.AsyncClient) -> None:
    staff = await bearer(Scope.STAFF)
    for verb, path, body, field, nearest in (
        ("POST", "/orders/1/cancel", {"resaon": "x"}, "resaon", "reason"),
        ("POST", "/orders/1/modify", {"recipient": {"fone": "13800138000"}}, "recipient.fone", "phone"),
        ("POST", "/stock/adjust", {"Reason": "x"}, "Reason", "reason"),
        ("PUT", "/carriers/weights", {"web": {"lat": 1}}, "web.lat", "late"),
        ("GET", "/orders?stauts=shipped", None, "stauts", "status"),
    ):
        for lang in ("en", "zh-CN"):
            answer = await api.request(verb, path, json=body, headers=staff | {"accept-language": lang})
            messages = {each["field"]: each["message"] for each in answer.json()["errors"]}
            assert nearest in messages[field]


async def test_a_phone_that_nobody_could_dial_is_refused_at_every_door(api: httpx.AsyncClient) -> None:
    staff = await bearer(Scope.STAFF, Scope.SEARCH)
    for phone in ("abc", "12", "1380013800a", "138 call me", "9" * 21, "１２"):
        for path, body in (
            ("/orders/1/modify", {"recipient": {"phone": phone}}),
            ("/review/blacklist", {"kind": "phone", "value": phone}),
            ("/notifications/opt-outs", {"address": f"{phone}  "}),
        ):
            assert (await api.post(path, json=body, headers=staff)).status_code == 422, (path, phone)
        assert (await api.get("/orders", params={"phone": phone}, headers=staff)).status_code == 422


async def test_a_phone_in_any_spelling_passes(api: httpx.AsyncClient) -> None:
    staff = await bearer(Scope.STAFF)
    for phone in (
        "13800138000",
        "+86 138-0013-8000",
        "（0755）12345678转1234",
        "13800138000[7788]",
        "+1 (415) 555-2671 ext. 2",
    ):
        answer = await api.post("/notifications/opt-outs", json={"address": phone}, headers=staff)
        assert answer.status_code == 204, phone
