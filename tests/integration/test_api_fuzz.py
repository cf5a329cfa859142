"""Every route of the OpenAPI document under odd values: no request is answered with an internal error.

``HENGDAN_FUZZ`` sets how many requests each operation is sent.
"""

import asyncio
import json
import os
import random
from typing import Any
from urllib.parse import quote

import httpx

from models.api_keys import Scope
from tests.api import bearer
from tests.integration.test_webhook_fuzz import ODDITIES

REQUESTS = int(os.environ.get("HENGDAN_FUZZ", "10"))
TEXTS = [
    "\0", "a\0b", "%", "%00", "\ud7ff\ue000", "0", "-1", "00", "1e999", "NaN", "١", str(2**31), str(2**63), str(10**40),
    "x" * 3000, "..", "{}", "[]", "null", "0001-01-01T00:00:00-23:59", "9999-12-31T23:59:59-12:00", "2026-13-45",
    "order:own:web:1", "own:web", "A001", "SH", "' OR 1=1 --", "𠮷", "\u202e",
]  # fmt: skip


def resolved(schema: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        node: Any = document
        for part in schema["$ref"].removeprefix("#/").split("/"):
            node = node[part]
        schema = node
    return schema


def a_value(schema: dict[str, Any], document: dict[str, Any], chance: random.Random, depth: int = 0) -> Any:
    """Return a value of roughly the schema's shape, with an odd value here and there."""
    if chance.random() < 0.15 or depth > 6:
        return chance.choice(ODDITIES)
    schema = resolved(schema, document)
    for union in ("anyOf", "oneOf", "allOf"):
        if union in schema:
            return a_value(chance.choice(schema[union]), document, chance, depth + 1)
    if "enum" in schema or "const" in schema:
        return chance.choice(schema.get("enum") or [schema["const"]])
    match schema.get("type"):
        case "object":
            required = set(schema.get("required", ()))
            named = {
                name: a_value(each, document, chance, depth + 1)
                for name, each in schema.get("properties", {}).items()
                if name in required or chance.random() < 0.5
            }
            return named or {"x": chance.choice(ODDITIES)}
        case "array":
            return [
                a_value(schema.get("items", {}), document, chance, depth + 1) for _ in range(chance.choice((0, 1, 2)))
            ]
        case "integer" | "number":
            return chance.choice((0, 1, 2, -1, 2**31, 2**63, 10**30, 0.5))
        case "boolean":
            return chance.choice((True, False))
    return chance.choice([*TEXTS, "A001", "SH", "2026-11-20", "2026-11-20T12:00:00Z"])


def a_request(
    path: str, verb: str, operation: dict[str, Any], document: dict[str, Any], chance: random.Random
) -> dict[str, Any]:
    """Return the arguments of a request to an operation."""
    url, query = path, {}
    for parameter in operation.get("parameters", ()):
        value = chance.choice(TEXTS)
        if parameter["in"] == "path":
            url = url.replace(f"{{{parameter['name']}}}", quote(value, safe=""))
        elif parameter["in"] == "query" and (parameter.get("required") or chance.random() < 0.6):
            query[parameter["name"]] = value
    body: dict[str, Any] = {}
    content = operation.get("requestBody", {}).get("content", {})
    if "application/json" in content:
        schema = content["application/json"]["schema"]
        body["content"] = json.dumps(a_value(schema, document, chance)).encode()
    elif verb != "get":
        body["content"] = chance.choice(TEXTS).encode(errors="replace")
    return {"method": verb, "url": url, "params": query, **body}


async def test_no_request_is_answered_with_an_internal_error(api: httpx.AsyncClient) -> None:
    keys = [await bearer(scope, name=scope.value) for scope in Scope]
    document = (await api.get("/openapi.json")).json()
    chance = random.Random(20261128)
    limit = asyncio.Semaphore(8)

    async def send(request: dict[str, Any], headers: dict[str, str]) -> str | None:
        async with limit:
            answer = await api.request(headers=headers, **request)
        return f"{answer.status_code} {request}"[:600] if answer.status_code == 500 else None

    sent = [
        send(a_request(path, verb, operation, document, chance), {"Content-Type": "application/json"} | key)
        for path, verbs in document["paths"].items()
        for verb, operation in verbs.items()
        for key in chance.choices(keys, k=REQUESTS)
    ]
    assert len(sent) > 1000
    assert [fault for fault in await asyncio.gather(*sent) if fault] == []
