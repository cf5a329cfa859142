"""EasyPost: any carrier of the world, by its API v2.

Sources: EasyPost/easypost-python and its recorded answers, docs.easypost.com (shipments, rates, buy, refund, trackers,
events, webhook signatures). EasyPost knows no idempotency key: a shipment carries our ``reference``, and before one is
made or bought, the latest are looked through for it; one that was bought is never bought again. Two tries at the very
same moment could still make two shipments, of which one is bought, for the second finds the first. A parcel on its way
cannot be stopped. Not sourced: how its trackers say that a parcel is back; read so where a scan of ``return_to_sender``
speaks of delivery.

Account: ``base_url`` ``https://api.easypost.com/v2``; secrets ``api_key``, ``webhook_secret``, ``push_secret`` (the end
of the push URL); settings ``carriers`` (those of EasyPost that may be chosen; none named, all), ``service``.
"""

import hmac
import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any
from unicodedata import normalize

from pydantic import AwareDatetime, BaseModel, BeforeValidator, Field, ValidationError

from activities import http
from activities.carriers import PushAnswer, authenticate, content_id, masked
from activities.errors import Unauthentic, Unintelligible, refused, unavailable
from activities.payloads import Code, Fee, Model, Text, decode
from models.address import Addressee
from models.fulfillment import Booking, ExceptionKind, Label, Offer, Scan, TrackingStatus, Waybill
from models.intake import Account, Receipt
from models.money import Money

_OUNCES = Decimal("35.2739619")
_LOOKED_BACK = 100
"""Shipments a page holds."""
_STATUS = {
    "pre_transit": TrackingStatus.LABEL_CREATED,
    "in_transit": TrackingStatus.IN_TRANSIT,
    "out_for_delivery": TrackingStatus.OUT_FOR_DELIVERY,
    "available_for_pickup": TrackingStatus.READY_FOR_PICKUP,
    "delivered": TrackingStatus.DELIVERED,
    "return_to_sender": TrackingStatus.RETURNING,
    "failure": TrackingStatus.DELIVERY_FAILED,
    "error": TrackingStatus.DELIVERY_FAILED,
}
_DETAILS: dict[str, tuple[TrackingStatus, ExceptionKind | None]] = {
    "refused": (TrackingStatus.REFUSED, None),
    "damaged": (TrackingStatus.DAMAGED, None),
    "lost": (TrackingStatus.LOST, None),
    "address_correction": (TrackingStatus.DELIVERY_FAILED, ExceptionKind.WRONG_ADDRESS),
    "received_at_origin_facility": (TrackingStatus.PICKED_UP, None),
    "arrived_at_destination": (TrackingStatus.AT_DESTINATION, None),
    "received_at_destination_facility": (TrackingStatus.AT_DESTINATION, None),
    "arrived_at_pickup_location": (TrackingStatus.READY_FOR_PICKUP, None),
}
_REFUNDED = {"submitted", "refunded"}


class _Rate(BaseModel):
    id: Code
    carrier: Text = ""
    service: Text = ""
    rate: Fee = Decimal(0)
    currency: Text = "USD"
    delivery_days: int | None = None


class _PostageLabel(BaseModel):
    label_url: Text = ""


class _Shipment(BaseModel):
    id: Code
    reference: Text = ""
    tracking_code: Text = ""
    refund_status: Text = ""
    rates: Annotated[list[_Rate], BeforeValidator(lambda value: value or [])] = []
    selected_rate: _Rate | None = None
    postage_label: _PostageLabel | None = None


class _Shipments(BaseModel):
    shipments: list[_Shipment] = []


class _Location(BaseModel):
    city: Text = ""
    country: Text = ""


class _Detail(BaseModel):
    status: Text = ""
    status_detail: Text = ""
    message: Text = ""
    datetime: AwareDatetime
    tracking_location: Annotated[_Location, BeforeValidator(lambda value: value or {})] = _Location()


class _Tracker(BaseModel):
    tracking_code: Code
    tracking_details: Annotated[list[_Detail], BeforeValidator(lambda value: value or []), Field(max_length=500)] = []

    @property
    def scans(self) -> list[Scan]:
        return [_scan(self.tracking_code, each) for each in self.tracking_details]


class _Trackers(BaseModel):
    trackers: list[_Tracker] = []


class _Event(BaseModel):
    id: Code
    description: Text = ""
    result: Annotated[dict[str, Any], BeforeValidator(lambda value: value or {})] = {}


def _scan(waybill_no: str, detail: _Detail) -> Scan:
    status, exception = _DETAILS.get(detail.status_detail, (_STATUS.get(detail.status), None))
    if status is TrackingStatus.RETURNING and "delivered" in detail.message.lower():
        status = TrackingStatus.RETURNED
    text = masked(detail.message)
    at: datetime = detail.datetime
    return Scan(
        waybill_no=waybill_no,
        scan_id=content_id(at, f"{detail.status}{detail.status_detail}{text}"),
        status=status,
        code=detail.status_detail or detail.status,
        at=at,
        place=detail.tracking_location.city,
        text=text,
        exception=exception,
    )


def signature(secret: str, body: bytes) -> str:
    """``X-Hmac-Signature``."""
    key = normalize("NFKD", secret).encode()
    return f"hmac-sha256-hex={hmac.digest(key, body, 'sha256').hex()}"


def _address(person: Addressee) -> dict[str, str]:
    return {
        "name": person.name,
        "phone": person.national_phone,
        "street1": person.full_street,
        "city": person.city,
        "state": person.province,
        "zip": person.postcode,
        "country": person.country,
    }


