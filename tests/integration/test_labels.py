"""Printing through the real API, engine and database: one file of many labels, reprints and masked data."""

import asyncio
import io
import re
from base64 import b64decode
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from pypdf import PdfReader
from reportlab.pdfgen.canvas import Canvas
from sqlalchemy import insert, text, update
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from structlog.testing import capture_logs
from temporalio.client import Client

from activities.accounts import accounts
from activities.accounts.api_keys import create_key
from activities.accounts.declarations import adapters
from activities.carriers import label_language
from activities.fulfillment import labels
from activities.fulfillment.labels import masked_phone
from activities.kit import http
from activities.kit.database import transaction
from models.address import Addressee, Recipient
from models.api_keys import Scope
from models.fulfillment import FulfillmentRow, FulfillmentStatus, Label
from models.i18n import t
from models.intake import AccountRow, ChannelOrderRow, IntegrationType
from models.labels import DocumentRow
from models.order import OrderRow
from models.settings import settings
from models.vault import seal_row
from starter.sandbox.merchant import seed
from tests.api import bearer, open_account
from tests.commands import Commands
from tests.serving import served
from tests.unit.orders import an_order, line
from tests.unit.test_labels import Printed
from workers.main import worker

PHONE = "13812345678"


@pytest.fixture
async def printer(api: httpx.AsyncClient, temporal: Client) -> AsyncIterator[dict[str, str]]:
    """Run a worker; yield the header of a warehouse's key."""
    async with transaction() as connection:
        await seed(connection)
    headers = await bearer(Scope.WAREHOUSE, name="packer") | {"Accept-Language": "zh-CN"}
    async with worker(temporal):
        yield headers
    await http.close()


async def create_fulfillment(number: str, *, lines: Any = (), carrier: str = "sf", **changes: Any) -> str:
    """Create a fulfillment order with its waybill; return its id."""
    paid_at = changes.pop("paid_at", datetime.now(UTC))
    label = changes.pop("label", Label(route="021W-571-003", hub="上海集散"))
    recipient = Recipient(
        name="欧阳小明",
        phone="+86" + PHONE,
        province="上海市",
        city="上海市",
        district="浦东新区",
        street=f"世纪大道{number}号（电话138-1234-5678）",
    )
    sold = an_order(
        number,
        *(lines or (line(1, "A001", 2),)),
        paid_at=paid_at,
        cash_on_delivery=paid_at is None,
        recipient=recipient,
        buyer_message="请轻放，电话13812345678",
    )
    now = datetime.now(UTC)
    order: dict[str, Any] = {
        "id": sold.order_id,
        "status": "allocated",
        "lines": [each.model_dump(mode="json") for each in sold.lines],
        "origin": sold.origin.model_dump(mode="json"),
        "holds": [],
        "custom": {},
        "recipient": sold.recipient,
        "updated_at": now,
        **sold.model_dump(include={"channel", "shop", "channel_order_no", "currency", "total", "placed_at", "paid_at"}),
    }
    fulfillment: dict[str, Any] = {
        "id": f"{sold.order_id}:F1",
        "order_id": sold.order_id,
        "warehouse": "SH",
        "status": "open",
        "request_status": "submitted",
        "lines": [{"line_no": each.line_no, "sku": each.sku, "quantity": each.quantity} for each in sold.lines],
        "carrier": carrier,
        "waybill_no": f"SF13302{number:0>8}",
        "label": label.model_dump(),
        "opened_at": now,
        "updated_at": now,
        **changes,
    }
    async with transaction() as connection:
        await connection.execute(insert(OrderRow).values(seal_row(OrderRow, order)))
        await connection.execute(insert(FulfillmentRow).values(fulfillment))
        channel_order = {"order_id": sold.order_id, "modified_at": now, "document": sold}
        await connection.execute(insert(ChannelOrderRow).values(seal_row(ChannelOrderRow, channel_order)))
    return str(fulfillment["id"])


