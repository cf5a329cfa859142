"""Orders shipped by a Qimen warehouse, its twin: from admission to the doorstep, and what it may report."""

import json
from pathlib import Path
from typing import Any

import pytest

from activities.kit.database import transaction
from activities.stock import ledger
from starter.sandbox import qimen as twin
from tests.api import until
from tests.integration.shelves import Merchant


class Warehouse:
    """The Qimen warehouse ``SZ``."""

    def __init__(self, merchant: Merchant) -> None:
        self.merchant = merchant

    async def configure(self, **config: Any) -> None:
        body = {"api_url": str(self.merchant.api.base_url).rstrip("/"), **config}
        assert (await self.merchant.twins.post("/qimen/_control/config", json=body)).is_success

    async def created(self, number: str) -> dict[str, Any]:
        """Wait until the warehouse has the order."""
        found: list[dict[str, Any]] = []

        async def look() -> bool:
            jobs = (await self.merchant.twins.get("/qimen/_control/orders")).json()
            found[:] = [each for each in jobs if f":{number}:" in each["code"]]
            return bool(found)

        await until(look)
        return found[0]

    async def ship(self, code: str, **more: Any) -> str:
        response = await self.merchant.twins.post("/qimen/_control/ship", json={"code": code, **more})
        assert response.is_success, response.text
        return str(response.json()["answer"])

    async def report(self, method: str, xml: str, **more: str) -> tuple[int, str]:
        body = {"warehouse": "SZ", "method": method, "xml": xml, **more}
        answer = (await self.merchant.twins.post("/qimen/_control/report", json=body)).json()
        return answer["status"], answer["answer"]

    async def level(self, sku: str) -> tuple[int, int]:
        async with transaction() as connection:
            level = next(each for each in await ledger.levels(connection, [sku]) if each.warehouse == "SZ")
            assert await ledger.verify(connection) == []
        return level.on_hand, level.unavailable


@pytest.fixture
async def warehouse(shelves: Merchant, tmp_path: Path) -> Warehouse:
    account = tmp_path / "account.json"
    url = f"{str(shelves.twins.base_url).rstrip('/')}/qimen/service"
    account.write_text(json.dumps({"base_url": url, "secrets": twin.SECRETS, "settings": twin.SETTINGS}))
    await shelves.hengdan.ok("accounts", "set", "warehouse", "qimen", "SZ", str(account))
    ready = json.loads(await shelves.hengdan.ok("locations", "set", "SZ", "--system", "qimen", "--json"))
    assert (ready["system"], ready["obstacles"]) == ("qimen", [])
    return Warehouse(shelves)


async def test_order_is_shipped_by_the_warehouse_and_delivered(warehouse: Warehouse) -> None:
    await warehouse.configure(delay=0.2)
    number = await warehouse.merchant.place(("A001", 2), ("A002", 1))
    await warehouse.merchant.until_status(number, "delivered", "completed")
    job = await warehouse.created(number)
    parcel = await warehouse.merchant.parcel(number)
    assert (job["calls"], job["waybill_no"], job["items"]) == (1, parcel.waybill_no, {"A001": 2, "A002": 1})
    assert str(parcel.weight_kg) == "0.500"
    assert await warehouse.level("A001") == (48, 0)


async def test_cancelled_order_is_recalled_and_cannot_ship(warehouse: Warehouse) -> None:
    await warehouse.configure(auto=False)
    number = await warehouse.merchant.place(("A001", 1))
    code = (await warehouse.created(number))["code"]
    await warehouse.merchant.hengdan.ok("orders", "cancel", number)
    await warehouse.merchant.until_status(number, "cancelled")
    assert (await warehouse.created(number))["state"] == "CANCELED"
    refused = await warehouse.merchant.twins.post("/qimen/_control/ship", json={"code": code})
    assert refused.status_code == 409


async def test_report_that_does_not_fit_is_answered_with_the_reason(warehouse: Warehouse) -> None:
    await warehouse.configure(auto=False)
    number = await warehouse.merchant.place(("A001", 1))
    code = (await warehouse.created(number))["code"]
    assert "运单号应为" in await warehouse.ship(code, waybill_no="SF0")
    assert "A001 × 1" in await warehouse.ship(code, items={"A002": 1})
    confirmation = f"<request><deliveryOrder><deliveryOrderCode>{code}</deliveryOrderCode></deliveryOrder></request>"
    status, answer = await warehouse.report("deliveryorder.confirm", confirmation, secret="someone else's")
    assert (status, "签名" in answer) == (401, True)
    unknown = "<request><deliveryOrder><deliveryOrderCode>1</deliveryOrderCode></deliveryOrder></request>"
    item = "<item><itemCode>A001</itemCode><planQty>9999999999</planQty></item>"
    lack = f"<request><deliveryOrderCode>{code}</deliveryOrderCode><items>{item}</items></request>"
    for method, xml in (("deliveryorder.confirm", unknown), ("sn.report", "<request/>"), ("itemlack.report", lack)):
        assert "<flag>failure</flag>" in (await warehouse.report(method, xml))[1]
    assert (await warehouse.merchant.parcel(number)).shipped_at is None
    assert "<flag>success</flag>" in await warehouse.ship(code)
    await warehouse.merchant.until_status(number, "shipped", "delivered", "completed")


async def test_stock_documents_are_entered_once(warehouse: Warehouse) -> None:
    await warehouse.configure(auto=False)
    entry = (
        "<request><entryOrder><entryOrderCode>E1</entryOrderCode><outBizCode>B1</outBizCode></entryOrder><orderLines>"
        "<orderLine><itemCode>A001</itemCode><actualQty>5</actualQty></orderLine><orderLine><itemCode>A001</itemCode>"
        "<inventoryType>CC</inventoryType><actualQty>2</actualQty></orderLine></orderLines></request>"
    )
    count = (
        "<request><outBizCode>C1</outBizCode><items><item><itemCode>A001</itemCode><quantity>-3</quantity></item>"
        "</items></request>"
    )
    for _ in range(2):
        assert "<flag>success</flag>" in (await warehouse.report("entryorder.confirm", entry))[1]
        assert "<flag>success</flag>" in (await warehouse.report("inventory.report", count))[1]
    assert await warehouse.level("A001") == (54, 2)
    wrong = entry.replace("A001", "NOSUCH").replace("B1", "B2")
    assert "<flag>failure</flag>" in (await warehouse.report("entryorder.confirm", wrong))[1]
    assert await warehouse.level("A001") == (54, 2)
