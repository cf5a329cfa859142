"""EasyPost's wire format: the webhook's signature, exactly one purchase, refusals, details of trackers."""

import json
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from fastapi import FastAPI, Request
from starlette.responses import Response

from activities.carriers import carrier
from activities.carriers.easypost import signature
from activities.kit import http
from activities.kit.errors import Unauthentic, Unintelligible
from models.exceptions import ExceptionKind
from models.fulfillment import Booking, Label, TrackingStatus
from models.intake import Account, IntegrationType
from models.money import Money
from tests.contract.test_carriers_sf import a_booking, refusal
from tests.serving import served
from tests.unit.orders import RECIPIENT

RESPONSES: dict[str, list[tuple[int, Any]]] = {}
"""The responses to each call in order; the last one repeats."""
REQUESTS: list[tuple[str, Any]] = []
KEYS: list[str] = []


@pytest.fixture(scope="module")
def gateway() -> Iterator[str]:
    app = FastAPI()

    @app.api_route("/v2/{path:path}", methods=["GET", "POST"])
    async def api(path: str, request: Request) -> Response:
        call = f"{request.method} {path}"
        REQUESTS.append((call, await request.json() if request.method == "POST" else dict(request.query_params)))
        KEYS.append(request.headers.get("authorization", ""))
        answers = RESPONSES.get(call, [(404, {"error": {"code": "NOT_FOUND", "errors": ["no such thing"]}})])
        status, body = answers.pop(0) if len(answers) > 1 else answers[0]
        return Response(body if isinstance(body, str) else json.dumps(body), status)

    with served(app) as url:
        yield url


@pytest.fixture(autouse=True)
async def _fresh() -> AsyncIterator[None]:
    RESPONSES.clear()
    REQUESTS.clear()
    yield
    await http.close()


def account(url: str = "http://127.0.0.1:1", **settings: str) -> Account:
    secrets = {"api_key": "EZTK", "webhook_secret": "sécret", "push_secret": "s3cret"}
    return Account(
        integration=IntegrationType.CARRIER,
        source="easypost",
        account="main",
        base_url=url,
        secrets=secrets,
        settings=settings,
    )


def respond(call: str, body: Any, status: int = 200) -> None:
    RESPONSES.setdefault(call, []).append((status, body))


def respond_error(call: str, code: str, status: int = 422) -> None:
    respond(call, {"error": {"code": code, "message": f"{RECIPIENT.name} {RECIPIENT.phone}", "errors": []}}, status)


def calls() -> list[str]:
    return [call for call, _ in REQUESTS]


RATES = [
    {"id": "rate_1", "carrier": "USPS", "service": "Express", "rate": "34.15", "currency": "USD", "delivery_days": 1},
    {"id": "rate_2", "carrier": "UPSDAP", "service": "Ground", "rate": "6.07", "currency": "USD"},
]


def shipment(**more: Any) -> dict[str, Any]:
    to_address = {
        "id": "adr_1",
        "name": RECIPIENT.name,
        "street1": RECIPIENT.street,
        "street2": RECIPIENT.district,
        "city": RECIPIENT.city,
        "state": RECIPIENT.province,
        "zip": None,
        "country": "CN",
        "phone": RECIPIENT.phone,
    }
    begun = {"id": "shp_1", "reference": "W1-F1-abc", "created_at": "2025-03-07T16:46:25Z", "tracking_code": None}
    return {**begun, "to_address": to_address, "parcel": {"weight": 42.4}, "rates": RATES, **more}


def bought(**more: Any) -> dict[str, Any]:
    label = {"label_url": "https://labels.example/1.png"}
    return shipment(tracking_code="9400", selected_rate=RATES[1], postage_label=label, refund_status=None, **more)


LIST = "GET shipments"
BY_REFERENCE = "GET shipments/W1-F1-abc"


