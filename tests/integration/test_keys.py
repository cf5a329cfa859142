"""API keys are created, listed, rotated and revoked; nobody grants scopes that they lack."""

import httpx
import pytest

from models.api_keys import Scope
from tests.api import bearer


async def test_a_key_is_created_rotated_and_revoked(api: httpx.AsyncClient) -> None:
    api.headers.update(await bearer(*Scope, name="chief"))
    made = await api.post("/keys", json={"name": "till", "scopes": ["staff", "read"]})
    first = {"Authorization": f"Bearer {made.json()['key']}"}
    assert (made.status_code, (await api.get("/orders", headers=first)).status_code) == (201, 200)
    again = await api.post("/keys", json={"name": "till", "scopes": ["read"]})
    assert (again.status_code, "keys rotate till" in again.json()["detail"]) == (409, True)
    rotated = await api.post("/keys/till/rotate")
    assert rotated.json()["scopes"] == ["read", "staff"]
    second = {"Authorization": f"Bearer {rotated.json()['key']}"}
    assert (await api.get("/orders", headers=second)).status_code == 200
    assert (await api.delete("/keys/till")).status_code == 204
    assert (await api.get("/orders", headers=second)).status_code == 401
    assert [(await api.delete("/keys/till")).status_code, (await api.post("/keys/till/rotate")).status_code] == [
        404,
        404,
    ]
    listed = await api.get("/keys")
    assert {each["name"]: bool(each["revoked_at"]) for each in listed.json()}["till"]
    assert "hd_" not in listed.text


@pytest.mark.parametrize("scope", sorted(set(Scope) - {Scope.STAFF, Scope.READ}))
async def test_nobody_grants_or_manages_what_they_lack(api: httpx.AsyncClient, scope: Scope) -> None:
    await bearer(scope, name="other")
    api.headers.update(await bearer(Scope.STAFF, name="mei"))
    answers = [
        await api.post("/keys", json={"name": "new", "scopes": ["staff", scope]}),
        await api.post("/keys/other/rotate"),
        await api.delete("/keys/other"),
    ]
    assert [each.status_code for each in answers] == [403, 403, 403]
