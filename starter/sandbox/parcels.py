"""Shared by the twins of carriers: bookings by reference, and the journeys of their parcels.

A twin adds its own wire format: it parses bookings and renders routes as its carrier pushes them.
"""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone
from itertools import count

import httpx
from fastapi import APIRouter, HTTPException, Request
from pydantic import BaseModel, Field

from starter.sandbox.outbox import Outbox, spawn
from starter.sandbox.shops import Strict

CHINA = timezone(timedelta(hours=8))
_route_ids = count(158_918_741_444_476)

_PREFIXES = {
    "SF": "sf",
    "YT": "yto",
    "JD": "jdl",
    "DPK": "debang",
    "77": "sto",
    "7": "zto",
    "4": "yunda",
    "1": "ems",
}
"""Prefixes of waybill numbers, the likelier first."""


def china_time(moment: datetime) -> str:
    """Return a time as Chinese carriers write it: ``2026-11-11 00:00:00``, GMT+8."""
    return moment.astimezone(CHINA).strftime("%Y-%m-%d %H:%M:%S")


def carriers_of(waybill_no: str) -> list[str]:
    """Return the carriers that a number may belong to, the likeliest first."""
    return [carrier for prefix, carrier in _PREFIXES.items() if waybill_no.startswith(prefix)]


class Route(BaseModel):
    """One scan, independent of the carrier's format; ``code`` is the carrier's own."""

    waybill_no: str
    code: str
    text: str = ""
    place: str = ""
    reason: str = ""
    signer: str = ""
    reference: str = ""
    at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    id: str = Field(default_factory=lambda: str(next(_route_ids)))


class Booking(BaseModel):
    reference: str
    waybill_no: str
    calls: int = 1
    """How many requests booked it."""
    cancelled: bool = False
    intercepted: bool = False
    weight_kg: float = 0
    cash: str = ""
    """The cash to collect on delivery."""
    arrived: bool = False
    followed: int = 0
    """How many requests subscribed to it."""
    push_url: str = ""
    """Where its scans are pushed, if not to the URL of the twin."""
    routes: list[Route] = []


class JourneyOptions(Strict):
    """How a parcel travels: ``kind`` names one of the twin's journeys, with one step every ``delay`` seconds.

    ``shuffle`` pushes all steps at once and out of order; ``copies`` repeats each step.
    """

    kind: str = "delivered"
    delay: float = 0.05
    copies: int = 1
    shuffle: bool = False


class Config(Strict):
    """Where scans are pushed, and the journey of parcels without a plan."""

    push_url: str
    journey: JourneyOptions = JourneyOptions()


class Plan(JourneyOptions):
    """The journey of the next parcels whose reference contains ``match``."""

    match: str


class Push(Strict):
    """Routes to push now, unchanged, to ``url`` or to the URL of the twin."""

    url: str = ""
    routes: list[Route]
    copies: int = 1
    shuffle: bool = False


class Journey(JourneyOptions):
    waybill_no: str