async def test_shipment_has_our_reference_and_is_bought_at_the_cheapest_rate(gateway: str) -> None:
    respond("POST shipments", shipment(), 201)
    respond("POST shipments/shp_1/buy", bought())
    booking = a_booking().model_copy(update={"cash_on_delivery": Decimal("88.50")})
    waybill = await carrier(account(gateway)).book(booking)
    assert (waybill.carrier, waybill.waybill_no) == ("easypost", "9400")
    assert waybill.label == Label(product="Ground", url="https://labels.example/1.png", courier="ups")
    assert calls() == [BY_REFERENCE, "POST shipments", "POST shipments/shp_1/buy"]
    sent = REQUESTS[1][1]["shipment"]
    assert (sent["reference"], sent["parcel"]) == ("W1-F1-abc", {"weight": 42.4})
    assert sent["options"] == {"cod_amount": "88.50"}
    assert sent["to_address"]["street1"] == RECIPIENT.street
    assert REQUESTS[2][1] == {"rate": {"id": "rate_2"}}


async def test_product_of_the_settings_is_bought(gateway: str) -> None:
    respond("POST shipments", shipment(), 201)
    respond("POST shipments/shp_1/buy", bought())
    await carrier(account(gateway, product="USPS Express")).book(a_booking())
    assert REQUESTS[-1][1] == {"rate": {"id": "rate_1"}}
    error = await refusal(carrier(account(gateway, product="USPS Nothing")).book(a_booking()))
    assert error.message == "carrier.easypost.no_rates"


async def test_bought_shipment_is_not_bought_again(gateway: str) -> None:
    respond(BY_REFERENCE, bought())
    assert (await carrier(account(gateway)).book(a_booking())).waybill_no == "9400"
    assert calls() == [BY_REFERENCE]


async def test_unbought_shipment_is_bought_instead_of_a_second_one(gateway: str) -> None:
    respond(BY_REFERENCE, shipment())
    respond(LIST, {"shipments": [bought(reference="another")], "has_more": False})
    respond("POST shipments/shp_1/rerate", {"rates": [{**RATES[1], "id": "rate_9"}]})
    respond("POST shipments/shp_1/buy", bought())
    assert (await carrier(account(gateway)).book(a_booking())).waybill_no == "9400"
    assert "POST shipments" not in calls()
    assert REQUESTS[-1][1] == {"rate": {"id": "rate_9"}}


@pytest.mark.parametrize("change", [{"street": "别处1号"}, {"phone": "13900000000"}, {"name": "别人"}])
async def test_unbought_shipment_to_another_address_is_not_used(gateway: str, change: dict[str, str]) -> None:
    respond(BY_REFERENCE, shipment())
    respond(LIST, {"shipments": [], "has_more": False})
    respond("POST shipments", shipment(id="shp_2"), 201)
    respond("POST shipments/shp_2/buy", bought(id="shp_2"))
    booking: Booking = a_booking().model_copy(update={"recipient": RECIPIENT.model_copy(update=change)})
    await carrier(account(gateway)).book(booking)
    assert calls()[-1] == "POST shipments/shp_2/buy"


async def test_concurrent_purchase_is_returned(gateway: str) -> None:
    respond("POST shipments", shipment(), 201)
    respond_error("POST shipments/shp_1/buy", "SHIPMENT.POSTAGE.EXISTS")
    respond("GET shipments/shp_1", bought())
    assert (await carrier(account(gateway)).book(a_booking())).waybill_no == "9400"


async def test_bought_shipment_is_found_among_those_of_a_reference(gateway: str) -> None:
    respond(BY_REFERENCE, shipment())
    respond(LIST, {"shipments": [bought(id="shp_8", reference="another")], "has_more": True})
    respond(LIST, {"shipments": [bought(id="shp_7")], "has_more": False})
    assert (found := await carrier(account(gateway)).find("W1-F1-abc")) is not None
    assert found.waybill_no == "9400"
    first, second = (query for call, query in REQUESTS if call == LIST)
    assert (first["purchased"], first["start_datetime"]) == ("true", "2025-03-07T16:46:25Z")
    assert second["before_id"] == "shp_8"


async def test_refunded_shipment_is_not_a_booking(gateway: str) -> None:
    respond(BY_REFERENCE, {**bought(), "refund_status": "submitted"})
    respond(LIST, {"shipments": [], "has_more": True})
    ours = carrier(account(gateway))
    assert await ours.find("W1-F1-abc") is None
    await ours.cancel("W1-F1-abc", "9400")
    assert "POST shipments/shp_1/refund" not in calls()