async def finished_print(api: httpx.AsyncClient, printer: dict[str, str], **body: Any) -> dict[str, Any]:
    """Request a print and return it once it is finished."""
    answer = await api.post("/labels", json=body, headers=printer)
    assert answer.is_success, answer.text
    async with asyncio.timeout(240):
        while answer.json()["state"] == "running":
            await asyncio.sleep(0.1)
            answer = await api.get(f"/labels/{answer.json()['id']}", headers=printer)
    document: dict[str, Any] = answer.json()
    assert document["state"] == "finished"
    return document


async def file(api: httpx.AsyncClient, printer: dict[str, str], document: str) -> bytes:
    answer = await api.get(f"/labels/{document}/file", headers=printer)
    assert answer.status_code == 200, answer.text
    return answer.content


async def printed(api: httpx.AsyncClient, printer: dict[str, str], **body: Any) -> Printed:
    return Printed(await file(api, printer, (await finished_print(api, printer, **body))["id"]))


async def query(*statements: str) -> Any:
    async with transaction() as connection:
        return [tuple(row) for each in statements for row in await connection.execute(text(each))]


async def test_a_label_is_complete_with_name_and_phone_masked(api: httpx.AsyncClient, printer: dict[str, str]) -> None:
    parcel = await create_fulfillment("1001")
    document = await finished_print(api, printer, fulfillments=[parcel])
    content = await file(api, printer, document["id"])
    label = Printed(content)
    number = "SF1330200001001"
    assert label.codes() == [("Code128", number), ("QRCode", number), ("Code128", number)]
    for each in (
        "顺丰速运",
        "021W-571-003",
        "上海市浦东新区世纪大道1001号",
        "欧**",
        "138****5678",
        "恒单上海仓",
        "A001×2",
        "0.44kg",
    ):
        assert each in label.text(), each
    assert "代收" not in label.text()
    (page,) = PdfReader(io.BytesIO(content)).pages
    drawn = page.get_contents()
    assert drawn is not None
    for hidden in (PHONE, "138-1234-5678", "小明", "1234-5678"):
        assert hidden not in label.text()
        assert hidden.encode() not in content + drawn.get_data()


async def test_a_file_is_stored_encrypted_and_downloads_are_recorded(
    api: httpx.AsyncClient, printer: dict[str, str], database: str
) -> None:
    parcel = await create_fulfillment("1002")
    document = await finished_print(api, printer, fulfillments=[parcel], format="zpl")
    assert "世纪大道".encode() in await file(api, printer, document["id"])
    await file(api, printer, document["id"])
    ((kept,),) = await query("SELECT content FROM documents")
    assert "世纪大道".encode() not in bytes(kept)
    entries = await query("SELECT order_id, actor, detail FROM timeline WHERE what = 'timeline.printed'")
    assert entries == [("order:own:web:1002", "packer", {"fulfillment": "F1", "kind": "label", "number": 1})]


async def test_reprints_are_counted_by_kind_and_a_repeated_request_is_not_a_reprint(
    api: httpx.AsyncClient, printer: dict[str, str]
) -> None:
    one, other = await create_fulfillment("1003"), await create_fulfillment("1004")
    first = await printed(api, printer, fulfillments=[one], request_id="once")
    again = await printed(api, printer, fulfillments=[one], request_id="once")
    second = await printed(api, printer, fulfillments=[other, one])
    third = await printed(api, printer, fulfillments=[one])
    goods = await printed(api, printer, fulfillments=[one], kind="packing_list")
    shown = [(document, page) for document in (first, again, second, third, goods) for page in range(document.pages)]
    counted = [re.findall(r"补打(\d)(?=021W)", document.text(page)) for document, page in shown]
    assert counted == [[], [], [], ["2"], ["3"], []]
    rows = await query("SELECT number, actor FROM prints WHERE kind = 'label' ORDER BY fulfillment_id, number")
    assert rows == [(1, "packer"), (2, "packer"), (3, "packer"), (1, "packer")]


