"""EasyPost's twin: shipments that are rated, bought and refunded, trackers, and signed webhooks.

Account: ``base_url`` ``{sandbox}/easypost``; secrets ``SECRETS`` and your own ``push_secret``. An event holds
only the newest detail; EasyPost repeats all earlier ones.
"""

import json
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from hmac import compare_digest, digest
from itertools import count
from typing import Any
from unicodedata import normalize
from uuid import uuid4

import httpx
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from starter.sandbox import faults
from starter.sandbox.parcels import Parcels, Route

SECRETS = {"api_key": "EZTKsandbox", "webhook_secret": "sécret"}
PATH = ""
SETTINGS: dict[str, str] = {}
BOOK = "buy"
PRICES = {"GroundAdvantage": "6.07", "Priority": "7.42", "Express": "34.15"}
DAYS = {"GroundAdvantage": 3, "Priority": 3, "Express": 1}

_TO_DELIVERY = (
    {"code": "in_transit:received_at_origin_facility", "text": "Accepted at USPS Origin Facility", "place": "HOUSTON"},
    {"code": "in_transit:departed_facility", "text": "Departed USPS Facility", "place": "HOUSTON"},
    {"code": "in_transit:received_at_destination_facility", "text": "Arrived at Post Office", "place": "CHARLESTON"},
    {
        "code": "out_for_delivery:out_for_delivery",
        "text": "Out for Delivery, call 137-0000-0000",
        "place": "CHARLESTON",
    },
)
_RETURN = (
    {"code": "return_to_sender:return", "text": "Return to Sender Processed", "place": "CHARLESTON"},
    {"code": "delivered:arrived_at_destination", "text": "Delivered to Original Sender", "place": "HOUSTON"},
)
JOURNEYS: Mapping[str, Sequence[Mapping[str, str]]] = {
    "delivered": (
        *_TO_DELIVERY,
        {"code": "delivered:arrived_at_destination", "text": "Delivered, In/At Mailbox", "place": "CHARLESTON"},
    ),
    "refused": (*_TO_DELIVERY, {"code": "failure:refused", "text": "Refused", "place": "CHARLESTON"}, *_RETURN),
    "failed": (
        *_TO_DELIVERY,
        {"code": "failure:delivery_exception", "text": "Notice Left, No Access", "place": "CHARLESTON"},
    ),
    "silent": (),
    "lost": (*_TO_DELIVERY[:2], {"code": "failure:lost", "text": "Package Lost", "place": "HOUSTON"}),
    "damaged": (*_TO_DELIVERY[:2], {"code": "failure:damaged", "text": "Package Damaged", "place": "HOUSTON"}),
    "wrong_address": (
        *_TO_DELIVERY,
        {"code": "failure:address_correction", "text": "Insufficient Address", "place": "CHARLESTON"},
    ),
}

_shipments: dict[str, dict[str, Any]] = {}
_ids = count(1)


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _tracker(waybill_no: str, routes: Sequence[Route]) -> dict[str, Any]:
    details = [
        {
            "object": "TrackingDetail",
            "message": route.text,
            "status": route.code.partition(":")[0],
            "status_detail": route.code.partition(":")[2],
            "datetime": _time(route.at),
            "tracking_location": {"object": "TrackingLocation", "city": route.place, "state": "TX", "zip": None},
        }
        for route in routes
    ]
    status = routes[-1].code.partition(":")[0] if routes else "pre_transit"
    return {
        "id": f"trk_{waybill_no}",
        "object": "Tracker",
        "tracking_code": waybill_no,
        "status": status,
        "carrier": "USPS",
        "tracking_details": details,
    }


def _render(routes: Sequence[Route]) -> tuple[Mapping[str, str], bytes]:
    event = {
        "description": "tracker.updated",
        "mode": "test",
        "id": f"evt_{uuid4().hex}",
        "status": "pending",
        "object": "Event",
        "result": _tracker(routes[0].waybill_no, routes),
    }
    body = json.dumps(event).encode()
    key = normalize("NFKD", SECRETS["webhook_secret"]).encode()
    signed = f"hmac-sha256-hex={digest(key, body, 'sha256').hex()}"
    return {"Content-Type": "application/json", "X-Hmac-Signature": signed}, body


def _accepted(response: httpx.Response) -> bool:
    return response.is_success


router = APIRouter()
parcels = Parcels(
    router, number=lambda n: f"94{9_405_000_000_000 + n}", journeys=JOURNEYS, size=1, render=_render, accepted=_accepted
)


class Refusal(Exception):
    """Status, code and message."""


def _authenticate(request: Request) -> None:
    expected = b"Basic " + b64encode(f"{SECRETS['api_key']}:".encode())
    if not compare_digest(expected, request.headers.get("authorization", "").encode()):
        raise Refusal(401, "UNAUTHORIZED", "The API key is not valid")


async def _respond(request: Request, operation: str, text: str, handle: Callable[[], dict[str, Any]]) -> Response:
    async def work() -> Response:
        try:
            _authenticate(request)
            return JSONResponse(handle(), 201 if operation == "create" else 200)
        except Refusal as refusal:
            status, code, message = refusal.args
            return JSONResponse({"error": {"code": code, "message": message, "errors": []}}, status)

    return await faults.play("easypost", operation, text, work)


