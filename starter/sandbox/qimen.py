"""The twin of Qimen's gateway with a warehouse system behind it: accepts delivery orders, picks, ships, reports.

Account of warehouse ``HZ``: ``base_url`` ``{sandbox}/qimen/service``; secrets and settings ``SECRETS``, ``SETTINGS``.
"""

import asyncio
from collections.abc import Mapping
from datetime import datetime
from hashlib import md5
from importlib import import_module
from typing import Any
from urllib.parse import urlencode
from xml.etree.ElementTree import Element, fromstring
from xml.sax.saxutils import escape
from zoneinfo import ZoneInfo

import httpx
from fastapi import APIRouter, HTTPException, Request
from pydantic import BaseModel
from starlette.responses import Response

from starter.sandbox import faults
from starter.sandbox.outbox import spawn
from starter.sandbox.shops import Strict

SECRETS = {"app_key": "23075458", "app_secret": "sandbox-qimen"}
SETTINGS = {"customer_id": "c1898", "owner_code": "HENGDAN"}
_REQUIRED = (
    "warehouseCode",
    "orderType",
    "logisticsCode",
    "createTime",
    "receiverInfo/name",
    "receiverInfo/mobile",
    "receiverInfo/province",
    "receiverInfo/city",
    "receiverInfo/detailAddress",
    "senderInfo/mobile",
)
"""Of a delivery order."""
_COURIERS = {"SF": "sf", "YTO": "yto", "ZTO": "zto", "STO": "sto", "YUNDA": "yunda", "JD": "jdl"}


class Config(Strict):
    """Where reports are sent. ``auto`` picks and ships without a request, one step every ``delay`` seconds."""

    api_url: str
    auto: bool = True
    delay: float = 0.05


class Job(BaseModel):
    code: str
    warehouse: str
    courier: str = ""
    waybill_no: str = ""
    items: dict[str, int] = {}
    receiver: dict[str, str] = {}
    calls: int = 1
    """How many requests created it."""
    state: str = "NEW"


class Ship(Strict):
    """Ship an order now; ``waybill_no`` or ``items`` report something else than was asked for."""

    code: str
    waybill_no: str = ""
    items: dict[str, int] = {}


class Report(Strict):
    """Send any report of a warehouse, signed with ``secret``; answers with what Hengdan answered."""

    warehouse: str
    method: str
    xml: str
    secret: str = SECRETS["app_secret"]


router = APIRouter()
_jobs: dict[str, Job] = {}
_config: Config | None = None


def sign(secret: str, params: Mapping[str, str], body: str) -> str:
    joined = "".join(name + params[name] for name in sorted(params) if name != "sign" and params[name])
    return md5(f"{secret}{joined}{body}{secret}".encode(), usedforsecurity=False).hexdigest().upper()


@router.post("/_control/config")
async def configure(config: Config) -> Config:
    global _config
    _config = config
    return config


@router.get("/_control/orders")
async def orders() -> list[Job]:
    return list(_jobs.values())


@router.post("/_control/ship")
async def ship(ship: Ship, request: Request) -> dict[str, str]:
    job = _jobs.get(ship.code)
    if job is None or job.state in ("CANCELED", "DELIVERED"):
        raise HTTPException(409, f"{job.state if job else 'unknown'}: cannot be shipped")
    return {"answer": await _ship(request.app.state.http, job, ship.waybill_no, ship.items)}


@router.post("/_control/report")
async def send_report(report: Report, request: Request) -> dict[str, Any]:
    response = await _post(request.app.state.http, report.warehouse, report.method, report.xml, report.secret)
    return {"status": response.status_code, "answer": response.text}


@router.post("/service")
async def service(request: Request) -> Response:
    """The gateway: checks the signature and passes the request to the warehouse."""
    params, body = dict(request.query_params), (await request.body()).decode()
    if params.get("sign") != sign(SECRETS["app_secret"], params, body) or params.get("app_key") != SECRETS["app_key"]:
        return _answer("failure", "sign-check-failure")
    if params.get("customerId") != SETTINGS["customer_id"] or params.get("v") != "2.0":
        return _answer("failure", "invalid customerId or v")
    document = fromstring(body)  # noqa: S314
    work = {"taobao.qimen.deliveryorder.create": _create, "taobao.qimen.order.cancel": _cancel}.get(params["method"])
    if work is None:
        return _answer("failure", f"unknown method {params['method']}")
    code = document.findtext("deliveryOrder/deliveryOrderCode") or document.findtext("orderCode") or ""

    async def play() -> Response:
        return work(request.app.state.http, code, document)

    return await faults.play("qimen", params["method"].rpartition(".")[2], code, play)


