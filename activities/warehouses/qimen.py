"""奇门 (Qimen), Alibaba's published interface between order systems (ERP) and warehouse systems (WMS).

XML over signed HTTP, in both directions through Alibaba's gateway. We send ``taobao.qimen.deliveryorder.create`` and
``taobao.qimen.order.cancel``; the warehouse sends ``deliveryorder.confirm``, ``orderprocess.report``,
``itemlack.report``, ``entryorder.confirm`` and ``inventory.report`` to ``POST /warehouses/{location}/qimen``, with or
without the prefix ``taobao.qimen.``. Sources: open.taobao.com, 奇门仓储接入说明 (articleId 106850), the signature
(articleId 118404) and the API category 奇门仓储 (cid 20725). The signature has no window of time: repeated messages are
recognised by their document and change nothing.

The waybill is ours: ``expressCode`` is sent with the order. A ``deliveryOrderCode`` has at most 50 characters: a longer
id of a fulfillment order is sent as its end and a digest.

Account: ``base_url``, the gateway's whole address; secrets ``app_key``, ``app_secret``; settings ``customer_id``, the
warehouse's customer number for the merchant, ``owner_code`` (货主编码) and ``warehouse_code``, by default the account's
name.
"""

import hmac
from collections.abc import Iterator, Mapping
from datetime import datetime
from hashlib import md5, sha256
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

from activities.kit import http
from activities.kit.errors import Unauthentic, Unintelligible, refused, unavailable
from activities.kit.payloads import CHINA, decode_xml, format_china_time, within_calendar
from models.accounts import AccountFields, secret, setting
from models.address import Addressee
from models.base import Value
from models.fulfillment import FulfillmentLine, Recall, RequestStatus, Shortfall, ShortfallKind
from models.intake import Account
from models.requests import WarehouseEventKind

ACCOUNT = AccountFields(
    console="qimen",
    fields=(
        secret("app_key"),
        secret("app_secret"),
        setting("customer_id", required=True),
        setting("owner_code", required=True),
        setting("warehouse_code"),
    ),
    base_url="http://qimen.api.taobao.com/router/qimen/service",
)

_TRADE = "JYCK"
"""The type of a delivery order for a sale (一般交易出库)."""
_LONGEST_CODE = 50

COURIERS = {
    "sf": "SF",
    "yto": "YTO",
    "zto": "ZTO",
    "sto": "STO",
    "yunda": "YUNDA",
    "jdl": "JD",
    "ems": "EMS",
    "best": "HTKY",
}
"""Qimen's codes of couriers (物流公司编码) by ours; any other is sent as ours in capitals."""

_PROCESS = {
    "ACCEPT": WarehouseEventKind.ACCEPTED,
    "REJECT": WarehouseEventKind.REJECTED,
    "PICK": WarehouseEventKind.PICKED,
    "CHECK": WarehouseEventKind.PICKED,
    "PACKAGE": WarehouseEventKind.PICKED,
    "WEIGH": WarehouseEventKind.PICKED,
}
"""What a ``processStatus`` reports; any other changes nothing here."""


def sign(secret: str, params: Mapping[str, str], body: bytes) -> str:
    """Return the signature of a request: the MD5 digest, in upper-case hex, of secret, parameters, body and secret.

    The parameters of the URL are sorted by name and written without separators, without ``sign`` and empty ones.
    """
    joined = "".join(f"{name}{value}" for name, value in sorted(params.items()) if value and name != "sign")
    content = secret.encode() + joined.encode() + body + secret.encode()
    return md5(content, usedforsecurity=False).hexdigest().upper()


def verify(account: Account, params: Mapping[str, str], body: bytes) -> None:
    """Check the signature of a request of the warehouse. Raise ``Unauthentic``."""
    expected = sign(account.secrets["app_secret"], params, body)
    if not hmac.compare_digest(expected.encode(), params.get("sign", "").upper().encode()):
        raise Unauthentic("sign: does not match")


def order_code(fulfillment_id: str) -> str:
    """Return the ``deliveryOrderCode`` of a fulfillment order, at most 50 characters."""
    if len(fulfillment_id) <= _LONGEST_CODE:
        return fulfillment_id
    return f"{sha256(fulfillment_id.encode()).hexdigest()[:16]}~{fulfillment_id[-32:]}"


class Delivery(Value):
    """A fulfillment order as a Qimen warehouse needs it: it prints the address itself."""

    fulfillment_id: str
    order_no: str
    channel: str
    shop: str
    placed_at: datetime
    carrier: str
    waybill_no: str
    lines: tuple[FulfillmentLine, ...]
    sender: Addressee
    recipient: Addressee
    urgent: bool


