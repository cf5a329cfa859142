"""What an operator sees in the Temporal UI, in a real browser: everything with a key, nothing without."""

import asyncio
import shutil
from pathlib import Path

import httpx
import pytest
from playwright.async_api import Page, async_playwright

from activities.kit.database import transaction
from models.api_keys import Scope
from models.intake import IntegrationType
from models.search_attributes import SEARCH_ATTRIBUTES
from models.settings import settings
from starter.sandbox import merchant
from tests.api import SECRET, bearer, open_account, open_door, sale, tell
from workers.client import connect
from workers.embedded import start_temporal
from workers.main import worker

CHROMIUM = shutil.which("chromium")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")


async def _order_waiting_for_review(door: httpx.AsyncClient, staff: dict[str, str]) -> str:
    order = sale(buyer_message="先别发货")
    assert (await tell(door, order)).status_code == 202
    order_id = f"order:own:web:{order['order_no']}"
    for _ in range(1200):
        shown = await door.get(f"/orders/{order_id}", headers=staff)
        if shown.status_code == 200 and shown.json()["status"] == "in_review":
            return order_id
        await asyncio.sleep(0.1)
    raise AssertionError(shown.text)


async def _metadata(page: Page, ui: str, order_id: str) -> str:
    await page.goto(f"{ui}/namespaces/default/workflows/{order_id}")
    await page.get_by_text("User Metadata").first.click()
    await page.wait_for_timeout(3000)
    return "\n".join([await frame.inner_text("body") for frame in page.frames])


@pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: apt-get install chromium")
async def test_the_ui_tells_all_to_those_with_a_key_and_nothing_to_others(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await asyncio.to_thread(start_temporal, tmp_path, search_attributes=SEARCH_ATTRIBUTES, port=0, ui_port=0)
    assert server.ui_url is not None
    try:
        monkeypatch.setenv("TEMPORAL_ADDRESS", server.address)
        monkeypatch.setenv("HENGDAN_UI_ORIGINS", f'["{server.ui_url}"]')
        settings.cache_clear()
        async with transaction() as connection:
            await merchant.seed(connection)
        await open_account(IntegrationType.CHANNEL, "own", "web", secret=SECRET)
        staff = await bearer(Scope.STAFF)
        async with open_door() as door, worker(await connect()), async_playwright() as browsers:
            order_id = await _order_waiting_for_review(door, staff)
            browser = await browsers.chromium.launch(executable_path=CHROMIUM, args=QUIET)
            page = await browser.new_page(viewport={"width": 1400, "height": 1000})
            assert "In review" not in await _metadata(page, server.ui_url, order_id)

            await page.goto(f"{door.base_url}/codec/login")
            await page.fill("input[name=key]", staff["Authorization"].removeprefix("Bearer "))
            await page.click("button")
            await page.goto(f"{server.ui_url}/namespaces/default/workflows")
            await page.locator('button[aria-label*="odec"]').first.click()
            await page.get_by_text("Use my browser setting").first.click()
            await page.locator("#data-encoder-endpoint-input").first.fill(f"{door.base_url}/codec")
            await page.get_by_text("Include cross-origin credentials").first.click()
            await page.get_by_role("button", name="Apply").first.click()
            shown = await _metadata(page, server.ui_url, order_id)
            await browser.close()
    finally:
        await asyncio.to_thread(server.stop)
    hold = "A remark asks to hold the order"
    for words in ("In review", "Waiting for a person to approve or reject", hold, "Deadline"):
        assert words in shown, shown
