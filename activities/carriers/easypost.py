"""EasyPost: many carriers of the world behind one API; JSON requests, signed webhooks.

Sources: docs.easypost.com (objects, references), EasyPost's own client libraries and the responses recorded in their
tests (shipments, rates, refunds, trackers, events, errors, ``X-Hmac-Signature``), published types for error codes. From
general knowledge: the values of ``status_detail``, and option ``cod_amount``. Not supported: parcels across a border,
for a booking holds no customs data; interception, for EasyPost has no interface for it.

Exactly once: a purchase takes no idempotency key, but a shipment can be bought only once. So the shipment is created
under our reference and queried by it before anything is created or bought again: a bought shipment is returned, an
unbought one is bought if it still matches the booking. Remaining risk: references are not unique at EasyPost, so a
booking that changes during the purchase of its first shipment may be bought twice.

Account: ``base_url`` ``https://api.easypost.com``; secrets ``api_key``, ``webhook_secret``, ``push_secret`` (the end of
the push URL); setting ``product``, a carrier and its service such as ``USPS Priority``, by default the cheapest.
"""

import base64
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from decimal import ROUND_UP, Decimal
from hashlib import sha256
from typing import Annotated, Any
from unicodedata import normalize

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ValidationError
from temporalio.exceptions import ApplicationError

from activities.carriers import (
    PushAnswer,
    Scans,
    authenticate,
    cannot_intercept,
    check_signature,
    mask_personal_data,
    read_each,
    read_response,
    refusal,
)
from activities.kit import http
from activities.kit.errors import Unintelligible, refused, unavailable
from activities.kit.payloads import Code, Model, Text, decode
from activities.vendors.gateway import documented_format
from models.accounts import PUSH_SECRET, AccountFields, secret, setting
from models.address import Addressee
from models.exceptions import ExceptionKind
from models.fulfillment import Booking, Label, Offer, Scan, TrackingStatus, Waybill
from models.intake import Account, Receipt
from models.money import Money

ACCOUNT = AccountFields(
    console="easypost",
    fields=(
        secret("api_key"),
        secret("webhook_secret", required=False),
        PUSH_SECRET,
        setting("product", about="easypost_product"),
    ),
    base_url="https://api.easypost.com",
)

LABEL_HOSTS = (
    "easypost.com",
    "geteasypost.com",
    "easypost-files.s3.us-west-2.amazonaws.com",
    "easypost-files.s3-us-west-2.amazonaws.com",
    "easypost-files.s3.amazonaws.com",
)
_OUNCES_PER_KG = Decimal("35.27396195")
_ERROR_STATUSES = frozenset({400, 402, 403, 404, 409, 412, 422})
"""Statuses whose body holds an error code."""
_NOT_FOUND = "NOT_FOUND"
_ALREADY_BOUGHT = "SHIPMENT.POSTAGE.EXISTS"
_TRANSIENT_CODES = {
    "SHIPMENT.PURCHASE.IN_PROGRESS",
    "SHIPMENT.POSTAGE.NO_RESPONSE",
    "SHIPMENT.POSTAGE.TIMED_OUT",
    "REFUND.NO_RESPONSE",
    "ADDRESS.VERIFY.UPSTREAM_UNAVAILABLE",
}
_REFUNDED = {"submitted", "refunded"}
_NOT_SHIPPED = {"", "unknown", "pre_transit"}
_COURIERS = {"UPSDAP": "ups", "FedExDefault": "fedex", "DHLExpress": "dhl", "DhlExpress": "dhl"}
"""Couriers whose name at EasyPost, in lower case, differs from their name here."""