async def submit(account: Account, delivery: Delivery) -> RequestStatus:
    """Create the delivery order; a repeat is answered as the first. Raise ``refused`` where it is rejected."""
    request = Element("request")
    order = _add(
        request,
        "deliveryOrder",
        deliveryOrderCode=order_code(delivery.fulfillment_id),
        orderType=_TRADE,
        warehouseCode=_warehouse_code(account),
        sourcePlatformCode="OTHER",
        createTime=format_china_time(datetime.now(CHINA)),
        placeOrderTime=format_china_time(delivery.placed_at),
        operateTime=format_china_time(datetime.now(CHINA)),
        shopNick=f"{delivery.channel}:{delivery.shop}",
        logisticsCode=COURIERS.get(delivery.carrier, delivery.carrier.upper()),
        expressCode=delivery.waybill_no,
        isUrgency="Y" if delivery.urgent else "N",
    )
    for role, person in (("senderInfo", delivery.sender), ("receiverInfo", delivery.recipient)):
        _add(
            order,
            role,
            name=person.name,
            mobile=person.national_phone,
            zipCode=person.postcode,
            countryCode=person.country,
            province=person.province,
            city=person.city,
            area=person.district,
            town=person.town,
            detailAddress=person.street,
        )
    lines = _add(request, "orderLines")
    for number, line in enumerate(delivery.lines, 1):
        _add(
            lines,
            "orderLine",
            orderLineNo=str(number),
            sourceOrderCode=delivery.order_no,
            ownerCode=str(account.settings["owner_code"]),
            itemCode=line.sku,
            inventoryType="ZP",
            planQty=str(line.quantity),
        )
    flag, message = await _call(account, "taobao.qimen.deliveryorder.create", request)
    if flag != "success":
        raise refused(message or "hold.warehouse.rejected", "rejected")
    return RequestStatus.SUBMITTED


async def recall(account: Account, fulfillment_id: str, reason: str) -> Recall:
    """Ask for the cancellation of a delivery order."""
    request = Element("request")
    fields = {
        "warehouseCode": _warehouse_code(account),
        "ownerCode": str(account.settings["owner_code"]),
        "orderCode": order_code(fulfillment_id),
        "orderType": _TRADE,
        "cancelReason": reason,
    }
    for name, value in fields.items():
        SubElement(request, name).text = value
    flag, message = await _call(account, "taobao.qimen.order.cancel", request)
    return Recall(accepted=flag == "success", reason=message)


async def _call(account: Account, method: str, request: Element) -> tuple[str, str]:
    """Return the ``flag`` and ``message`` of the answer. Raise ``unavailable`` where it is no answer of Qimen."""
    body = tostring(request, encoding="utf-8", xml_declaration=True)
    params = {
        "method": method,
        "timestamp": format_china_time(datetime.now(CHINA)),
        "format": "xml",
        "app_key": account.secrets["app_key"],
        "v": "2.0",
        "sign_method": "md5",
        "customerId": str(account.settings["customer_id"]),
    }
    params["sign"] = sign(account.secrets["app_secret"], params, body)
    headers = {"Content-Type": "text/xml; charset=utf-8"}
    response = await http.send("POST", account.base_url, content=body, params=params, headers=headers)
    try:
        answer = decode_xml(response.content.decode())
    except (Unintelligible, UnicodeDecodeError):
        raise unavailable("error.malformed", vendor="qimen") from None
    flag = answer.findtext("flag", "")
    if flag not in {"success", "failure"}:
        raise unavailable("error.malformed", vendor="qimen")
    return flag, answer.findtext("message", "")[:500]


def _warehouse_code(account: Account) -> str:
    return str(account.settings.get("warehouse_code") or account.account)


def _add(parent: Element, tag: str, /, **fields: str) -> Element:
    """Add an element with a child for each field that is not empty."""
    added = SubElement(parent, tag)
    for field, value in fields.items():
        if value:
            SubElement(added, field).text = value
    return added


# What the warehouse reports


class OrderReport(Value):
    """What became of a delivery order. ``shipped`` and ``waybills`` are of a confirmation: quantities by SKU."""

    order_code: str
    kind: WarehouseEventKind | None
    """``None``: a step that changes nothing here."""
    at: datetime
    weight_kg: str | None = None
    reason: str = ""
    shortfalls: tuple[Shortfall, ...] = ()
    waybills: tuple[str, ...] = ()
    shipped: dict[str, int] = {}


class StockReport(Value):
    """Goods received, or differences found when counting, by SKU. ``code`` identifies the document."""

    code: str
    received: dict[str, int] = {}
    damaged: dict[str, int] = {}
    """Of those received."""
    differences: dict[str, int] = {}