def _create(client: httpx.AsyncClient, code: str, document: Element) -> Response:
    order = document.find("deliveryOrder")
    lacking = [path for path in _REQUIRED if order is None or not order.findtext(path)]
    lines = document.findall("orderLines/orderLine")
    if order is None or lacking or not code or len(code) > 50 or not lines:
        return _answer("failure", f"missing {lacking or 'orderLines or deliveryOrderCode'}")
    if (job := _jobs.get(code)) is not None:
        job.calls += 1
        return _answer("failure" if job.state == "CANCELED" else "success", job.state)
    job = Job(
        code=code,
        warehouse=order.findtext("warehouseCode", ""),
        courier=order.findtext("logisticsCode", ""),
        waybill_no=order.findtext("expressCode", ""),
        items={line.findtext("itemCode", ""): int(line.findtext("planQty", "0")) for line in lines},
        receiver={each.tag: each.text or "" for each in order.find("receiverInfo") or ()},
    )
    _jobs[code] = job
    if _config is not None and _config.auto:
        spawn(_process(client, job))
    return _answer("success", "")


def _cancel(client: httpx.AsyncClient, code: str, document: Element) -> Response:
    job = _jobs.setdefault(code, Job(code=code, warehouse=document.findtext("warehouseCode", ""), calls=0))
    if job.state == "DELIVERED":
        return _answer("failure", "already shipped")
    job.state = "CANCELED"
    return _answer("success", "")


def _answer(flag: str, message: str) -> Response:
    code = "0" if flag == "success" else "F001"
    text = f"<flag>{flag}</flag><code>{code}</code><message>{escape(message)}</message>"
    return Response(f'<?xml version="1.0" encoding="utf-8"?><response>{text}</response>', media_type="text/xml")


async def _process(client: httpx.AsyncClient, job: Job) -> None:
    assert _config is not None  # noqa: S101
    for state in ("ACCEPT", "PICK"):
        await asyncio.sleep(_config.delay)
        if job.state in ("CANCELED", "DELIVERED"):
            return
        job.state = state
        await _send(client, job.warehouse, "orderprocess.report", _process_xml(job))
    await asyncio.sleep(_config.delay)
    if job.state == "PICK":
        await _ship(client, job)


def _process_xml(job: Job) -> str:
    order = f"<order><orderCode>{escape(job.code)}</orderCode><orderType>JYCK</orderType></order>"
    process = f"<process><processStatus>{job.state}</processStatus><operateTime>{_now()}</operateTime></process>"
    return f"<request>{order}{process}</request>"


async def _ship(client: httpx.AsyncClient, job: Job, waybill_no: str = "", items: dict[str, int] | None = None) -> str:
    """Report an order as shipped, and hand its parcel to the carrier's twin; return Hengdan's answer."""
    lines = "".join(
        f"<orderLine><itemCode>{escape(sku)}</itemCode><inventoryType>ZP</inventoryType>"
        f"<actualQty>{quantity}</actualQty></orderLine>"
        for sku, quantity in (items or job.items).items()
    )
    xml = (
        f"<request><deliveryOrder><deliveryOrderCode>{escape(job.code)}</deliveryOrderCode>"
        f"<warehouseCode>{job.warehouse}</warehouseCode><orderType>JYCK</orderType><status>DELIVERED</status>"
        f"<outBizCode>OUT-{escape(job.code)}</outBizCode><confirmType>0</confirmType>"
        f"<orderConfirmTime>{_now()}</orderConfirmTime></deliveryOrder><packages><package>"
        f"<logisticsCode>{job.courier}</logisticsCode><expressCode>{waybill_no or job.waybill_no}</expressCode>"
        f"<weight>0.5</weight></package></packages><orderLines>{lines}</orderLines></request>"
    )
    answer = await _send(client, job.warehouse, "deliveryorder.confirm", xml)
    if "<flag>success</flag>" in answer:
        job.state = "DELIVERED"
        if (carrier := _COURIERS.get(job.courier)) is not None:
            import_module(f"starter.sandbox.carriers.{carrier}").parcels.collect(client, job.waybill_no)
    return answer


async def _send(client: httpx.AsyncClient, warehouse: str, method: str, xml: str) -> str:
    """Send a report until Hengdan has answered it; return the answer."""
    for _ in range(60):
        try:
            response = await _post(client, warehouse, f"taobao.qimen.{method}", xml, SECRETS["app_secret"])
        except httpx.HTTPError:
            await asyncio.sleep(0.5)
        else:
            if response.status_code < 500:
                return response.text
            await asyncio.sleep(0.5)
    return ""


async def _post(client: httpx.AsyncClient, warehouse: str, method: str, xml: str, secret: str) -> httpx.Response:
    if _config is None:
        raise HTTPException(409, "configure api_url first")
    params = {"method": method, "timestamp": _now(), "format": "xml", "app_key": SECRETS["app_key"], "v": "2.0"}
    params |= {"sign_method": "md5", "customerId": SETTINGS["customer_id"]}
    params["sign"] = sign(secret, params, xml)
    url = f"{_config.api_url}/warehouses/{warehouse}/qimen?{urlencode(params)}"
    return await client.post(url, content=xml.encode(), headers={"Content-Type": "text/xml; charset=utf-8"})


def _now() -> str:
    return f"{datetime.now(ZoneInfo('Asia/Shanghai')):%Y-%m-%d %H:%M:%S}"
