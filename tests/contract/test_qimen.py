"""奇门 against its twin over real HTTP: the requests of both sides, and how each is signed."""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from hashlib import md5
from typing import Any

import httpx
import pytest
from temporalio.exceptions import ApplicationError

from activities.kit import http
from activities.kit.errors import Unauthentic, Unintelligible
from activities.warehouses import qimen
from activities.warehouses.qimen import Delivery, OrderReport, StockReport
from models.fulfillment import FulfillmentLine, RequestStatus, ShortfallKind
from models.intake import Account, IntegrationType
from starter.sandbox import qimen as twin
from starter.sandbox.app import create_app
from tests.serving import served
from tests.unit.orders import RECIPIENT

CLIENT = httpx.Client(timeout=30)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[str]:
    with served(create_app()) as url:
        yield url


@pytest.fixture(autouse=True)
async def _own_client() -> AsyncIterator[None]:
    yield
    await http.close()


def account(url: str, **secrets: str) -> Account:
    return Account(
        integration=IntegrationType.WAREHOUSE,
        source="qimen",
        account="HZ",
        base_url=f"{url}/qimen/service",
        secrets=twin.SECRETS | secrets,
        settings=dict(twin.SETTINGS),
    )


def delivery(fulfillment_id: str, **changes: Any) -> Delivery:
    fields = {
        "fulfillment_id": fulfillment_id,
        "order_no": "1001",
        "channel": "own",
        "shop": "web",
        "placed_at": datetime.now(UTC),
        "carrier": "sf",
        "waybill_no": "SF1",
        "lines": (FulfillmentLine(line_no="1", sku="A&B<1>", quantity=2),),
        "sender": RECIPIENT,
        "recipient": RECIPIENT,
        "urgent": False,
    }
    return Delivery(**fields | changes)


def job(url: str, fulfillment_id: str) -> Any:
    jobs = CLIENT.get(f"{url}/qimen/_control/orders").json()
    return next(each for each in jobs if each["code"] == qimen.order_code(fulfillment_id))


async def refusal(act: Any) -> ApplicationError:
    with pytest.raises(ApplicationError) as caught:
        await act
    return caught.value


def test_signature_is_that_of_the_published_example() -> None:
    """The example of open.taobao.com, article 118404."""
    params = {
        "method": "taobao.qimen.itemlack.report",
        "timestamp": "2015-04-26 00:00:07",
        "format": "xml",
        "app_key": "testerp_appkey",
        "v": "2.0",
        "sign": "abc",
        "sign_method": "md5",
        "customerId": "stub-cust-code",
    }
    joined = (
        "testapp_keytesterp_appkeycustomerIdstub-cust-codeformatxmlmethodtaobao.qimen.itemlack.report"
        "sign_methodmd5timestamp2015-04-26 00:00:07v2.0bodytest"
    )
    assert qimen.sign("test", params, b"body") == md5(joined.encode()).hexdigest().upper()


@pytest.mark.parametrize("fulfillment_id", ["order:own:web:Q1:F1", f"order:own:web:{'9' * 60}:F1"])
async def test_order_is_created_once_and_cancelled(sandbox: str, fulfillment_id: str) -> None:
    ours = account(sandbox)
    for _ in range(2):
        assert await qimen.submit(ours, delivery(fulfillment_id)) is RequestStatus.SUBMITTED
    created = job(sandbox, fulfillment_id)
    assert (created["calls"], created["warehouse"], created["courier"], created["waybill_no"]) == (2, "HZ", "SF", "SF1")
    assert created["items"] == {"A&B<1>": 2}
    assert created["receiver"]["name"] == RECIPIENT.name
    assert (await qimen.recall(ours, fulfillment_id, "cancelled")).accepted
    error = await refusal(qimen.submit(ours, delivery(fulfillment_id)))
    assert (error.non_retryable, error.details) == (True, ("rejected",))


async def test_recall_before_its_order_stops_it(sandbox: str) -> None:
    assert (await qimen.recall(account(sandbox), "order:own:web:Q2:F1", "cancelled")).accepted
    assert "CANCELED" in (await refusal(qimen.submit(account(sandbox), delivery("order:own:web:Q2:F1")))).message


async def test_wrong_secret_and_incomplete_order_are_refused_with_the_reason(sandbox: str) -> None:
    wrong = await refusal(qimen.submit(account(sandbox, app_secret="x"), delivery("order:own:web:Q3:F1")))
    assert wrong.message == "sign-check-failure"
    nameless = RECIPIENT.model_copy(update={"name": ""})
    error = await refusal(qimen.submit(account(sandbox), delivery("order:own:web:Q3:F1", recipient=nameless)))
    assert "receiverInfo/name" in error.message


