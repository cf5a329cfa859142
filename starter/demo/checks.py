"""Checks that must hold after all scenarios."""

import asyncio
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from temporalio.client import Client

from models.base import Value
from models.order import OrderStatus
from starter.demo.world import World
from starter.sandbox.accounts import BOOKING


class Check(Value):
    name: str
    passed: bool
    detail: str = ""


async def all_checks(world: World, temporal: Client, folders: Iterable[Path]) -> list[Check]:
    proof = await world.get("/stock/verify")
    finished = [each for each in proof["drifts"] if each["field"] == "ended_orders"]
    drifts = [each for each in proof["drifts"] if each["field"] != "ended_orders"]
    return [
        await _one_workflow_per_order(world, temporal),
        await _one_booking_per_parcel(world),
        await _channels_notified(world),
        Check(name="ledger", passed=not drifts, detail=str(drifts[:3]) if drifts else ""),
        Check(name="finished", passed=not finished, detail=str(finished[:3]) if finished else ""),
        await _inbox_empty(world),
        _no_personal_data(world, folders),
    ]


async def _one_workflow_per_order(world: World, temporal: Client) -> Check:
    ids = Counter([each.id async for each in temporal.list_workflows("WorkflowType = 'OrderWorkflow'")])
    twice = [each for each, count in ids.items() if count > 1]
    sold = {sale.order_id for sale in world.sales}
    mismatches = twice or sorted(sold ^ set(ids)) or sorted(sold ^ set(world.rows))
    return Check(name="workflows", passed=not mismatches, detail=", ".join(mismatches[:3]) or str(len(ids)))


async def _one_booking_per_parcel(world: World) -> Check:
    """The carriers hold the same waybill numbers as our fulfillment orders, each once."""
    booked: Counter[str] = Counter()
    for carrier in BOOKING:
        booked.update(
            each["waybill_no"]
            for each in await world.get_from_twin(f"/{carrier}/_control/bookings")
            if not each["cancelled"]
        )
    ours: Counter[str] = Counter()
    for sale in world.sales:
        if sale.order_id not in world.rows:
            continue
        parcels = (await world.order(sale))["fulfillments"]
        ours.update(each["waybill_no"] for each in parcels if each["waybill_no"] and each["status"] != "cancelled")
    odd = sorted((booked - ours) + (ours - booked)) + [each for each, count in ours.items() if count > 1]
    return Check(name="bookings", passed=not odd, detail=", ".join(odd[:3]) or str(len(ours)))


async def _channels_notified(world: World) -> Check:
    """Every channel was notified of the shipments of its completed orders, and of nothing else, such as reissues. Shop
    counters are not notified. An order may complete before its channel has answered."""
    for _ in range(60):
        if (check := await _notified(world)).passed:
            break
        await asyncio.sleep(1)
    return check


async def _notified(world: World) -> Check:
    notified: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for channel, shop in {(sale.channel, sale.shop) for sale in world.sales if sale.channel != "pos"}:
        for shipment in await world.shipments(channel, shop):
            notified[channel, shop, shipment["order_no"]].add(shipment["waybill_no"])
    odd, count = [], 0
    for sale in world.sales:
        row = world.rows.get(sale.order_id)
        if sale.channel == "pos" or row is None or row["status"] != OrderStatus.COMPLETED:
            continue
        parcels = (await world.order(sale))["fulfillments"]
        known = notified[sale.channel, sale.shop, sale.order_no]
        if bool(known) is not sale.on_channel or not known <= {
            each["waybill_no"] for each in parcels if each["status"] != "cancelled"
        }:
            odd.append(sale.order_id)
        count += len(known)
    return Check(name="notified", passed=not odd, detail=", ".join(odd[:3]) or str(count))


async def _inbox_empty(world: World) -> Check:
    """Every acknowledged message is processed; none failed."""
    summary = await world.get("/intake/summary")
    unfinished = {integration: states for integration, states in summary.items() if set(states) - {"done"}}
    return Check(name="inbox", passed=not unfinished, detail=str(unfinished) if unfinished else "")


def _no_personal_data(world: World, folders: Iterable[Path]) -> Check:
    """No file of the databases and logs holds a recipient's phone, name or street in plain text."""
    secrets = {person[part] for person in world.people for part in ("phone", "name", "street")}
    pattern = re.compile(b"|".join(re.escape(each.encode()) for each in sorted(secrets)))
    files = [
        file for folder in folders for file in ([folder] if folder.is_file() else folder.rglob("*")) if file.is_file()
    ]
    found = []
    for file in files:
        try:
            if pattern.search(file.read_bytes()):
                found.append(file.name)
        except FileNotFoundError:
            continue
    return Check(name="privacy", passed=bool(files) and not found, detail=", ".join(found[:3]) or str(len(files)))


def statuses(rows: Iterable[dict[str, str]]) -> Counter[OrderStatus]:
    return Counter(OrderStatus(row["status"]) for row in rows)