_STATUS: dict[str, TrackingStatus | None] = {
    "pre_transit": TrackingStatus.LABEL_CREATED,
    "in_transit": TrackingStatus.IN_TRANSIT,
    "out_for_delivery": TrackingStatus.OUT_FOR_DELIVERY,
    "available_for_pickup": TrackingStatus.READY_FOR_PICKUP,
    "delivered": TrackingStatus.DELIVERED,
    "return_to_sender": TrackingStatus.RETURNING,
    "failure": TrackingStatus.DELIVERY_FAILED,
    **dict.fromkeys(("unknown", "cancelled", "error"), None),
}
"""``status`` of trackers, by EasyPost's document of the object."""
_DETAIL = {
    "arrived_at_pickup_location": TrackingStatus.READY_FOR_PICKUP,
    "received_at_origin_facility": TrackingStatus.PICKED_UP,
    **dict.fromkeys(("arrived_at_destination", "received_at_destination_facility"), TrackingStatus.AT_DESTINATION),
    "delivery_exception": TrackingStatus.DELIVERY_FAILED,
    "refused": TrackingStatus.REFUSED,
    "return": TrackingStatus.RETURNING,
    "lost": TrackingStatus.LOST,
    "damaged": TrackingStatus.DAMAGED,
}
"""Details that are more precise than their status."""
_PICKED_UP = re.compile(r"picked up", re.IGNORECASE)
_TO_SENDER = re.compile(r"(original|return\w* to) sender", re.IGNORECASE)


class _Rate(BaseModel):
    id: Text = ""
    carrier: Text = ""
    service: Text = ""
    rate: Decimal
    currency: str = "USD"
    delivery_days: int | None = None

    @property
    def product(self) -> str:
        return f"{self.carrier} {self.service}"


class _Rates(BaseModel):
    rates: Annotated[list[_Rate], BeforeValidator(lambda value: value or [])] = []


class _Address(BaseModel):
    name: Text = ""
    street1: Text = ""
    street2: Text = ""
    city: Text = ""
    state: Text = ""
    zip: Text = ""
    country: Text = ""
    phone: Text = ""

    @property
    def comparable(self) -> tuple[str, ...]:
        """Return the fields with the phone's digits only: EasyPost returns them as sent except for its punctuation."""
        fields = self.model_dump(exclude={"phone"})
        return (*fields.values(), re.sub(r"\D", "", self.phone))


class _Parcel(BaseModel):
    weight: Decimal = Decimal(0)


class _PostageLabel(BaseModel):
    label_url: Text = ""


class _State(BaseModel):
    status: Text = ""


class _Shipment(_Rates):
    id: Code
    reference: Text = ""
    created_at: Text = ""
    tracking_code: Text = ""
    refund_status: Text = ""
    to_address: _Address = _Address()
    parcel: _Parcel = _Parcel()
    postage_label: _PostageLabel | None = None
    selected_rate: _Rate | None = None
    tracker: _State | None = None

    @property
    def booked(self) -> bool:
        return bool(self.tracking_code) and self.refund_status not in _REFUNDED


class _Page(BaseModel):
    shipments: list[_Shipment] = []
    has_more: bool = False


class _Location(BaseModel):
    city: Text = ""
    state: Text = ""
    country: Text = ""


class _Detail(BaseModel):
    datetime: AwareDatetime
    status: Text = ""
    status_detail: Text = ""
    message: Text = ""
    tracking_location: _Location | None = None

    @property
    def tracking(self) -> TrackingStatus | None:
        status = _STATUS.get(self.status)
        if status is TrackingStatus.DELIVERED:
            return TrackingStatus.RETURNED if _TO_SENDER.search(self.message) else status
        if status is TrackingStatus.IN_TRANSIT and _PICKED_UP.search(self.message):
            return TrackingStatus.PICKED_UP
        return _DETAIL.get(self.status_detail, status)

    def scan(self, waybill_no: str, carrier: str) -> Scan:
        location = self.tracking_location or _Location()
        code = f"{self.status}:{self.status_detail}".rstrip(":")
        return Scan(
            waybill_no=waybill_no,
            scan_id=f"{code}:{self.datetime.isoformat()}",
            status=self.tracking,
            code=code,
            at=self.datetime,
            place=", ".join(part for part in (location.city, location.state, location.country) if part),
            text=mask_personal_data(self.message),
            exception=ExceptionKind.WRONG_ADDRESS if self.status_detail == "address_correction" else None,
            carrier=carrier,
            unknown=bool(self.status) and self.status not in _STATUS,
        )


class _Tracker(BaseModel):
    tracking_code: Code
    carrier: Text = ""
    tracking_details: Annotated[list[Any], BeforeValidator(lambda value: value or [])] = []

    def scans(self, path: str) -> Scans:
        """Return the scans; ``path`` is the field of the tracker in its message."""
        carrier = _courier(self.carrier)
        return read_each(
            _Detail,
            self.tracking_details,
            f"{path}tracking_details",
            lambda detail: detail.scan(self.tracking_code, carrier),
        )