async def test_two_hundred_labels_are_one_file_in_the_requested_order(
    api: httpx.AsyncClient, printer: dict[str, str]
) -> None:
    parcels = [await create_fulfillment(str(number)) for number in range(2000, 2200)]
    answer = await api.post("/labels", json={"fulfillments": parcels[::-1]}, headers=printer)
    assert answer.status_code == 202
    seen = set()
    async with asyncio.timeout(240):
        while (progress := (await api.get(f"/labels/{answer.json()['id']}", headers=printer)).json())[
            "state"
        ] == "running":
            seen.add(progress["done"])
            await asyncio.sleep(0.05)
    assert (progress["done"], progress["total"], progress["left_out"]) == (200, 200, {})
    assert seen <= {0, 50, 100, 150, 200}
    assert len(seen) > 1
    document = Printed(await file(api, printer, progress["id"]))
    assert document.pages == 200
    assert [document.codes(page)[0][1] for page in (0, 60, 199)] == [f"SF1330200002{n:03}" for n in (199, 139, 0)]
    assert await query("SELECT part FROM documents") == [(0,)]


async def test_a_label_without_a_route_shows_the_city(api: httpx.AsyncClient, printer: dict[str, str]) -> None:
    parcel = await create_fulfillment("1009", carrier="jdl", label=Label(courier="ems"))
    text = (await printed(api, printer, fulfillments=[parcel])).text()
    assert text.startswith("EMS上海市SF13")


async def test_a_filter_selects_what_is_ready_to_print(api: httpx.AsyncClient, printer: dict[str, str]) -> None:
    ready = await create_fulfillment("1010")
    await create_fulfillment("1011", carrier="yto")
    await create_fulfillment("1012", waybill_no=None)
    await create_fulfillment("1013", status="cancelled")
    await create_fulfillment("1014", warehouse="BJ")
    chosen = await finished_print(api, printer, warehouse="SH", carrier="sf", status="open", unprinted=True)
    assert chosen["total"] == 1
    assert await query("SELECT fulfillment_id FROM prints") == [(ready,)]
    refused = await api.post("/labels", json={"warehouse": "SH", "carrier": "sf", "unprinted": True}, headers=printer)
    assert refused.status_code == 422


async def test_a_warehouse_alone_prints_what_has_not_left(api: httpx.AsyncClient, printer: dict[str, str]) -> None:
    waiting = {await create_fulfillment(f"20{number}", status=status) for number, status in enumerate(labels.WAITING)}
    gone = {
        await create_fulfillment(f"21{number}", status=status)
        for number, status in enumerate(FulfillmentStatus)
        if status not in {*labels.WAITING, FulfillmentStatus.CANCELLED}
    }
    assert (await finished_print(api, printer, warehouse="SH"))["total"] == len(waiting)
    assert {each for (each,) in await query("SELECT fulfillment_id FROM prints")} == waiting
    for again in ({"fulfillments": sorted(gone)}, {"warehouse": "SH", "status": "shipped"}):
        assert (await finished_print(api, printer, **again))["total"] >= 1


async def test_labels_are_in_the_language_of_the_carriers_couriers(
    api: httpx.AsyncClient, printer: dict[str, str]
) -> None:
    english = printer | {"Accept-Language": "en"}
    for number, carrier in enumerate(name for kind, name in adapters() if kind is IntegrationType.CARRIER):
        chinese = label_language(carrier) == "zh-CN"
        assert chinese is (carrier != "easypost")
        if carrier in {"sf", "kdniao", "easypost"}:
            parcel = await create_fulfillment(f"22{number}", carrier=carrier)
            text = (await printed(api, english, fulfillments=[parcel])).text()
            assert (t("print.stub", "zh-CN") in text) is chinese, text


async def test_a_packing_list_names_the_shop_as_buyers_know_it(api: httpx.AsyncClient, printer: dict[str, str]) -> None:
    body = {"fulfillments": [await create_fulfillment("2301")], "kind": "packing_list"}
    assert "own:" not in (await printed(api, printer, **body)).text()
    async with transaction() as connection:
        await connection.execute(update(AccountRow).values(settings={"shop_name": "山里人家"}))
    accounts.clear_cache()
    assert "山里人家" in (await printed(api, printer, **body)).text()


async def test_cash_on_delivery_is_the_amount_that_the_carrier_collects(
    api: httpx.AsyncClient, printer: dict[str, str]
) -> None:
    label = await printed(api, printer, fulfillments=[await create_fulfillment("1020", paid_at=None)])
    assert "代收货款¥100.00" in label.text()


