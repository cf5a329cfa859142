"""EasyPost's twin: shipments with rates, bought and refunded, trackers, and signed events with the whole trace.

Account: ``base_url`` ``{sandbox}/easypost/v2``; secrets ``SECRETS`` and a ``push_secret`` of one's own.
"""

import hmac
import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any
from unicodedata import normalize
from uuid import uuid4

import httpx
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from starter.sandbox import faults
from starter.sandbox.parcels import Parcels, Route

SECRETS = {"api_key": "EZTK-sandbox", "webhook_secret": "sécret"}
PATH = "/v2"
SETTINGS: dict[str, Any] = {}
BOOK = "shipments"
"""Where a shipment is made, looked for, and bought."""

_TO_THE_DOOR = (
    {
        "code": "in_transit",
        "text": "Accepted by the carrier",
        "place": "SHANGHAI",
        "reason": "received_at_origin_facility",
    },
    {"code": "in_transit", "text": "Departed", "place": "SHANGHAI", "reason": "departed_facility"},
    {"code": "out_for_delivery", "text": "Out for delivery", "place": "CANTON", "reason": "out_for_delivery"},
)
JOURNEYS: Mapping[str, Sequence[Mapping[str, str]]] = {
    "delivered": (*_TO_THE_DOOR, {"code": "delivered", "text": "Delivered", "place": "CANTON"}),
    "refused": (
        *_TO_THE_DOOR,
        {"code": "failure", "text": "Refused", "place": "CANTON", "reason": "refused"},
        {"code": "return_to_sender", "text": "Returning", "place": "CANTON", "reason": "return"},
        {"code": "return_to_sender", "text": "Delivered to sender", "place": "SHANGHAI"},
    ),
    "failed": (*_TO_THE_DOOR, {"code": "failure", "text": "Nobody there", "place": "CANTON", "reason": "no_access"}),
    "wrong_address": (
        *_TO_THE_DOOR,
        {"code": "failure", "text": "Bad address", "place": "CANTON", "reason": "address_correction"},
    ),
    "lost": (*_TO_THE_DOOR[:2], {"code": "failure", "text": "Lost", "place": "CANTON", "reason": "lost"}),
    "damaged": (*_TO_THE_DOOR[:2], {"code": "failure", "text": "Damaged", "place": "CANTON", "reason": "damaged"}),
    "silent": (),
    "intercepted": (),
}
_shipments: dict[str, dict[str, Any]] = {}
_numbers = count(1)


def _tracker(number: str, routes: Sequence[Route]) -> dict[str, Any]:
    details = [
        {
            "object": "TrackingDetail",
            "status": route.code,
            "status_detail": route.reason,
            "message": route.text,
            "datetime": route.at.isoformat(),
            "tracking_location": {"city": route.place, "country": "US"},
        }
        for route in routes
    ]
    return {"object": "Tracker", "tracking_code": number, "tracking_details": details}


def _pushed(routes: Sequence[Route]) -> tuple[Mapping[str, str], bytes]:
    number = routes[0].waybill_no
    event = {
        "object": "Event",
        "id": f"evt_{uuid4().hex}",
        "description": "tracker.updated",
        "mode": "test",
        "result": _tracker(number, routes),
    }
    body = json.dumps(event).encode()
    key = normalize("NFKD", SECRETS["webhook_secret"]).encode()
    signed = f"hmac-sha256-hex={hmac.digest(key, body, 'sha256').hex()}"
    return {"Content-Type": "application/json", "X-Hmac-Signature": signed}, body


def _taken(answer: httpx.Response) -> bool:
    return answer.is_success


router = APIRouter()
parcels = Parcels(
    router, number=lambda n: f"EZ{1_000_000_000 + n}", journeys=JOURNEYS, size=1, render=_pushed, taken=_taken
)


class Refusal(Exception):
    """A status and a code."""


@router.api_route("/v2/{path:path}", methods=["GET", "POST"])
async def call(path: str, request: Request) -> Response:
    body, query = (await request.body()).decode(), dict(request.query_params)

    async def work() -> Response:
        try:
            key = b64encode(f"{SECRETS['api_key']}:".encode()).decode()
            if request.headers.get("authorization") != f"Basic {key}":
                raise Refusal(401, "APIKEY.INACTIVE")
            return JSONResponse(_answer(request.method, path.split("/"), json.loads(body or "{}"), query))
        except Refusal as refusal:
            status, code = refusal.args
            return JSONResponse({"error": {"code": code, "message": code, "errors": []}}, status)

    name = path.split("/")[0]
    text = body + query.get("reference", "")
    return await faults.play("easypost", name, text, work)


def _answer(method: str, path: list[str], told: dict[str, Any], query: dict[str, str]) -> dict[str, Any]:
    match method, path:
        case "GET", ["shipments"]:
            found = [each for each in _shipments.values() if each["reference"] == query.get("reference")]
            for each in found:
                if each["tracking_code"]:
                    parcels.bookings[each["reference"]].calls += 1
            return {"shipments": found, "has_more": False}
        case "POST", ["shipments"]:
            return _create(told["shipment"])
        case "POST", ["shipments", number, "buy"]:
            return _buy(_shipments[number], told["rate"]["id"])
        case "POST", ["shipments", number, "refund"]:
            return _refund(_shipments[number])
        case "GET", ["trackers"]:
            number = query["tracking_code"]
            return {"trackers": [_tracker(number, parcels.routes(number))] if parcels.routes(number) else []}
    raise Refusal(404, "NOT_FOUND")


def _create(told: dict[str, Any]) -> dict[str, Any]:
    for role in ("from_address", "to_address"):
        if not (told[role].get("street1") and told[role].get("country")):
            raise Refusal(422, "SHIPMENT.INVALID_PARAMS")
    number = f"shp_{next(_numbers)}"
    rates = [
        {"id": f"rate_{number}_{service}", "carrier": "USPS", "service": service, "rate": price, "currency": "USD"}
        for service, price in (("Priority", "7.58"), ("Express", "31.40"))
    ]
    _shipments[number] = {
        "id": number,
        "reference": told["reference"],
        "weight": told["parcel"]["weight"],
        "tracking_code": None,
        "refund_status": None,
        "rates": rates,
    }
    return _shipments[number]


def _buy(shipment: dict[str, Any], rate: str) -> dict[str, Any]:
    if shipment["tracking_code"]:
        raise Refusal(422, "SHIPMENT.POSTAGE.EXISTS")
    booking, _ = parcels.book(shipment["reference"], shipment["weight"], "")
    shipment["tracking_code"] = booking.waybill_no
    shipment["selected_rate"] = next(each for each in shipment["rates"] if each["id"] == rate)
    shipment["postage_label"] = {"label_url": f"https://easypost-files.example/{booking.waybill_no}.png"}
    return shipment


def _refund(shipment: dict[str, Any]) -> dict[str, Any]:
    booking = parcels.bookings[shipment["reference"]]
    if booking.routes:
        shipment["refund_status"] = "rejected"
    else:
        booking.cancelled, shipment["refund_status"] = True, "submitted"
    return shipment