@pytest.mark.parametrize("code", ["SHIPMENT.PURCHASE.IN_PROGRESS", "SHIPMENT.POSTAGE.NO_RESPONSE"])
async def test_purchase_in_progress_is_retryable(gateway: str, code: str) -> None:
    respond("POST shipments", shipment(), 201)
    respond_error("POST shipments/shp_1/buy", code)
    assert (await refusal(carrier(account(gateway)).book(a_booking()))).type == "Unavailable"


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (422, {"error": {"code": "ADDRESS.COUNTRY.INVALID", "message": RECIPIENT.phone}}, "ADDRESS.COUNTRY.INVALID"),
        (402, {"error": {"code": "PAYMENT_REQUIRED", "errors": ["text"]}}, "PAYMENT_REQUIRED"),
        (422, {"error": "text"}, "422"),
        (400, "<html>", "400"),
        (401, {"error": {"code": "UNAUTHORIZED"}}, "401"),
    ],
)
async def test_refusal_is_final_and_holds_no_personal_data(gateway: str, status: int, body: Any, code: str) -> None:
    respond("POST shipments", body, status)
    error = await refusal(carrier(account(gateway)).book(a_booking()))
    assert (error.type, error.details[0]) == ("Refused", code)
    assert RECIPIENT.phone not in error.message


@pytest.mark.parametrize("body", ["", "<html>", "[]", '{"id":"shp_1","rates":[{}]}'])
async def test_malformed_response_is_retryable(gateway: str, body: str) -> None:
    respond("POST shipments", body)
    assert (await refusal(carrier(account(gateway)).book(a_booking()))).type == "Unavailable"


async def test_refund_cancels_an_unshipped_shipment(gateway: str) -> None:
    respond(BY_REFERENCE, bought(tracker={"status": "pre_transit"}))
    respond("POST shipments/shp_1/refund", {**bought(), "refund_status": "submitted"})
    respond("POST shipments/shp_1/refund", {**bought(), "refund_status": "rejected"})
    ours = carrier(account(gateway))
    await ours.cancel("W1-F1-abc")
    assert (await refusal(ours.cancel("W1-F1-abc"))).message == "carrier.easypost.not_refunded"


async def test_shipment_in_transit_is_not_refunded(gateway: str) -> None:
    respond(BY_REFERENCE, bought(tracker={"status": "in_transit"}))
    assert (await refusal(carrier(account(gateway)).cancel("W1-F1-abc"))).details[0] == "in_transit"
    assert calls() == [BY_REFERENCE]


async def test_rates_are_offers_in_their_own_currency(gateway: str) -> None:
    respond("POST shipments", shipment(), 201)
    first, second = await carrier(account(gateway)).quote(a_booking())
    assert (first.product, first.price, first.days) == (
        "USPS Express",
        Money(amount=Decimal("34.15"), currency="USD"),
        1,
    )
    assert second.days is None
    assert "reference" not in REQUESTS[0][1]["shipment"]


async def test_key_is_the_user_of_basic_authentication(gateway: str) -> None:
    respond("GET trackers", {"trackers": [{"tracking_code": "other"}]})
    assert await carrier(account(gateway)).track("9400") == []
    assert REQUESTS == [("GET trackers", {"tracking_code": "9400"})]
    assert KEYS[-1] == "Basic " + b64encode(b"EZTK:").decode()


# Webhooks

DETAIL = {
    "object": "TrackingDetail",
    "message": "Arrived at facility",
    "status": "in_transit",
    "status_detail": "arrived_at_facility",
    "datetime": "2024-07-31T22:35:00Z",
    "tracking_location": {"city": "ORLANDO", "state": "FL", "country": "US", "zip": "32809"},
}


def push(*details: dict[str, Any], **more: Any) -> bytes:
    result = {"id": "trk_1", "tracking_code": "9400", "status": "in_transit", "tracking_details": list(details)}
    return json.dumps({"id": "evt_1", "description": "tracker.updated", "result": result, **more}).encode()


def test_signature_decomposes_the_secret() -> None:
    """Computed with openssl, because the body of EasyPost's published example is too long."""
    expected = "648a648ccf2d4fb82924f631da8d92ecfb4d0e8406023c78f9a215117f1ac4d0"
    assert signature("sécret", b'{"id":"evt_1"}') == f"hmac-sha256-hex={expected}"


