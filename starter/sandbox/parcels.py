"""What every twin of a carrier has in common: bookings by reference, and the journeys of their parcels.

A twin adds its own wire format: it reads bookings, and renders routes as its carrier would push them.
"""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count

import httpx
from fastapi import APIRouter, HTTPException, Request
from pydantic import BaseModel, Field

from starter.sandbox.outbox import Outbox, spawn
from starter.sandbox.shops import Strict

_route_ids = count(158_918_741_444_476)

_NUMBERS = {
    "SF": "sf",
    "YT": "yto",
    "JD": "jdl",
    "DPK": "debang",
    "77": "sto",
    "7": "zto",
    "4": "yunda",
    "1": "ems",
}
"""How the numbers of a carrier begin, the likelier first."""


def carriers_of(waybill_no: str) -> list[str]:
    """Whose a number may be, the likeliest first."""
    return [carrier for prefix, carrier in _NUMBERS.items() if waybill_no.startswith(prefix)]


class Route(BaseModel):
    """One scan, in plain terms; ``code`` is the carrier's own."""

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
    """How often it was asked for."""
    cancelled: bool = False
    intercepted: bool = False
    weight_kg: float = 0
    cash: str = ""
    """What is collected on delivery."""
    arrived: bool = False
    followed: int = 0
    """How often somebody subscribed to it."""
    push_url: str = ""
    """Where its scans go, if not where all of the twin's go."""
    routes: list[Route] = []


class Way(Strict):
    """How a parcel travels: ``kind`` names one of the twin's journeys, a step every ``delay`` seconds.

    Shuffled, all of it is told at once and out of order; ``copies`` tells each step so often.
    """

    kind: str = "delivered"
    delay: float = 0.05
    copies: int = 1
    shuffle: bool = False


class Config(Strict):
    """Where pushes go, and how parcels travel for which there is no plan."""

    push_url: str
    way: Way = Way()


class Plan(Way):
    """The way of the next parcels whose reference contains ``match``."""

    match: str


class Push(Strict):
    """Routes to be pushed now, as they are: to this address, or where all go."""

    url: str = ""
    routes: list[Route]
    copies: int = 1
    shuffle: bool = False


class Journey(Way):
    waybill_no: str


class Parcels:
    """The bookings of one twin. ``journeys`` are the steps of each kind of way: ``delivered``, ``refused``, ``failed``,
    ``silent``, ``intercepted`` and what else a carrier knows. ``size`` is how many routes one push holds."""

    def __init__(
        self,
        router: APIRouter,
        *,
        number: Callable[[int], str],
        journeys: Mapping[str, Sequence[Mapping[str, str]]],
        size: int,
        render: Callable[[Sequence[Route]], tuple[Mapping[str, str], bytes]],
        taken: Callable[[httpx.Response], bool],
    ) -> None:
        self.bookings: dict[str, Booking] = {}
        self._by_waybill: dict[str, Booking] = {}
        self.render = render
        self._number = number
        self._counter = count(1)
        self._journeys = journeys
        self._outbox = Outbox[Route](size, render, taken)
        self._config = Config(push_url="")
        self._plans: list[Plan] = []
        control = APIRouter(prefix="/_control")
        control.post("/config")(self.configure)
        control.post("/plans", status_code=201)(self.plan)
        control.get("/bookings")(self.booked)
        control.post("/route")(self.push)
        control.post("/journey", status_code=202)(self.travel)
        router.include_router(control)

    def book(self, reference: str, weight_kg: float, cash: str) -> tuple[Booking, bool]:
        """The booking under a reference, and whether it is new."""
        booking = self.bookings.get(reference)
        if booking is not None:
            booking.calls += 1
            return booking, False
        waybill_no = self._number(next(self._counter))
        booking = Booking(reference=reference, waybill_no=waybill_no, weight_kg=weight_kg, cash=cash)
        self.bookings[reference] = self._by_waybill[waybill_no] = booking
        return booking, True

    def follow(self, waybill_no: str, push_url: str = "") -> bool:
        """Has a parcel's scans told, whoever booked it; whether that is new."""
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
        """Whether a parcel could still be stopped; what is on its way then takes the way back."""
        booking = self._by_waybill.get(waybill_no)
        if booking is None or booking.cancelled or not booking.routes or booking.arrived:
            return False
        booking.intercepted = True
        return True

    def collect(self, client: httpx.AsyncClient, waybill_no: str) -> None:
        """A warehouse handed the parcel over: off it goes, as planned."""
        booking = self._by_waybill.get(waybill_no)
        if booking is None or not self._config.push_url:
            return
        way: Way = next((plan for plan in self._plans if plan.match in booking.reference), self._config.way)
        spawn(self._travel(client, booking, way))

    async def configure(self, config: Config) -> Config:
        self._config = config
        return config

    async def plan(self, plan: Plan) -> Plan:
        self._journey(plan)
        self._plans.append(plan)
        return plan

    async def booked(self) -> list[Booking]:
        return list(self.bookings.values())

    async def push(self, push: Push, request: Request) -> list[tuple[int, str]]:
        """Status and body of each answer."""
        for route in push.routes:
            if (booking := self._by_waybill.get(route.waybill_no)) is not None:
                route.reference = booking.reference
                booking.routes.append(route)
        routes = push.routes * push.copies
        if push.shuffle:
            random.shuffle(routes)
        answers = await self._outbox.post(request.app.state.http, push.url or self._config.push_url, routes)
        return [(answer.status_code, answer.text) for answer in answers]

    async def travel(self, journey: Journey, request: Request) -> dict[str, str]:
        booking = self._by_waybill.get(journey.waybill_no)
        if booking is None:
            raise HTTPException(404, f"no parcel {journey.waybill_no}")
        self._journey(journey)
        spawn(self._travel(request.app.state.http, booking, journey))
        return {"waybill_no": booking.waybill_no}

    def _journey(self, way: Way) -> Sequence[Mapping[str, str]]:
        if way.kind not in self._journeys:
            raise HTTPException(422, f"kind: one of {', '.join(self._journeys)}")
        return self._journeys[way.kind]

    async def _travel(self, client: httpx.AsyncClient, booking: Booking, way: Way) -> None:
        routes = [
            Route(waybill_no=booking.waybill_no, reference=booking.reference, **step) for step in self._journey(way)
        ]
        url = booking.push_url or self._config.push_url
        if way.shuffle:
            first = datetime.now(UTC) - timedelta(seconds=len(routes))
            for seconds, route in enumerate(routes):
                route.at = first + timedelta(seconds=seconds)
            booking.routes.extend(routes)
            routes *= way.copies
            random.shuffle(routes)
            self._outbox.put(client, url, routes)
            return
        while routes:
            await asyncio.sleep(way.delay)
            if booking.intercepted and way.kind != "intercepted":
                await self._travel(client, booking, way.model_copy(update={"kind": "intercepted"}))
                return
            route = routes.pop(0)
            route.at = datetime.now(UTC)
            booking.routes.append(route)
            self._outbox.put(client, url, [route] * way.copies)
        booking.arrived = True