async def test_a_packing_list_names_goods_in_both_languages(api: httpx.AsyncClient, printer: dict[str, str]) -> None:
    lines = (line(1, "A001", 2), line(2, "B003", 1), line(3, "D004", 1).model_copy(update={"gift": True}))
    parcel = await create_fulfillment("1030", lines=lines, waybill_no=None)
    listed = (await printed(api, printer, fulfillments=[parcel], kind="packing_list")).text()
    for each in (
        "装箱单",
        "1030",
        "（web）",
        "上海仓",
        "A001",
        "白色纯棉T恤",
        "WhitecottonT-shirt",
        "赠品",
        "共4件",
        "请轻放",
    ):
        assert each in listed, each
    assert PHONE not in listed
    english = printer | {"Accept-Language": "en"}
    listed = (await printed(api, english, fulfillments=[parcel], kind="packing_list", size="a4")).text()
    for each in ("Packinglist", "Shanghai", "Gift", "4pcsinall"):
        assert each in listed, each


def _carrier_label(words: str) -> bytes:
    """Return a label as a carrier draws it, on a page of its own size."""
    drawn = io.BytesIO()
    canvas = Canvas(drawn, pagesize=(288, 432))
    canvas.drawString(20, 200, words)
    canvas.save()
    return drawn.getvalue()


async def _answer(request: Request) -> Response:
    match request.path_params["name"]:
        case "label.pdf":
            return Response(_carrier_label("drawn by the carrier"))
        case "label.png":
            pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGNgYGAAAAAEAAH2FzhVAAAAAElFTkSuQmCC"
            return Response(b64decode(pixel))
        case "garbage":
            return Response(b"%PDF-1.4 or not")
        case _:
            return Response(status_code=404)


@pytest.fixture(scope="module")
def drawer() -> Iterator[str]:
    """Serve a carrier that draws its labels itself."""
    with served(Starlette(routes=[Route("/{name}", _answer)])) as url:
        yield url


async def test_a_carriers_own_label_is_included_in_the_file(
    api: httpx.AsyncClient, printer: dict[str, str], drawer: str
) -> None:
    await open_account(IntegrationType.CARRIER, "sf", "default", base_url=drawer)
    names = ("label.pdf", "label.png", "garbage", "gone")
    parcels = [
        await create_fulfillment(str(1040 + n), label=Label(url=f"{drawer}/{name}")) for n, name in enumerate(names)
    ]
    ours = await create_fulfillment("1050")
    document = await finished_print(api, printer, fulfillments=[ours, *parcels])
    assert set(document["left_out"]) == set(parcels[2:])
    assert set(document["left_out"].values()) == {"承运商未提供面单"}
    content = await file(api, printer, document["id"])
    document = Printed(content)
    assert document.pages == 3
    assert "drawnbythecarrier" in document.text(1)
    assert document.codes(2) == []
    sizes = [(round(page.mediabox.width), round(page.mediabox.height)) for page in PdfReader(io.BytesIO(content)).pages]
    assert set(sizes) == {(283, 510)}
    document = await finished_print(api, printer, fulfillments=[ours, parcels[0]], format="zpl")
    assert list(document["left_out"]) == [parcels[0]]
    assert await query(f"SELECT count(*) FROM prints WHERE fulfillment_id = '{parcels[3]}'") == [(0,)]


async def test_a_label_at_a_host_that_its_carrier_does_not_publish_is_not_fetched(
    api: httpx.AsyncClient, printer: dict[str, str], drawer: str
) -> None:
    urls = (f"{drawer}/label.pdf", "http://169.254.169.254/", "https://easypost.com.example/x", "file:///x", "http://[")
    parcels = [
        await create_fulfillment(str(1055 + n), carrier="easypost", label=Label(url=url)) for n, url in enumerate(urls)
    ]
    ours = await create_fulfillment("1054")
    document = await finished_print(api, printer, fulfillments=[ours, *parcels])
    assert document["left_out"] == dict.fromkeys(parcels, "面单地址不属于该承运商公布的域名")