class Parcels:
    """The bookings of one twin. ``journeys`` holds the steps of each kind of journey: ``delivered``, ``refused``,
    ``failed``, ``silent``, ``intercepted`` and others. ``size`` is the number of routes in one push; ``accepted`` reads
    the response to a push."""

    def __init__(
        self,
        router: APIRouter,
        *,
        number: Callable[[int], str],
        journeys: Mapping[str, Sequence[Mapping[str, str]]],
        size: int,
        render: Callable[[Sequence[Route]], tuple[Mapping[str, str], bytes]],
        accepted: Callable[[httpx.Response], bool],
    ) -> None:
        self.bookings: dict[str, Booking] = {}
        self._by_waybill: dict[str, Booking] = {}
        self.render = render
        self._number = number
        self._counter = count(1)
        self._journeys = journeys
        self._outbox = Outbox[Route](size, render, accepted)
        self._config = Config(push_url="")
        self._plans: list[Plan] = []
        control = APIRouter(prefix="/_control")
        control.post("/config")(self.configure)
        control.post("/plans", status_code=201)(self.plan)
        control.get("/bookings")(self.list_bookings)
        control.post("/route")(self.push)
        control.post("/journey", status_code=202)(self.travel)
        router.include_router(control)

    def book(self, reference: str, weight_kg: float, cash: str) -> tuple[Booking, bool]:
        """Return the booking under a reference, and whether it is new."""
        booking = self.bookings.get(reference)
        if booking is not None:
            booking.calls += 1
            return booking, False
        waybill_no = self._number(next(self._counter))
        booking = Booking(reference=reference, waybill_no=waybill_no, weight_kg=weight_kg, cash=cash)
        self.bookings[reference] = self._by_waybill[waybill_no] = booking
        return booking, True

    def follow(self, waybill_no: str, push_url: str = "") -> bool:
        """Subscribe to a parcel, booked here or elsewhere. Return whether this is its first subscription."""
        booking = self._by_waybill.get(waybill_no)
        if booking is None:
            booking = Booking(reference=waybill_no, waybill_no=waybill_no, calls=0)
            self.bookings[waybill_no] = self._by_waybill[waybill_no] = booking
        booking.followed += 1
        booking.push_url = push_url or booking.push_url
        return booking.followed == 1

    def followed(self, waybill_no: str) -> bool:
        booking = self._by_waybill.get(waybill_no)
        return booking is not None and booking.followed > 0

    def routes(self, waybill_no: str) -> list[Route]:
        booking = self._by_waybill.get(waybill_no)
        return booking.routes if booking else []

    def intercept(self, waybill_no: str) -> bool:
        """Return whether the parcel can still be intercepted; its journey then leads back to the sender."""
        booking = self._by_waybill.get(waybill_no)
        if booking is None or booking.cancelled or not booking.routes or booking.arrived:
            return False
        booking.intercepted = True
        return True

    def collect(self, client: httpx.AsyncClient, waybill_no: str) -> None:
        """Start the planned journey of a parcel that a warehouse handed over."""
        booking = self._by_waybill.get(waybill_no)
        if booking is None or not self._config.push_url:
            return
        plans = (plan for plan in self._plans if plan.match in booking.reference)
        options: JourneyOptions = next(plans, self._config.journey)
        spawn(self._travel(client, booking, options))

    async def configure(self, config: Config) -> Config:
        self._config = config
        return config

    async def plan(self, plan: Plan) -> Plan:
        self._steps(plan)
        self._plans.append(plan)
        return plan

    async def list_bookings(self) -> list[Booking]:
        return list(self.bookings.values())

    async def push(self, push: Push, request: Request) -> list[tuple[int, str]]:
        """Push routes and return the status and body of each response."""
        for route in push.routes:
            if (booking := self._by_waybill.get(route.waybill_no)) is not None:
                route.reference = booking.reference
                booking.routes.append(route)
        routes = push.routes * push.copies
        if push.shuffle:
            random.shuffle(routes)
        responses = await self._outbox.post(request.app.state.http, push.url or self._config.push_url, routes)
        return [(response.status_code, response.text) for response in responses]

    async def travel(self, journey: Journey, request: Request) -> dict[str, str]:
        booking = self._by_waybill.get(journey.waybill_no)
        if booking is None:
            raise HTTPException(404, f"no parcel {journey.waybill_no}")
        self._steps(journey)
        spawn(self._travel(request.app.state.http, booking, journey))
        return {"waybill_no": booking.waybill_no}

    def _steps(self, options: JourneyOptions) -> Sequence[Mapping[str, str]]:
        if options.kind not in self._journeys:
            raise HTTPException(422, f"kind: one of {', '.join(self._journeys)}")
        return self._journeys[options.kind]

    async def _travel(self, client: httpx.AsyncClient, booking: Booking, options: JourneyOptions) -> None:
        routes = [
            Route(waybill_no=booking.waybill_no, reference=booking.reference, **step) for step in self._steps(options)
        ]
        url = booking.push_url or self._config.push_url
        if options.shuffle:
            first = datetime.now(UTC) - timedelta(seconds=len(routes))
            for seconds, route in enumerate(routes):
                route.at = first + timedelta(seconds=seconds)
            booking.routes.extend(routes)
            routes *= options.copies
            random.shuffle(routes)
            self._outbox.put(client, url, routes)
            return
        while routes:
            await asyncio.sleep(options.delay)
            if booking.intercepted and options.kind != "intercepted":
                await self._travel(client, booking, options.model_copy(update={"kind": "intercepted"}))
                return
            route = routes.pop(0)
            route.at = datetime.now(UTC)
            booking.routes.append(route)
            self._outbox.put(client, url, [route] * options.copies)
        booking.arrived = True