class _Trackers(BaseModel):
    trackers: list[Any] = []


class _Event(BaseModel):
    id: Code
    description: Text = ""


class _TrackerEvent(_Event):
    result: _Tracker


class _Error(BaseModel):
    code: Text = ""


class _ErrorResponse(BaseModel):
    error: _Error = _Error()


def signature(secret: str, body: bytes) -> str:
    """Return ``X-Hmac-Signature``; the secret is normalised to NFKD first."""
    return "hmac-sha256-hex=" + hmac.digest(normalize("NFKD", secret).encode(), body, "sha256").hex()


def _courier(name: str) -> str:
    """Return a courier of EasyPost's as it is named here."""
    return _COURIERS.get(name, name.lower())


def _address(person: Addressee) -> _Address:
    return _Address(
        name=person.name,
        street1=person.street,
        street2=" ".join(part for part in (person.town, person.district) if part),
        city=person.city,
        state=person.province,
        zip=person.postcode,
        country=person.country,
        phone=person.phone,
    )


def _ounces(booking: Booking) -> Decimal:
    return max((booking.weight_kg * _OUNCES_PER_KG).quantize(Decimal("0.1"), ROUND_UP), Decimal("0.1"))


class EasyPost:
    def __init__(self, account: Account) -> None:
        self._account = account

    async def quote(self, booking: Booking) -> Sequence[Offer]:
        shipment = await self._create(booking, "")
        return [
            Offer(product=rate.product, price=Money(amount=rate.rate, currency=rate.currency), days=rate.delivery_days)
            for rate in shipment.rates
        ]

    async def book(self, booking: Booking) -> Waybill:
        booked, unbought = await self._look_up(booking.reference)
        if booked is None:
            booked = await self._buy(unbought, booking)
        return self._waybill(booking.reference, booked)

    async def find(self, reference: str) -> Waybill | None:
        booked, _ = await self._look_up(reference)
        return None if booked is None else self._waybill(reference, booked)

    async def cancel(self, reference: str, waybill_no: str = "") -> None:
        """Request a refund. Carriers decide on refunds later, so refuse here once the parcel is in transit."""
        booked, _ = await self._look_up(reference)
        if booked is None:
            return
        if booked.tracker is not None and booked.tracker.status not in _NOT_SHIPPED:
            raise refused("carrier.easypost.on_its_way", booked.tracker.status)
        refund = await self._call(_Shipment, "POST", f"shipments/{booked.id}/refund", {})
        if refund.refund_status not in _REFUNDED:
            raise refused("carrier.easypost.not_refunded", refund.refund_status)

    async def intercept(self, reference: str, waybill_no: str) -> None:
        """Always refuse: EasyPost has no interface for it."""
        raise cannot_intercept()

    async def track(self, waybill_no: str, phone: str = "") -> Sequence[Scan]:
        response = await self._call(_Trackers, "GET", "trackers", params={"tracking_code": waybill_no})
        with documented_format("easypost"):
            scans = read_each(
                _Tracker,
                response.trackers,
                "trackers",
                lambda tracker: tracker.scans("") if tracker.tracking_code == waybill_no else Scans(),
            )
        return scans

    def receive(self, headers: Mapping[str, str], body: bytes, secret: str) -> Receipt:
        """The event id identifies an event: a repeated event has another body."""
        authenticate(self._account, secret)
        expected = signature(self._account.secrets["webhook_secret"], body)
        check_signature("x-hmac-signature", expected, headers.get("x-hmac-signature", ""))
        try:
            event = decode(_Event, body)
        except Unintelligible:
            return Receipt(fact_key=sha256(body).hexdigest())
        return Receipt(fact_key=event.id, topic=event.description)

    def answer(self, headers: Mapping[str, str], body: bytes) -> PushAnswer:
        return PushAnswer(body=b"{}")

    def parse_push(self, body: bytes, headers: Mapping[str, str]) -> Sequence[Scan]:
        """Return all scans of the tracker; none for an event of another object."""
        if not decode(_Event, body).description.startswith("tracker."):
            return ()
        return decode(_TrackerEvent, body).result.scans("result.")

    def _waybill(self, reference: str, shipment: _Shipment) -> Waybill:
        rate, label = shipment.selected_rate, shipment.postage_label
        carrier = rate.carrier if rate else ""
        return Waybill(
            carrier=self._account.source,
            waybill_no=shipment.tracking_code,
            reference=reference,
            label=Label(
                product=rate.service if rate else "",
                url=label.label_url if label else "",
                courier=_courier(carrier),
            ),
        )

    async def _look_up(self, reference: str) -> tuple[_Shipment | None, _Shipment | None]:
        """Return the bought shipment under our reference, or else the one that was created and not bought."""
        try:
            found = await self._call(_Shipment, "GET", f"shipments/{reference}")
        except ApplicationError as error:
            if error.details[:1] != (_NOT_FOUND,):
                raise
            return None, None
        if found.booked:
            return found, None
        window = {"purchased": "true", "start_datetime": found.created_at, "page_size": "100"}
        page = _Page(has_more=True)
        while page.has_more:
            before = {"before_id": page.shipments[-1].id} if page.shipments else {}
            page = await self._call(_Page, "GET", "shipments", params=window | before)
            for each in page.shipments:
                if each.reference == reference and each.booked:
                    return each, None
            if not page.shipments:
                break
        return None, None if found.tracking_code else found

    async def _buy(self, unbought: _Shipment | None, booking: Booking) -> _Shipment:
        if unbought is not None and self._matches(unbought, booking):
            shipment = unbought
            rates = (await self._call(_Rates, "POST", f"shipments/{unbought.id}/rerate", {})).rates
        else:
            shipment = await self._create(booking, booking.reference)
            rates = shipment.rates
        product = self._account.settings.get("product")
        eligible = [rate for rate in rates if product in (None, "", rate.product)]
        if not eligible:
            raise refused("carrier.easypost.no_rates", "no_rates")
        body = {"rate": {"id": min(eligible, key=lambda rate: rate.rate).id}}
        try:
            return await self._call(_Shipment, "POST", f"shipments/{shipment.id}/buy", body)
        except ApplicationError as error:
            if error.details[:1] != (_ALREADY_BOUGHT,):
                raise
            return await self._call(_Shipment, "GET", f"shipments/{shipment.id}")

    def _matches(self, shipment: _Shipment, booking: Booking) -> bool:
        """Return whether address and weight of a shipment are still those of the booking."""
        return shipment.to_address.comparable == _address(
            booking.recipient
        ).comparable and shipment.parcel.weight == _ounces(booking)

    async def _create(self, booking: Booking, reference: str) -> _Shipment:
        message: dict[str, Any] = {
            "to_address": _address(booking.recipient).model_dump(),
            "from_address": _address(booking.sender).model_dump(),
            "parcel": {"weight": float(_ounces(booking))},
        }
        if reference:
            message["reference"] = reference
        if booking.cash_on_delivery:
            message["options"] = {"cod_amount": str(booking.cash_on_delivery)}
        return await self._call(_Shipment, "POST", "shipments", {"shipment": message})

    async def _call(
        self,
        model: type[Model],
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        params: dict[str, str] | None = None,
    ) -> Model:
        """Return the decoded response. Raise ``ApplicationError`` with EasyPost's error code."""
        key = base64.b64encode(f"{self._account.secrets['api_key']}:".encode()).decode()
        response = await http.send(
            method,
            f"{self._account.base_url.rstrip('/')}/v2/{path}",
            content=None if body is None else json.dumps(body).encode(),
            params=params,
            headers={"Authorization": f"Basic {key}", "Content-Type": "application/json"},
            allowed_statuses=_ERROR_STATUSES,
        )
        if response.status_code >= 400:
            raise _error(response.status_code, response.content)
        return read_response("easypost", model, response.content)


def _error(status: int, content: bytes) -> ApplicationError:
    try:
        code = _ErrorResponse.model_validate_json(content).error.code
    except ValidationError:
        code = ""
    if code in _TRANSIENT_CODES:
        return unavailable("error.unavailable", vendor="easypost", code=code)
    code = _NOT_FOUND if status == 404 else code or str(status)
    return refusal("easypost", code)


def adapter(account: Account) -> EasyPost:
    return EasyPost(account)
