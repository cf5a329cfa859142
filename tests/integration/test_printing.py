"""Labels come out of the door once for each asking, and each printing is known."""

import httpx
import pypdfium2
import pytest
from sqlalchemy import select, update

from activities.database import transaction
from models.access import Scope
from models.fulfillment import FulfillmentRow
from models.order import OrderRow
from models.printing import PrintRow
from tests.doors import bearer
from tests.integration.test_exceptions import a_parcel
from tests.unit.orders import RECIPIENT

pytestmark = pytest.mark.usefixtures("database")


async def parcels(*numbers: str) -> list[str]:
    made = [await a_parcel(number) for number in numbers]
    lines = [{"line_no": "1", "sku": "A001", "quantity": 2}]
    sold = [{"line_no": "1", "sku": "A001", "quantity": 2, "unit_price": "25", "title": ""}]
    async with transaction() as connection:
        await connection.execute(update(OrderRow).values(recipient=RECIPIENT, lines=sold))
        await connection.execute(update(FulfillmentRow).values(lines=lines))
    return made


def pages(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    with pypdfium2.PdfDocument(answer.content) as document:
        return [page.get_textpage().get_text_bounded() for page in document]


async def test_labels_are_one_file_and_a_reprint_says_so(door: httpx.AsyncClient) -> None:
    first, second = await parcels("1", "2")
    staff = {**await bearer(Scope.STAFF), "accept-language": "en"}
    told = pages(await door.post("/labels", json={"fulfillments": [second, first]}, headers=staff))
    assert ["SF2" in told[0], "SF1" in told[1]] == [True, True]
    assert "COLLECT 50.00" in told[0]
    assert "Print" not in told[0]
    again = pages(await door.post("/labels", json={"fulfillments": [first]}, headers=staff))
    assert "Print 2" in again[0]
    async with transaction() as connection:
        kept = list(await connection.scalars(select(PrintRow.fulfillment_id).order_by(PrintRow.id)))
    assert kept == [second, first, first]
    lists = pages(await door.post("/labels", json={"fulfillments": [first], "kind": "packing_list"}, headers=staff))
    assert "2 pieces" in lists[0]
    zpl = await door.post("/labels", json={"fulfillments": [first], "format": "zpl"}, headers=staff)
    assert zpl.text.startswith("^XA")


async def test_what_cannot_be_printed_is_named(door: httpx.AsyncClient) -> None:
    (parcel,) = await parcels("1")
    async with transaction() as connection:
        await connection.execute(update(FulfillmentRow).values(waybill_no=None))
    staff = await bearer(Scope.STAFF)
    for asked in ([parcel], [parcel, "nobody:F1"]):
        answer = await door.post("/labels", json={"fulfillments": asked}, headers=staff)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "fulfillments.0")
    refused = await door.post("/labels", json={"fulfillments": [parcel]}, headers=await bearer(Scope.READ))
    assert refused.status_code == 403