def test_webhook_is_verified_by_secret_and_signature() -> None:
    ours = carrier(account())
    body = push(DETAIL)
    signed = {"x-hmac-signature": signature("sécret", body)}
    receipt = ours.receive(signed, body, "s3cret")
    assert (receipt.fact_key, receipt.topic) == ("evt_1", "tracker.updated")
    again = push(DETAIL, status="retrying")
    assert ours.receive({"x-hmac-signature": signature("sécret", again)}, again, "s3cret").fact_key == "evt_1"
    assert ours.receive({"x-hmac-signature": signature("sécret", b"x")}, b"x", "s3cret").fact_key
    for headers, rejected, secret in ((signed, body, "wrong"), (signed, again, "s3cret"), ({}, body, "s3cret")):
        with pytest.raises(Unauthentic):
            ours.receive(headers, rejected, secret)
    assert ours.answer({}, body).status == 200


def test_webhook_yields_every_scan_of_its_tracker() -> None:
    later = {**DETAIL, "datetime": "2024-08-01T14:42:13Z", "tracking_location": None, "message": "Call 555-555-5555"}
    first, second = carrier(account()).parse_push(push(DETAIL, later), {})
    assert (first.waybill_no, first.place, first.code) == ("9400", "ORLANDO, FL, US", "in_transit:arrived_at_facility")
    assert first.at == datetime(2024, 7, 31, 22, 35, tzinfo=UTC)
    assert (second.place, second.text) == ("", "Call ****")
    assert first.scan_id != second.scan_id


def test_webhook_of_another_kind_yields_no_scan() -> None:
    body = json.dumps({"id": "evt_2", "description": "batch.updated", "result": {"id": "batch_1"}}).encode()
    assert carrier(account()).parse_push(body, {}) == ()


@pytest.mark.parametrize(
    ("status", "detail", "message", "expected", "problem"),
    [
        ("pre_transit", "label_created", "", TrackingStatus.LABEL_CREATED, None),
        ("in_transit", "arrived_at_facility", "Picked up", TrackingStatus.PICKED_UP, None),
        ("in_transit", "received_at_origin_facility", "", TrackingStatus.PICKED_UP, None),
        ("in_transit", None, "", TrackingStatus.IN_TRANSIT, None),
        ("in_transit", "received_at_destination_facility", "", TrackingStatus.AT_DESTINATION, None),
        ("in_transit", "address_correction", "", TrackingStatus.IN_TRANSIT, ExceptionKind.WRONG_ADDRESS),
        ("out_for_delivery", "out_for_delivery", "", TrackingStatus.OUT_FOR_DELIVERY, None),
        ("available_for_pickup", "", "", TrackingStatus.READY_FOR_PICKUP, None),
        ("delivered", "arrived_at_destination", "", TrackingStatus.DELIVERED, None),
        ("delivered", "", "Delivered to Original Sender", TrackingStatus.RETURNED, None),
        ("return_to_sender", "return", "", TrackingStatus.RETURNING, None),
        ("failure", "delivery_exception", "", TrackingStatus.DELIVERY_FAILED, None),
        ("failure", "refused", "", TrackingStatus.REFUSED, None),
        ("failure", "lost", "", TrackingStatus.LOST, None),
        ("failure", "damaged", "", TrackingStatus.DAMAGED, None),
        ("cancelled", "", "", None, None),
        ("unknown", "unknown", "", None, None),
        ("teleported", "", "", None, None),
        (None, None, "", None, None),
    ],
)
def test_statuses_are_mapped_and_unknown_ones_are_kept(
    status: Any, detail: Any, message: str, expected: TrackingStatus | None, problem: ExceptionKind | None
) -> None:
    pushed = {**DETAIL, "status": status, "status_detail": detail, "message": message}
    (scan,) = carrier(account()).parse_push(push(pushed), {})
    assert (scan.status, scan.exception) == (expected, problem)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (push({**DETAIL, "datetime": "gestern"}), "result.tracking_details[0].datetime"),
        (push({**DETAIL, "datetime": "2024-07-31T22:35:00"}), "result.tracking_details[0].datetime"),
        (push(result={"tracking_code": ""}), "result.tracking_code"),
        (push(id=None), "id"),
        (b"{", "body"),
    ],
)
def test_malformed_webhook_names_its_field(body: bytes, field: str) -> None:
    with pytest.raises(Unintelligible) as caught:
        carrier(account()).parse_push(body, {})
    assert caught.value.field == field