async def test_gateway_that_answers_something_else_is_unavailable(sandbox: str) -> None:
    elsewhere = account(sandbox).model_copy(update={"base_url": f"{sandbox}/own/_control/shops"})
    assert not (
        await refusal(qimen.submit(account("http://127.0.0.1:9"), delivery("order:own:web:Q4:F1")))
    ).non_retryable
    await refusal(qimen.submit(elsewhere, delivery("order:own:web:Q4:F1")))


def test_report_with_a_foreign_signature_is_unauthentic() -> None:
    params = {"method": "deliveryorder.confirm", "v": "2.0"}
    for secret, body in (("x", b"<request/>"), (twin.SECRETS["app_secret"], b"<request></request>")):
        params["sign"] = qimen.sign(secret, params, body)
        with pytest.raises(Unauthentic):
            qimen.verify(account(""), params, b"<request/>")


CONFIRM = (
    "<request><deliveryOrder><deliveryOrderCode>order:own:web:1:F1</deliveryOrderCode>{more}"
    "<orderConfirmTime>2026-11-28 20:00:00</orderConfirmTime></deliveryOrder><packages><package><logisticsCode>SF"
    "</logisticsCode><expressCode>SF1</expressCode><weight>0.745</weight></package></packages><orderLines><orderLine>"
    "<itemCode>A001</itemCode><actualQty>1</actualQty></orderLine><orderLine><itemCode>A001</itemCode><actualQty>1"
    "</actualQty></orderLine></orderLines></request>"
)


@pytest.mark.parametrize("prefix", ["", "taobao.qimen."])
@pytest.mark.parametrize(
    ("more", "kind"),
    [
        ("", "shipped"),
        ("<status>DELIVERED</status>", "shipped"),
        ("<status>EXCEPTION</status>", "rejected"),
        ("<status>NEW</status>", None),
    ],
)
def test_confirmation_is_read(prefix: str, more: str, kind: str | None) -> None:
    report = qimen.parse_report(f"{prefix}deliveryorder.confirm", CONFIRM.format(more=more).encode())
    assert isinstance(report, OrderReport)
    assert (report.kind, report.weight_kg, report.waybills, report.shipped) == (kind, "0.745", ("SF1",), {"A001": 2})
    assert report.at.isoformat() == "2026-11-28T20:00:00+08:00"


def test_lack_of_goods_is_read_as_shortfalls() -> None:
    items = "".join(
        f"<item><itemCode>{sku}</itemCode><planQty>2</planQty><lackQty>{lack}</lackQty></item>"
        for sku, lack in (("A", 2), ("B", 1))
    )
    xml = f"<request><deliveryOrderCode>1</deliveryOrderCode><items>{items}</items></request>"
    report = qimen.parse_report("itemlack.report", xml.encode())
    assert isinstance(report, OrderReport)
    assert [(each.sku, each.kind, each.quantity) for each in report.shortfalls] == [
        ("A", ShortfallKind.NOT_FOUND, 0),
        ("B", ShortfallKind.MISMATCH, 1),
    ]


def test_stock_documents_are_read() -> None:
    lines = "".join(
        f"<orderLine><itemCode>A</itemCode><inventoryType>{kind}</inventoryType><actualQty>{count}</actualQty></orderLine>"
        for kind, count in (("ZP", 5), ("CC", 2))
    )
    order = "<entryOrder><entryOrderCode>E1</entryOrderCode></entryOrder>"
    entry = f"<request>{order}<orderLines>{lines}</orderLines></request>"
    assert qimen.parse_report("entryorder.confirm", entry.encode()) == StockReport(
        code="E1", received={"A": 7}, damaged={"A": 2}
    )
    item = "<item><itemCode>A</itemCode><quantity>-3</quantity></item>"
    count = f"<request><outBizCode>C1</outBizCode><items>{item}</items></request>"
    assert qimen.parse_report("inventory.report", count.encode()) == StockReport(code="C1", differences={"A": -3})


@pytest.mark.parametrize(
    ("method", "xml"),
    [
        ("sn.report", "<request/>"),
        ("deliveryorder.confirm", "<request/>"),
        ("deliveryorder.confirm", "no xml"),
        ("deliveryorder.confirm", '<!DOCTYPE a [<!ENTITY b "c">]><request/>'),
        ("deliveryorder.confirm", CONFIRM.format(more="<confirmType>1</confirmType>")),
        ("deliveryorder.confirm", CONFIRM.format(more="").replace("<actualQty>1<", "<actualQty>one<")),
        ("deliveryorder.confirm", CONFIRM.format(more="").replace("20:00:00", "25:00:00")),
        ("deliveryorder.confirm", CONFIRM.format(more="").replace("2026-11-28", "0001-01-01")),
    ],
)
def test_report_that_cannot_be_used_names_its_field(method: str, xml: str) -> None:
    with pytest.raises(Unintelligible):
        qimen.parse_report(method, xml.encode())
