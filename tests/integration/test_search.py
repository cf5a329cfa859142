"""Search on encrypted fields: its own scope, limited for each key, and logged."""

import httpx
import structlog

from models.api_keys import Scope
from starter.api import create_app
from starter.api.authentication import SEARCHES_PER_MINUTE
from tests.api import PHONE, bearer
from tests.integration.test_api_webhooks import problem


async def test_search_by_phone_needs_its_own_scope_is_limited_and_logged(database: str) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(create_app()), base_url="http://test") as api:
        for scopes in ((Scope.READ,), (Scope.STAFF, Scope.WAREHOUSE)):
            refused = await api.get("/orders", headers=await bearer(*scopes), params={"phone": PHONE})
            assert "search" in problem(refused, 403)["detail"]
        searcher, other = await bearer(Scope.STAFF, Scope.SEARCH, name="eve"), await bearer(Scope.READ, Scope.SEARCH)
        with structlog.testing.capture_logs() as events:
            for n in range(SEARCHES_PER_MINUTE):
                answer = await api.get("/orders", headers=searcher, params={"phone": f"+86138{n:08}"})
                assert answer.status_code == 200
            limited = await api.get("/orders", headers=searcher, params={"phone": PHONE})
        assert (problem(limited, 429)["status"], limited.headers["retry-after"]) == (429, "60")
        assert [each["actor"] for each in events if each["event"] == "orders.searched"] == ["eve"] * SEARCHES_PER_MINUTE
        assert PHONE not in str(events)
        assert (await api.get("/orders", headers=searcher)).status_code == 200
        assert (await api.get("/orders", headers=other, params={"phone": PHONE})).status_code == 200
