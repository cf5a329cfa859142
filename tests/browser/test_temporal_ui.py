"""What an operator sees in the Temporal UI, in a real browser: everything with a key, nothing without."""

import asyncio
import os
import re
import shutil
from pathlib import Path

import httpx
import pytest
from playwright.async_api import Page, async_playwright

from activities.kit.database import dispose, transaction
from models.api_keys import Scope
from models.intake import IntegrationType
from models.search_attributes import SEARCH_ATTRIBUTES
from models.settings import settings
from starter.sandbox import merchant
from starter.up import Stack
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


async def _all_text(page: Page) -> str:
    await page.wait_for_timeout(3000)
    return "\n".join([await frame.inner_text("body") for frame in page.frames])


@pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: apt-get install chromium")
@pytest.mark.timeout(300)
async def test_the_banner_of_up_leads_to_orders_in_clear_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [each for each in os.environ if each.startswith(("HENGDAN_", "TEMPORAL_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HENGDAN_API_PORT", "0")
    settings.cache_clear()
    stack = Stack(tmp_path / "stack")
    await asyncio.to_thread(stack.__enter__)
    try:
        async with transaction() as connection:
            await merchant.seed(connection)
        await open_account(IntegrationType.CHANNEL, "own", "web", secret=SECRET)
        async with httpx.AsyncClient(base_url=stack.api_url) as door, async_playwright() as browsers:
            order_id = await _order_waiting_for_review(door, {"Authorization": f"Bearer {stack.new_key}"})
            login, orders = re.findall(r"http://[^ ,;]+", next(line for line in stack.banner() if "/codec/" in line))
            browser = await browsers.chromium.launch(executable_path=CHROMIUM, args=QUIET)
            page = await browser.new_page(viewport={"width": 1400, "height": 1000})

            await page.goto(orders)
            await page.get_by_role("link", name=order_id).first.click()
            await page.get_by_text("User Metadata").first.click()
            sealed = await _all_text(page)
            assert f"log in at {login}" in sealed, sealed
            assert "In review" not in sealed

            await page.goto(login)
            await page.fill("input[name=key]", stack.new_key or "")
            await page.click("button")
            await page.get_by_role("link").first.click()
            await page.get_by_role("link", name=order_id).first.wait_for(timeout=60_000)
            await page.screenshot(path=tmp_path / "list.png")
            listed = await _all_text(page)
            assert "notifications" not in listed, "the list opens with orders"
            await page.get_by_role("link", name=order_id).first.click()
            await page.get_by_text("User Metadata").first.click()
            for _ in range(20):  # the details are in a frame of their own
                shown = await _all_text(page)
                if "Deadline" in shown:
                    break
            await page.screenshot(path=tmp_path / "order.png")
            await browser.close()
    finally:
        await dispose()
        await asyncio.to_thread(stack.__exit__)
    for words in ("In review", "A remark asks to hold the order", "Deadline"):
        assert words in shown, shown
