"""Orders are found by what people have in hand, named shortly, and their contact data is revealed on record only."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest
from sqlalchemy import insert, text
from structlog.testing import capture_logs

from activities.kit.database import transaction
from activities.orders.steps import order_row
from models.api_keys import Scope
from models.fulfillment import FulfillmentRow
from models.order import OrderRow, OrderStatus
from tests.api import bearer
from tests.integration.test_api_webhooks import problem
from tests.unit.orders import an_order, line

NOW = datetime(2026, 11, 11, tzinfo=UTC)


async def record(number: str, *, sku: str = "A001", shop: str = "web", **parcel: Any) -> str:
    """Insert an order with one fulfillment order; return its id."""
    order = an_order(number, line(1, sku)).model_copy(update={"shop": shop, "buyer": f"buyer-of-{number}"})
    async with transaction() as connection:
        await connection.execute(insert(OrderRow).values(order_row(order, NOW)))
        values = {"warehouse": "SH", "status": "open", "request_status": "accepted", "lines": [], "carrier": "sf"}
        values |= {"id": f"{order.order_id}:F1", "order_id": order.order_id, "channel_notified": False} | parcel
        await connection.execute(insert(FulfillmentRow).values(updated_at=NOW, **values))
    return order.order_id


async def test_orders_are_found_by_whatever_people_have(api: httpx.AsyncClient, database: str) -> None:
    first = await record("N1", waybill_no="SF100", warehouse="GZ")
    second = await record("N2", sku="B007", waybill_no="ZT200", carrier="zto")
    await record("N3", waybill_no="SF300", status="cancelled", warehouse="BJ")
    staff = await bearer(Scope.STAFF, Scope.SEARCH)
    cases = {
        "waybill=SF100": [first],
        "sku=B007": [second],
        "warehouse=GZ": [first],
        "carrier=zto": [second],
        "warehouse=GZ&carrier=zto": [],
        "warehouse=BJ": [],
        "order_no=N1": [first],
        "buyer=buyer-of-N2": [second],
        "buyer=buyer-of-N2&channel=own": [second],
        "buyer=buyer-of-N2&channel=taobao": [],
    }
    for query, expected in cases.items():
        found = (await api.get(f"/orders?{query}", headers=staff)).json()["items"]
        assert [each["id"] for each in found] == expected, query
    refused = await api.get("/orders?buyer=x", headers=await bearer(Scope.STAFF, name="unsearching"))
    assert "search" in problem(refused, 403)["detail"]


@pytest.mark.parametrize("status", OrderStatus)
async def test_statuses_are_accepted_as_they_are_read(api: httpx.AsyncClient, database: str, status: str) -> None:
    from models.i18n import t

    reader = await bearer(Scope.READ)
    for name in (status, t(f"status.{status}", "en"), t(f"status.{status}", "zh-CN")):
        assert (await api.get("/orders", params={"status": name}, headers=reader)).status_code == 200, name
    assert (await api.get("/orders", params={"hold": "未知商品"}, headers=reader)).status_code == 200
    assert problem(await api.get("/orders", params={"status": "发了吗"}, headers=reader), 422)


async def test_an_order_is_named_by_number_or_waybill_on_every_route(api: httpx.AsyncClient, database: str) -> None:
    order = await record("S1", waybill_no="SF900")
    for shop in ("web", "app"):
        await record("TWICE", shop=shop)
    staff = await bearer(Scope.STAFF, Scope.REVEAL, name="mei")
    for name in (order, "S1", "SF900"):
        assert (await api.get(f"/orders/{name}", headers=staff)).json()["id"] == order
        assert (await api.get(f"/orders/{name}/origin", headers=staff)).json()["order_id"] == order
        answer = await api.post(f"/orders/{name}/reveal", headers=staff, json={"reason": "call"})
        assert answer.json()["order_id"] == order
    assert problem(await api.get("/orders/NONE", headers=staff), 404)
    assert "order:own:app:TWICE" in problem(await api.get("/orders/TWICE", headers=staff), 409)["detail"]
    assert problem(await api.post("/orders/TWICE/note", headers=staff, json={"text": "x"}), 409)


async def test_contact_data_is_revealed_under_its_own_scope_and_on_record(
    api: httpx.AsyncClient, database: str
) -> None:
    order = await record("R1")
    for scopes in ((Scope.STAFF,), (Scope.READ, Scope.SEARCH)):
        refused = await api.post(f"/orders/{order}/reveal", headers=await bearer(*scopes), json={"reason": "x"})
        assert "reveal" in problem(refused, 403)["detail"]
    mei = await bearer(Scope.STAFF, Scope.REVEAL, name="mei")
    assert problem(await api.post(f"/orders/{order}/reveal", headers=mei, json={}), 422)
    with capture_logs() as events:
        revealed = (await api.post(f"/orders/{order}/reveal", headers=mei, json={"reason": "buyer calls"})).json()
    contact = an_order("R1").recipient
    assert (revealed["recipient"]["phone"], revealed["recipient"]["street"]) == (contact.phone, contact.street)
    assert {each["actor"] for each in events if each["event"] == "contact.revealed"} == {"mei"}
    assert contact.phone not in str(events)
    shown = (await api.get(f"/orders/{order}", headers=mei)).json()
    (entry,) = (each for each in shown["timeline"] if each["what"] == "timeline.revealed")
    assert (entry["actor"], entry["text"]) == ("mei", "Contact data read in clear: buyer calls")
    assert contact.phone not in str(shown)


PLANS = {
    "number": "SELECT id FROM orders WHERE channel_order_no = 'X7'",
    "waybill": "SELECT order_id FROM fulfillments WHERE waybill_no = 'X7'",
    "sku": "SELECT id FROM orders WHERE skus @> ARRAY['RARE']::varchar[] ORDER BY placed_at DESC, id DESC LIMIT 50",
    "all": "SELECT id FROM orders ORDER BY placed_at DESC, id DESC LIMIT 50",
    "carrier": "SELECT id FROM orders WHERE id IN (SELECT order_id FROM fulfillments WHERE carrier = 'rare')"
    " ORDER BY placed_at DESC, id DESC LIMIT 50",
    "warehouse": "SELECT id FROM orders WHERE id IN (SELECT order_id FROM fulfillments WHERE warehouse = 'rare')"
    " ORDER BY placed_at DESC, id DESC LIMIT 50",
}


async def test_searches_read_no_table_as_a_whole(database: str) -> None:
    template = order_row(an_order("P", line(1, "A001")), NOW)
    async with transaction() as connection:
        rows = [
            template
            | {"id": f"o{n}", "channel_order_no": f"X{n}", "placed_at": NOW + timedelta(seconds=n), "total": Decimal(n)}
            for n in range(4000)
        ]
        await connection.execute(insert(OrderRow), rows)
        await connection.execute(
            text(
                "INSERT INTO fulfillments (id, order_id, warehouse, status, request_status, lines, carrier, waybill_no,"
                " updated_at, channel_notified) SELECT id || '-F1', id, 'SH', 'open', 'accepted', '[]', 'sf',"
                " channel_order_no, now(), false FROM orders"
            )
        )
        await connection.execute(text("ANALYZE orders, fulfillments"))
        for name, query in PLANS.items():
            plan = "\n".join(await connection.scalars(text(f"EXPLAIN {query}")))
            assert "Seq Scan" not in plan, (name, plan)