def parse_report(method: str, body: bytes) -> OrderReport | StockReport:
    """Read a request of the warehouse. Raise ``Unintelligible``, naming the field, where it cannot be used."""
    try:
        request = decode_xml(body.decode())
    except UnicodeDecodeError:
        raise Unintelligible("body", "invalid.xml") from None
    match method.removeprefix("taobao.qimen."):
        case "deliveryorder.confirm":
            return _confirmation(request)
        case "orderprocess.report":
            return OrderReport(
                order_code=_required(request, "order/orderCode"),
                kind=_PROCESS.get(_required(request, "process/processStatus")),
                at=_moment(request.findtext("process/operateTime")),
                reason=request.findtext("process/operateInfo") or "",
            )
        case "itemlack.report":
            return OrderReport(
                order_code=_required(request, "deliveryOrderCode"),
                kind=WarehouseEventKind.REJECTED,
                at=_moment(request.findtext("createTime")),
                reason="itemlack",
                shortfalls=tuple(_shortfalls(request)),
            )
        case "entryorder.confirm":
            return _entry(request)
        case "inventory.report":
            code = request.findtext("outBizCode") or _required(request, "checkOrderCode")
            items = _quantities(request, "items/item", "quantity")
            return StockReport(code=code, differences={sku: each for sku, each in items.items() if each})
        case _:
            raise Unintelligible("method", "invalid.qimen.method")


def _confirmation(request: Element) -> OrderReport:
    order = "deliveryOrder"
    status = request.findtext(f"{order}/status") or "DELIVERED"
    if status == "PARTDELIVERED" or request.findtext(f"{order}/confirmType") == "1":
        raise Unintelligible("confirmType", "invalid.qimen.part")
    kinds = {"DELIVERED": WarehouseEventKind.SHIPPED, "ACCEPT": WarehouseEventKind.ACCEPTED}
    refusals = dict.fromkeys(("EXCEPTION", "CANCELED", "CLOSED", "REJECT"), WarehouseEventKind.REJECTED)
    weights = [each.findtext("weight") or "" for each in request.findall("packages/package")]
    weight = sum(float(each) for each in weights if each.replace(".", "", 1).isdecimal())
    return OrderReport(
        order_code=_required(request, f"{order}/deliveryOrderCode"),
        kind=(kinds | refusals).get(status),
        at=_moment(request.findtext(f"{order}/orderConfirmTime") or request.findtext(f"{order}/operateTime")),
        weight_kg=f"{weight:.3f}" if 0 < weight < 10_000 else None,
        reason=request.findtext(f"{order}/remark") or status,
        waybills=tuple(each.text for each in request.findall("packages/package/expressCode") if each.text),
        shipped=_quantities(request, "orderLines/orderLine", "actualQty"),
    )


def _entry(request: Element) -> StockReport:
    code = request.findtext("entryOrder/outBizCode") or _required(request, "entryOrder/entryOrderCode")
    received = _quantities(request, "orderLines/orderLine", "actualQty")
    damaged: dict[str, int] = {}
    for line in request.findall("orderLines/orderLine"):
        if (line.findtext("inventoryType") or "ZP") != "ZP":
            sku = _required(line, "itemCode")
            damaged[sku] = damaged.get(sku, 0) + _integer(line, "actualQty")
    return StockReport(code=code, received=received, damaged=damaged)


def _shortfalls(request: Element) -> Iterator[Shortfall]:
    for item in request.findall("items/item"):
        planned, missing = _integer(item, "planQty"), _integer(item, "lackQty")
        found = max(planned - missing, 0)
        kind = ShortfallKind.MISMATCH if found else ShortfallKind.NOT_FOUND
        yield Shortfall(sku=_required(item, "itemCode"), kind=kind, quantity=found)


def _quantities(request: Element, path: str, field: str) -> dict[str, int]:
    """Return the sums of a field by ``itemCode``."""
    sums: dict[str, int] = {}
    for item in request.findall(path):
        sku = _required(item, "itemCode")
        sums[sku] = sums.get(sku, 0) + _integer(item, field)
    return sums


def _required(element: Element, path: str) -> str:
    if not (text := (element.findtext(path) or "").strip()):
        raise Unintelligible(path.replace("/", "."), "validation.missing")
    return text


def _integer(element: Element, field: str) -> int:
    text = (element.findtext(field) or "0").strip()
    try:
        return int(text)
    except ValueError:
        raise Unintelligible(field, "validation.int_parsing") from None


def _moment(text: str | None) -> datetime:
    """Return a time of the warehouse, in China; a missing one is now. Raise ``Unintelligible``."""
    if not text:
        return datetime.now(CHINA)
    try:
        return within_calendar(datetime.strptime(text.strip()[:19], "%Y-%m-%d %H:%M:%S").replace(tzinfo=CHINA))
    except ValueError:
        raise Unintelligible("operateTime", "invalid.moment") from None


def answer(flag: str, message: str) -> bytes:
    """Return an answer to the warehouse: ``success`` or ``failure``, and why."""
    response = Element("response")
    fields: dict[str, Any] = {"flag": flag, "code": "0" if flag == "success" else "400", "message": message}
    for name, value in fields.items():
        SubElement(response, name).text = value
    return bytes(tostring(response, encoding="utf-8", xml_declaration=True))