class EasyPost:
    def __init__(self, account: Account) -> None:
        self._account = account
        self._carriers = set(account.settings.get("carriers", ()))
        self._service = account.settings.get("service")

    async def quote(self, booking: Booking) -> Sequence[Offer]:
        """Asks by a shipment that is not bought; booking finds and buys it."""
        shipment = await self._shipment(booking)
        return [
            Offer(
                product=f"{rate.carrier} {rate.service}".strip(),
                price=Money(amount=rate.rate, currency=rate.currency),
                days=rate.delivery_days,
            )
            for rate in self._rates(shipment)
        ]

    async def book(self, booking: Booking) -> Waybill:
        shipment = await self._shipment(booking)
        if not shipment.tracking_code:
            rates = self._rates(shipment)
            if not rates:
                raise refused("carrier.easypost.no_rates", "no_rates")
            cheapest = min(rates, key=lambda rate: (rate.rate, rate.id))
            told = await self._call("POST", f"/shipments/{shipment.id}/buy", {"rate": {"id": cheapest.id}})
            shipment = _read(_Shipment, told)
        return self._waybill(booking.reference, shipment)

    async def find(self, reference: str) -> Waybill | None:
        shipment = await self._known(reference)
        return self._waybill(reference, shipment) if shipment is not None and shipment.tracking_code else None

    async def cancel(self, reference: str, waybill_no: str = "") -> None:
        shipment = await self._known(reference)
        if shipment is None or not shipment.tracking_code or shipment.refund_status in _REFUNDED:
            return
        told = _read(_Shipment, await self._call("POST", f"/shipments/{shipment.id}/refund", {}))
        if told.refund_status not in _REFUNDED:
            raise refused("carrier.easypost.not_refunded", told.refund_status)

    async def intercept(self, reference: str, waybill_no: str) -> None:
        """Refused always: EasyPost cannot."""
        raise refused("carrier.cannot_intercept", "cannot_intercept")

    async def track(self, waybill_no: str, phone: str = "") -> Sequence[Scan]:
        told = _read(_Trackers, await self._call("GET", "/trackers", params={"tracking_code": waybill_no}))
        return [scan for each in told.trackers[:1] for scan in each.scans]

    def receive(self, headers: Mapping[str, str], body: bytes, secret: str) -> Receipt:
        authenticate(self._account, secret)
        expected = signature(self._account.secrets["webhook_secret"], body)
        if not hmac.compare_digest(expected.encode(), headers.get("x-hmac-signature", "").encode()):
            raise Unauthentic("x-hmac-signature: does not match")
        try:
            event = decode(_Event, body)
        except Unintelligible:
            return Receipt(fact_key=expected.rpartition("=")[2], topic="event")
        return Receipt(fact_key=event.id, topic=event.description)

    def answer(self, headers: Mapping[str, str], body: bytes) -> PushAnswer:
        return PushAnswer(body=b'{"received":true}')

    def parse_push(self, body: bytes, headers: Mapping[str, str]) -> Sequence[Scan]:
        event = decode(_Event, body)
        if not event.description.startswith("tracker."):
            return ()
        return decode(_Tracker, json.dumps(event.result).encode()).scans

    def _rates(self, shipment: _Shipment) -> list[_Rate]:
        return [
            rate
            for rate in shipment.rates
            if (not self._carriers or rate.carrier in self._carriers) and self._service in (None, rate.service)
        ]

    async def _shipment(self, booking: Booking) -> _Shipment:
        """The one of this reference, or a new one."""
        known = await self._known(booking.reference)
        if known is not None:
            return known
        if booking.cash_on_delivery:
            raise refused("carrier.easypost.no_cash", "no_cash")
        asked = {
            "reference": booking.reference,
            "from_address": _address(booking.sender),
            "to_address": _address(booking.recipient),
            "parcel": {"weight": float(round(booking.weight_kg * _OUNCES, 1))},
        }
        return _read(_Shipment, await self._call("POST", "/shipments", {"shipment": asked}))

    async def _known(self, reference: str) -> _Shipment | None:
        """Of several of one reference, the one that was bought."""
        params = {"page_size": str(_LOOKED_BACK), "purchased": "false", "reference": reference}
        told = _read(_Shipments, await self._call("GET", "/shipments", params=params))
        found = [each for each in told.shipments if each.reference == reference]
        return max(found, key=lambda each: bool(each.tracking_code), default=None)

    def _waybill(self, reference: str, shipment: _Shipment) -> Waybill:
        rate, label = shipment.selected_rate, shipment.postage_label
        return Waybill(
            carrier=self._account.source,
            waybill_no=shipment.tracking_code,
            reference=reference,
            label=Label(
                url=label.label_url if label else "",
                product=rate.service if rate else "",
                courier=rate.carrier.lower() if rate else "",
            ),
        )

    async def _call(
        self, method: str, path: str, asked: Any = None, params: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """Raises ``refused`` with EasyPost's code, ``unavailable`` where it is busy or down."""
        key = b64encode(f"{self._account.secrets['api_key']}:".encode()).decode()
        response = await http.send(
            method,
            f"{self._account.base_url.rstrip('/')}{path}",
            content=None if asked is None else json.dumps(asked).encode(),
            params=params,
            headers={"Authorization": f"Basic {key}", "Content-Type": "application/json"},
            telling={400, 401, 402, 403, 404, 422},
        )
        told = http.document(response)
        if response.status_code >= 400:
            error = told.get("error")
            code = str(error.get("code")) if isinstance(error, dict) else str(response.status_code)
            raise refused(f"carrier.easypost.{code}", code)
        return told


def _read(model: type[Model], told: dict[str, Any]) -> Model:
    try:
        return model.model_validate(told)
    except ValidationError:
        raise unavailable("easypost: the answer is not in the format") from None


def adapter(account: Account) -> EasyPost:
    return EasyPost(account)