def _rates(shipment: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "id": f"rate_{next(_ids)}",
            "object": "Rate",
            "carrier": "USPS",
            "service": service,
            "rate": price,
            "currency": "USD",
            "delivery_days": DAYS[service],
            "shipment_id": shipment["id"],
        }
        for service, price in PRICES.items()
    ]


def _shipment(name: str) -> dict[str, Any]:
    """Return a shipment by its id, or the newest under a reference."""
    found = _shipments.get(name)
    if found is None:
        found = next((each for each in reversed(_shipments.values()) if each["reference"] == name), None)
        if found is not None and found["tracking_code"]:
            parcels.book(name, 0, "")
    if found is None:
        raise Refusal(404, "NOT_FOUND", "The requested resource could not be found.")
    return found


def _with_tracker(shipment: dict[str, Any]) -> dict[str, Any]:
    number = shipment["tracking_code"]
    return {**shipment, "tracker": _tracker(number, parcels.routes(number)) if number else None}


@router.post("/v2/shipments")
async def create(request: Request) -> Response:
    body = await request.body()

    def handle() -> dict[str, Any]:
        parameters = json.loads(body)["shipment"]
        for side in ("to_address", "from_address"):
            if not (parameters[side].get("street1") and parameters[side].get("name")):
                raise Refusal(422, "ADDRESS.PARAMETERS.INVALID", "street1 is required")
        if not parameters["parcel"]["weight"] > 0:
            raise Refusal(422, "PARCEL.PARAMETERS.INVALID", "weight is required")
        shipment: dict[str, Any] = {
            "id": f"shp_{uuid4().hex}",
            "object": "Shipment",
            "created_at": _time(datetime.now(UTC)),
            "reference": parameters.get("reference"),
            "to_address": parameters["to_address"],
            "parcel": parameters["parcel"],
            "options": parameters.get("options", {}),
            "tracking_code": None,
            "refund_status": None,
            "postage_label": None,
            "selected_rate": None,
        }
        shipment["rates"] = _rates(shipment)
        _shipments[shipment["id"]] = shipment
        return shipment

    return await _respond(request, "create", body.decode(), handle)


@router.get("/v2/shipments")
async def list_shipments(
    request: Request, start_datetime: str = "", page_size: int = 20, before_id: str = ""
) -> Response:
    def handle() -> dict[str, Any]:
        newest = [each for each in reversed(_shipments.values()) if each["tracking_code"]]
        ids = [each["id"] for each in newest]
        rest = newest[ids.index(before_id) + 1 :] if before_id else newest
        since = [each for each in rest if each["created_at"] >= start_datetime]
        return {"shipments": [_with_tracker(each) for each in since[:page_size]], "has_more": len(since) > page_size}

    return await _respond(request, "list", "", handle)


@router.get("/v2/shipments/{name}")
async def retrieve(name: str, request: Request) -> Response:
    return await _respond(request, "retrieve", name, lambda: _with_tracker(_shipment(name)))


@router.post("/v2/shipments/{name}/rerate")
async def rerate(name: str, request: Request) -> Response:
    def handle() -> dict[str, Any]:
        shipment = _shipment(name)
        shipment["rates"] = _rates(shipment)
        return {"rates": shipment["rates"]}

    return await _respond(request, "rerate", name, handle)


@router.post("/v2/shipments/{name}/buy")
async def buy(name: str, request: Request) -> Response:
    body = await request.json()
    reference = _shipments.get(name, {}).get("reference")

    def handle() -> dict[str, Any]:
        shipment = _shipment(name)
        if shipment["tracking_code"]:
            raise Refusal(422, "SHIPMENT.POSTAGE.EXISTS", "Postage already exists for this shipment.")
        rate = next((each for each in shipment["rates"] if each["id"] == body["rate"]["id"]), None)
        if rate is None:
            raise Refusal(422, "SHIPMENT.MISSING_RATE", "The rate does not belong to this shipment.")
        cash = shipment["options"].get("cod_amount", "")
        booking, _ = parcels.book(shipment["reference"] or name, shipment["parcel"]["weight"] / 35.274, cash)
        label = {"object": "PostageLabel", "label_url": f"https://labels.example/{booking.waybill_no}.png"}
        shipment |= {"tracking_code": booking.waybill_no, "selected_rate": rate, "postage_label": label}
        return _with_tracker(shipment)

    return await _respond(request, "buy", str(reference), handle)


@router.post("/v2/shipments/{name}/refund")
async def refund(name: str, request: Request) -> Response:
    def handle() -> dict[str, Any]:
        shipment = _shipment(name)
        if not shipment["tracking_code"] or parcels.routes(shipment["tracking_code"]):
            raise Refusal(422, "SHIPMENT.REFUND.UNAVAILABLE", "Refund request could not be processed.")
        parcels.bookings[shipment["reference"] or name].cancelled = True
        shipment["refund_status"] = "submitted"
        return _with_tracker(shipment)

    return await _respond(request, "refund", name, handle)


@router.get("/v2/trackers")
async def trackers(request: Request, tracking_code: str = "") -> Response:
    def handle() -> dict[str, Any]:
        numbers = [each["tracking_code"] for each in _shipments.values() if each["tracking_code"] == tracking_code]
        return {"trackers": [_tracker(each, parcels.routes(each)) for each in numbers[:1]], "has_more": False}

    return await _respond(request, "trackers", tracking_code, handle)
