"""Failed messages are found by shop and field, corrected, retried and discarded; none is lost."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select
from structlog.testing import capture_logs
from temporalio.client import Client

from activities.accounts.api_keys import create_key
from activities.kit.database import transaction
from models.api_keys import Scope
from models.exceptions import ExceptionRow
from models.intake import InboxState, IntegrationType
from models.settings import settings
from tests.api import SECRET, bearer, open_account, rows, sale, tell, until
from tests.commands import Commands

NUMBER = {"order_no": "much too"}
BODY = b"[]"


@pytest.fixture
async def staff(api: httpx.AsyncClient) -> dict[str, str]:
    await open_account(IntegrationType.CHANNEL, "own", "second", secret=SECRET)
    return await bearer(Scope.STAFF, name="mei")


async def fail(api: httpx.AsyncClient, *messages: tuple[str, dict[str, Any] | bytes]) -> list[int]:
    """Send messages that fail; return their ids."""
    before = len(await rows())
    for shop, wrong in messages:
        message = wrong if isinstance(wrong, bytes) else sale() | wrong
        assert (await tell(api, message, shop=shop)).status_code == 202

    async def all_failed() -> list[Any]:
        found = (await rows())[before:]
        return found if [row.state for row in found] == [InboxState.FAILED] * len(messages) else []

    return [row.id for row in await until(all_failed)]


async def failed_by_shop() -> dict[str, int]:
    """Return the numbers of failed messages in open exceptions, by shop."""
    query = select(ExceptionRow).where(ExceptionRow.kind == "intake_failed", ExceptionRow.closed_at.is_(None))  # type: ignore[arg-type, union-attr]
    async with transaction() as connection:
        return {row.shop: row.detail["count"] for row in await connection.execute(query)}


async def test_failed_messages_of_a_shop_and_field_are_retried(api: httpx.AsyncClient, staff: dict[str, str]) -> None:
    here, there, also = await fail(api, ("web", NUMBER), ("second", NUMBER), ("web", BODY))

    async def listed_ids(**which: str) -> list[int]:
        return [each["id"] for each in (await api.get("/intake/failed", params=which, headers=staff)).json()]

    assert await listed_ids(shop="web") == [here, also]
    assert await listed_ids(field="order_no") == [here, there]
    assert await listed_ids(channel="own", shop="second", field="body") == []
    assert await listed_ids(since="2200-01-01T00:00:00Z") == []
    counted = (await api.get("/intake/failed/reasons", headers=staff)).json()
    assert {(each["account"], each["field"]): each["count"] for each in counted} == {
        ("web", "order_no"): 1, ("second", "order_no"): 1, ("web", "body"): 1,
    }  # fmt: skip
    retried = await api.post("/intake/retry", params={"shop": "web", "field": "order_no"}, headers=staff)
    assert retried.json() == {"retried": 1}

    async def retried() -> bool:
        return [row.attempts for row in await rows()] == [2, 1, 1]

    await until(retried)


async def test_correction_records_the_previous_body_and_its_actor(
    api: httpx.AsyncClient, staff: dict[str, str], temporal: Client
) -> None:
    (message,) = await fail(api, ("web", NUMBER))
    path = f"/intake/{message}"
    came = (await api.get(f"{path}/raw", headers=staff)).json()["body"]
    worse = came.replace('"much too"', '"more too"')
    assert (await api.post(f"{path}/retry?reason=typo", content=worse.encode(), headers=staff)).status_code == 200
    await until(lambda: rows(state=InboxState.FAILED, attempts=2))
    right = came.replace('"much too"', '"W7601"')
    assert (await api.post(f"{path}/retry", content=right.encode(), headers=staff)).status_code == 200
    (row,) = await until(lambda: rows(state=InboxState.STARTED))
    assert row.order_id
    shown = (await api.get(f"{path}/raw", headers=staff)).json()
    assert (shown["body"], shown["state"], shown["order_id"]) == (right, "started", row.order_id)
    assert [(each["what"], each["actor"], each["reason"], each["body"]) for each in shown["handled"]] == [
        ("corrected", "mei", "typo", came),
        ("corrected", "mei", "", worse),
    ]


async def test_one_exception_per_shop_is_open_while_messages_fail(
    api: httpx.AsyncClient, staff: dict[str, str]
) -> None:
    one, two, other = await fail(api, ("web", NUMBER), ("web", NUMBER), ("second", NUMBER))
    assert await failed_by_shop() == {"own:web": 2, "own:second": 1}
    discard = {"reason": "a test of theirs"}
    assert (await api.post(f"/intake/{one}/discard", json=discard, headers=staff)).status_code == 200
    assert (await api.post(f"/intake/{other}/discard", json=discard, headers=staff)).status_code == 200
    assert await failed_by_shop() == {"own:web": 1}
    assert (await api.post(f"/intake/{two}/discard", json=discard, headers=staff)).status_code == 200
    assert await failed_by_shop() == {}
    await fail(api, ("web", NUMBER))
    assert await failed_by_shop() == {"own:web": 1}


async def test_discarded_message_is_kept_and_can_be_retried(api: httpx.AsyncClient, staff: dict[str, str]) -> None:
    (message,) = await fail(api, ("web", NUMBER))
    path = f"/intake/{message}"
    assert (await api.post(f"{path}/discard", json={}, headers=staff)).status_code == 422
    assert (await api.post(f"{path}/discard", json={"reason": "spam"}, headers=staff)).status_code == 200
    assert (await api.post(f"{path}/discard", json={"reason": "spam"}, headers=staff)).status_code == 404
    assert (await api.post("/intake/retry", headers=staff)).json() == {"retried": 0}
    shown = (await api.get(f"{path}/raw", headers=staff)).json()
    assert (shown["state"], shown["field"], shown["handled"][0]["reason"]) == ("discarded", "order_no", "spam")
    assert (await api.post(f"{path}/retry", headers=staff)).status_code == 200
    await until(lambda: rows(state=InboxState.FAILED, attempts=2))


@pytest.fixture
async def hengdan(
    api: httpx.AsyncClient,
    staff: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Commands]:
    monkeypatch.setenv("HENGDAN_API_URL", str(api.base_url))
    monkeypatch.setenv("HENGDAN_API_KEY", await create_key("mei", [Scope.STAFF]))
    settings.cache_clear()
    with capture_logs():
        yield Commands(capsys)


async def test_message_is_edited_in_the_editor(
    hengdan: Commands, api: httpx.AsyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = await fail(api, ("web", NUMBER), ("web", NUMBER), ("second", BODY))
    monkeypatch.setenv("VISUAL", "true")
    assert "change" in await hengdan.refused("intake", "edit", str(first))
    monkeypatch.setenv("VISUAL", "no-such-editor")
    assert "no-such-editor" in await hengdan.refused("intake", "edit", str(first))
    monkeypatch.setenv("VISUAL", """sed -i 's/"much too"/"W78"/'""")
    assert "1 " in await hengdan.ok("intake", "edit", str(first), "--reason", "typo")
    await until(lambda: rows(state=InboxState.STARTED, id=first))
    corrected = tmp_path / "body.json"
    original = json.loads(await hengdan.ok("intake", "failed", str(second)))
    corrected.write_text(json.dumps(original | {"order_no": "W79"}))
    assert "1 " in await hengdan.ok("intake", "edit", str(second), "--body", str(corrected))
    await until(lambda: rows(state=InboxState.STARTED, id=second))
    reasons = await hengdan.ok("intake", "failed", "--reasons", "--channel", "own")
    assert "own/second" in reasons
    assert "own/web" not in reasons
    assert "0 " in await hengdan.ok("intake", "retry", "--all", "--shop", "web")
    assert "--all" in await hengdan.refused("intake", "retry", str(third), "--shop", "second")
    assert str(third) in await hengdan.ok("intake", "discard", str(third), "--reason", "a test")
    assert "Nothing" in await hengdan.ok("intake", "failed", "--lang", "en")
