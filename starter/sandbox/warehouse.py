"""The twin of warehouse systems: accepts fulfillment orders, picks, ships and reports events.

Account of warehouse ``SH``: ``base_url`` ``{sandbox}/warehouse/SH``; secret ``SECRET``.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from hmac import compare_digest, digest
from importlib import import_module
from typing import Any

import httpx
from fastapi import APIRouter, HTTPException, Request
from pydantic import BaseModel
from starlette.responses import JSONResponse, Response

from starter.sandbox import faults
from starter.sandbox.outbox import Outbox, spawn
from starter.sandbox.shops import Strict

SECRET = "sandbox-warehouse"  # noqa: S105
_UNIT_KG = Decimal("0.4")

Event = tuple[str, dict[str, str]]
"""An API key, and the event to send with it."""


class Config(Strict):
    """Where events are sent. ``auto`` picks and ships without a request, with one step every ``delay`` seconds;
    ``hand_over`` hands shipped parcels to the carrier's twin, which starts their journey.
    """

    api_url: str
    api_key: str
    auto: bool = True
    delay: float = 0.05
    hand_over: bool = True


class Hold(Strict):
    """Hold fulfillment orders whose id contains ``match`` until a ship request; ``unaccepted``: do not accept them."""

    match: str
    unaccepted: bool = False


class Ship(Strict):
    fulfillment_id: str


class Job(BaseModel):
    fulfillment_id: str
    warehouse: str
    carrier: str = ""
    waybill_no: str = ""
    recipient: dict[str, str] = {}
    units: int = 0
    calls: int = 1
    """How many requests submitted it."""
    state: str = "submitted"


class Rejection(Strict):
    """Reject matching fulfillment orders at this warehouse, with these shortfalls."""

    warehouse: str
    match: str
    reason: str = ""
    shortfalls: list[dict[str, Any]] = []


router = APIRouter()
_jobs: dict[str, Job] = {}
_holds: list[Hold] = []
_rejections: list[Rejection] = []
_config: Config | None = None


def _render(events: Sequence[Event]) -> tuple[Mapping[str, str], bytes]:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {events[0][0]}"}
    return headers, json.dumps([event for _, event in events]).encode()


_outbox = Outbox[Event](100, _render, lambda response: response.is_success)


@router.post("/_control/config")
async def configure(config: Config) -> Config:
    global _config
    _config = config
    return config


@router.post("/_control/hold", status_code=201)
async def hold(hold: Hold) -> Hold:
    _holds.append(hold)
    return hold


@router.delete("/_control/hold", status_code=204)
async def clear_holds() -> None:
    """Remove the holds; orders held so far stay held until a ship request."""
    _holds.clear()


@router.post("/_control/reject", status_code=201)
async def reject(rejection: Rejection) -> Rejection:
    _rejections.append(rejection)
    return rejection


@router.post("/_control/ship")
async def ship(ship: Ship, request: Request) -> Job:
    job = _jobs.get(ship.fulfillment_id)
    if job is None or job.state in ("recalled", "shipped"):
        raise HTTPException(409, f"{job.state if job else 'unknown'}: cannot be shipped")
    _ship(request.app.state.http, job)
    return job


@router.get("/_control/fulfillments")
async def fulfillments() -> list[Job]:
    return list(_jobs.values())


@router.post("/{warehouse}/fulfillments")
async def submit(warehouse: str, request: Request) -> Response:
    body = await _authenticated_body(request)

    async def work() -> Response:
        job = _jobs.get(body["fulfillment_id"])
        if job is not None:
            job.calls += 1
            if job.state == "recalled":
                return JSONResponse({"status": "rejected", "reason": "recalled"})
            return JSONResponse({"status": "submitted"})
        job = Job(
            fulfillment_id=body["fulfillment_id"],
            warehouse=warehouse,
            carrier=body["carrier"],
            waybill_no=body["waybill_no"],
            recipient=body["recipient"],
            units=sum(line["quantity"] for line in body["lines"]),
        )
        _jobs[job.fulfillment_id] = job
        if _config is not None and _config.auto:
            holds = [each for each in _holds if each.match in job.fulfillment_id]
            if not any(each.unaccepted for each in holds):
                spawn(_process(request.app.state.http, job, bool(holds)))
        return JSONResponse({"status": "submitted"})

    return await faults.play("warehouse", "submit", body["fulfillment_id"], work)


@router.post("/{warehouse}/recalls")
async def recall(warehouse: str, request: Request) -> Response:
    body = await _authenticated_body(request)

    async def work() -> Response:
        fulfillment_id = body["fulfillment_id"]
        job = _jobs.setdefault(fulfillment_id, Job(fulfillment_id=fulfillment_id, warehouse=warehouse, calls=0))
        if job.state == "shipped":
            return JSONResponse({"accepted": False, "reason": "shipped"})
        job.state = "recalled"
        return JSONResponse({"accepted": True, "reason": ""})

    return await faults.play("warehouse", "recall", body["fulfillment_id"], work)


async def _authenticated_body(request: Request) -> Any:
    body = await request.body()
    timestamp = request.headers.get("hengdan-timestamp", "")
    signature = "v1=" + digest(SECRET.encode(), timestamp.encode() + b"." + body, "sha256").hex()
    if not compare_digest(signature, request.headers.get("hengdan-signature", "")):
        raise HTTPException(401, "signature")
    return json.loads(body)


async def _process(client: httpx.AsyncClient, job: Job, held: bool) -> None:
    assert _config is not None  # noqa: S101
    for each in _rejections:
        if each.warehouse == job.warehouse and each.match in job.fulfillment_id:
            job.state = "rejected"
            _send_event(client, job, reason=each.reason, shortfalls=each.shortfalls)
            return
    for state in ("accepted", "picked"):
        await asyncio.sleep(_config.delay)
        if job.state in ("recalled", "shipped"):
            return
        job.state = state
        _send_event(client, job)
    await asyncio.sleep(_config.delay)
    if not held and job.state == "picked":
        _ship(client, job)


def _ship(client: httpx.AsyncClient, job: Job) -> None:
    job.state = "shipped"
    _send_event(client, job, weight_kg=str(_UNIT_KG * job.units))
    if _config is not None and _config.hand_over:
        import_module(f"starter.sandbox.carriers.{job.carrier}").parcels.collect(client, job.waybill_no)


def _send_event(client: httpx.AsyncClient, job: Job, **details: Any) -> None:
    if _config is None:
        return
    event = {
        "request_id": f"{job.fulfillment_id}:{job.state}",
        "fulfillment_id": job.fulfillment_id,
        "kind": job.state,
        "at": datetime.now(UTC).isoformat(),
        **details,
    }
    _outbox.put(client, f"{_config.api_url}/warehouses/{job.warehouse}/events", [(_config.api_key, event)])