async def test_a_file_is_deleted_after_a_day(api: httpx.AsyncClient, printer: dict[str, str]) -> None:
    document = await finished_print(api, printer, fulfillments=[await create_fulfillment("1060")])
    async with transaction() as connection:
        await connection.execute(update(DocumentRow).values(expires_at=datetime.now(UTC) - timedelta(seconds=1)))
    assert (await api.get(f"/labels/{document['id']}/file", headers=printer)).status_code == 404
    await finished_print(api, printer, fulfillments=[await create_fulfillment("1061")])
    assert await labels.purge_expired_documents() == 1
    assert await query("SELECT count(*) FROM documents") == [(1,)]


async def test_an_invalid_request_is_refused_with_its_field(api: httpx.AsyncClient) -> None:
    staff = await bearer(Scope.STAFF)
    for field, body in (
        ("fulfillments", {}),
        ("fulfillments", {"fulfillments": []}),
        ("fulfillments", {"fulfillments": ["order:own:web:none:F1"]}),
        ("warehouse", {"warehouse": "MOON"}),
        ("size", {"warehouse": "SH", "size": "a5"}),
        ("size", {"warehouse": "SH", "kind": "packing_list", "size": "100x180"}),
        ("format", {"warehouse": "SH", "kind": "packing_list", "format": "zpl"}),
        ("dpi", {"warehouse": "SH", "dpi": 72}),
        ("status", {"warehouse": "SH", "status": "gone"}),
    ):
        refused = await api.post("/labels", json=body, headers=staff)
        assert refused.status_code == 422
        assert refused.json()["errors"][0]["field"] == field


async def test_only_staff_and_warehouses_print(api: httpx.AsyncClient) -> None:
    reader = await bearer(Scope.READ)
    for answer in (
        await api.post("/labels", json={"warehouse": "SH"}, headers=reader),
        await api.get("/labels/print:1", headers=reader),
        await api.get("/labels/print:1/file", headers=reader),
    ):
        assert answer.status_code == 403
    staff = await bearer(Scope.STAFF)
    assert (await api.get("/labels/print:none", headers=staff)).status_code == 404
    assert (await api.get("/labels/print:none/file", headers=staff)).status_code == 404


async def test_the_command_line_saves_a_file(
    api: httpx.AsyncClient,
    printer: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HENGDAN_API_URL", str(api.base_url))
    monkeypatch.setenv("HENGDAN_API_KEY", await create_key("cli", [Scope.STAFF]))
    settings.cache_clear()
    commands = Commands(capsys)
    await create_fulfillment("1070")
    await create_fulfillment("1071")
    target = tmp_path / "sheets.pdf"
    with capture_logs():  # the API shares standard output with the command here
        output = await commands.ok("print", "1070", "order:own:web:1071:F1", "-o", str(target), "--lang", "en")
        assert "2 printed" in output
        assert Printed(target.read_bytes()).pages == 2
        output = await commands.ok("print", "--warehouse", "SH", "--format", "zpl", "-o", str(target), "--json")
        assert '"done":2' in output
        assert target.read_bytes().startswith(b"^XA")
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"order:own:web:1071:F1\n\n1070\n")))
        assert "2 printed" in await commands.ok("print", "-o", str(target), "--lang", "en")
        assert Printed(target.read_bytes()).codes()[0][1] == "SF1330200001071"
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO()))
        assert "Give fulfillment orders" in await commands.refused("print", "-o", str(target))
        assert "no warehouse MOON" in await commands.refused("print", "--warehouse", "MOON")
        assert "size" in await commands.refused("print", "--warehouse", "SH", "--size", "a4")
        assert "none" in await commands.refused("print", "1070", "-o", str(tmp_path / "none" / "sheets.pdf"))


@pytest.mark.parametrize(
    ("phone", "shown"),
    [
        ("+8613812345678", "138****5678"),
        ("13812345678", "138****5678"),
        ("+8618400001234;ext=5678", "184****1234-5678"),
        ("18400001234-5678", "184****1234-5678"),
        ("+8675512345678", "0755-****5678"),
        ("+862150000001;ext=88", "021-****0001-88"),
        ("4008001234", "****1234"),
        ("+442079460958", "+44****0958"),
        ("138****5678", "138****5678"),
        ("12345", "****"),
        ("", "****"),
    ],
)
def test_a_phone_is_masked_and_its_extension_kept(phone: str, shown: str) -> None:
    assert masked_phone(Addressee(phone=phone)) == shown
