"""Locations: own warehouses, stores, suppliers, and virtual warehouses within them."""

from datetime import time
from decimal import Decimal
from typing import Annotated, Any

from pydantic import Field, field_validator
from sqlalchemy import Table, exists, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from activities import cleansing
from activities.kit.errors import InvalidInput
from models.address import Recipient, RecipientChange
from models.base import Value
from models.fulfillment import FulfillmentRow, FulfillmentStatus
from models.i18n import InvalidValue, message
from models.intake import AccountRow, IntegrationType
from models.policy import Policy
from models.stock import Audience, LevelRow, LocationKind, VirtualWarehouse, WarehouseRow, WarehouseSystem
from models.vault import BrokenSeal, seal_row

_warehouses: Table = WarehouseRow.__table__  # type: ignore[attr-defined]
_levels: Table = LevelRow.__table__  # type: ignore[attr-defined]
_fulfillments: Table = FulfillmentRow.__table__  # type: ignore[attr-defined]
_accounts: Table = AccountRow.__table__  # type: ignore[attr-defined]

Code = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.@\-]{1,64}$", examples=["SH"])]


class Location(Value):
    """A location as configured by staff, without its sender, who is a person."""

    code: Code
    name: Annotated[str, Field(min_length=1, max_length=200)]
    name_zh: Annotated[str, Field(max_length=200)] = ""
    kind: LocationKind = LocationKind.WAREHOUSE
    parent: Annotated[str | None, Field(description="Of a virtual warehouse: the location that holds its goods.")] = (
        None
    )
    audience: Audience = Audience()
    share: Annotated[Decimal, Field(ge=0, le=1, description="The fraction of its parent's receipts.")] = Decimal(0)
    province: Annotated[str, Field(max_length=50)] = ""
    rank: int = 100
    carrier: Annotated[str, Field(max_length=64)] = ""
    system: Annotated[
        WarehouseSystem | None,
        Field(
            description="What runs it. Left out: as before; of a new one, the system with an account of its code, or "
            "else people (`manual`)."
        ),
    ] = None
    closed: bool = False
    lead_days: Annotated[int, Field(ge=0, le=365)] = 0
    capacity: Annotated[int | None, Field(ge=0)] = None
    cutoff: time | None = None
    areas: tuple[str, ...] = ()
    abilities: tuple[str, ...] = ()
    max_kg: Annotated[Decimal | None, Field(gt=0, max_digits=10, decimal_places=3)] = None
    handling: Annotated[Decimal, Field(ge=0, max_digits=18, decimal_places=4)] = Decimal(0)

    @field_validator("areas")
    @classmethod
    def _are_provinces(cls, areas: tuple[str, ...]) -> tuple[str, ...]:
        if any(len(area) < 2 for area in areas):
            raise InvalidValue("invalid.province.short")
        return areas


async def list_all(connection: AsyncConnection) -> list[Location]:
    """Return all locations by rank, virtual warehouses last."""
    query = select(_warehouses).order_by(_warehouses.c.kind == LocationKind.VIRTUAL, _warehouses.c.rank, "code")
    return [Location.model_validate(row._mapping) for row in await connection.execute(query)]


async def get(connection: AsyncConnection, code: str) -> Location:
    """Return a location. Raise ``InvalidInput`` if there is none with this code."""
    row = (await connection.execute(select(_warehouses).where(_warehouses.c.code == code))).one_or_none()
    if row is None:
        raise InvalidInput("warehouse", "invalid.warehouse.unknown", warehouse=code)
    return Location.model_validate(row._mapping)


async def save(connection: AsyncConnection, location: Location) -> Location:
    """Insert or update a location. Raise ``InvalidInput``."""
    others = {each.code: each for each in await list_all(connection)}
    before = others.pop(location.code, None)
    if location.kind is LocationKind.VIRTUAL:
        parent = others.get(location.parent or "")
        if parent is None or parent.kind is LocationKind.VIRTUAL:
            raise InvalidInput("parent", "invalid.parent.missing")
        shared = sum(each.share for each in others.values() if each.parent == location.parent)
        if shared + location.share > 1:
            raise InvalidInput("share", "invalid.share", given=shared, parent=location.parent)
        location = location.model_copy(update={"province": parent.province, "carrier": parent.carrier})
    elif location.parent is not None:
        raise InvalidInput("parent", "invalid.parent.not_virtual")
    elif not location.province:
        raise InvalidInput("province", "invalid.province.missing")
    if before is not None and (before.kind, before.parent) != (location.kind, location.parent):
        stock = select(func.count()).where(_levels.c.warehouse == location.code, _levels.c.on_hand > 0)
        if await connection.scalar(stock):
            raise InvalidInput("kind", "invalid.kind.has_stock", location=location.code)
    row: dict[str, Any] = location.model_dump() | {"areas": list(location.areas), "abilities": list(location.abilities)}
    row["audience"] = location.audience.model_dump(mode="json")
    del row["system"]
    new = insert(_warehouses).values(row)
    changes = {name: new.excluded[name] for name in row if name != "code"}
    await connection.execute(new.on_conflict_do_update(index_elements=["code"], set_=changes))
    chosen = location.system or (before.system if before is not None else None)
    system = await save_system(connection, location.code, chosen)
    return location.model_copy(update={"system": system})


async def save_system(connection: AsyncConnection, code: str, system: WarehouseSystem | None) -> WarehouseSystem:
    """Set what runs a location; ``None``: the system of which an account bears its code, or else people. Return it.

    Raise ``InvalidInput`` where the present system still has fulfillment orders: only it can ship or return them.
    """
    if system is None:
        query = select(_accounts.c.source).where(
            _accounts.c.integration == IntegrationType.WAREHOUSE, _accounts.c.account == code
        )
        system = WarehouseSystem(await connection.scalar(query) or WarehouseSystem.MANUAL)
    same = _warehouses.c.code == code
    before = await connection.scalar(select(_warehouses.c.system).where(same).with_for_update())
    if before == system:
        return system
    there = select(func.count()).where(
        _fulfillments.c.warehouse == code,
        _fulfillments.c.waybill_no.is_not(None),
        _fulfillments.c.status.in_([FulfillmentStatus.OPEN, FulfillmentStatus.IN_PROGRESS, FulfillmentStatus.ON_HOLD]),
    )
    if count := await connection.scalar(there):
        raise InvalidInput("system", "invalid.system.has_orders", warehouse=code, system=before, count=count)
    await connection.execute(update(_warehouses).where(same).values(system=system))
    return system


async def senders(connection: AsyncConnection) -> dict[str, Recipient]:
    """Return the sender of each location that has a readable one, by code."""
    query = select(_warehouses.c.code, _warehouses.c.sender).where(_warehouses.c.sender.is_not(None))
    rows = await connection.execute(query)
    return {row.code: row.sender for row in rows if not isinstance(row.sender, BrokenSeal)}


async def save_sender(connection: AsyncConnection, code: str, change: RecipientChange) -> Recipient:
    """Change the sender on a location's labels, and return it in standard form.

    The country and province are the location's unless given. Raise ``InvalidInput``, naming ``sender.{part}``, where
    the sender that results could not be put on a label.
    """
    query = select(_warehouses.c.province, _warehouses.c.sender).where(_warehouses.c.code == code).with_for_update()
    row = (await connection.execute(query)).one()
    known = row.sender if isinstance(row.sender, Recipient) else Recipient(province=row.province)
    sender = standard_sender(change.applied_to(known))
    values = seal_row(_warehouses, {"code": code, "sender": sender})
    await connection.execute(update(_warehouses).where(_warehouses.c.code == code).values(sender=values["sender"]))
    return sender


def standard_sender(sender: Recipient) -> Recipient:
    """Return a sender in standard form. Raise ``InvalidInput``, naming ``sender.{part}``, if it cannot be used."""
    cleansed = cleansing.recipient(sender)
    doubt = cleansing.doubt(cleansed, Policy().address_confidence)
    if cleansed.unreadable:
        raise InvalidInput("sender", "invalid.sender.masked")
    if doubt:
        part = doubt.rpartition(".")[2]
        if part in {"name", "phone"}:
            raise InvalidInput(f"sender.{part}", f"invalid.sender.{part}")
        raise InvalidInput(f"sender.{part}" if part in Recipient.model_fields else "sender", doubt)
    return cleansed


async def what_keeps_from_shipping(connection: AsyncConnection, *codes: str) -> dict[str, list[str]]:
    """Return what keeps these locations, or all that are open, from shipping: messages that name the remedy, by code.

    A location without obstacles is absent. Virtual warehouses ship from their parents and closed locations not at all.
    """
    has_carrier = exists().where(
        _accounts.c.integration == IntegrationType.CARRIER, _accounts.c.source == _warehouses.c.carrier
    )
    has_system = exists().where(
        _accounts.c.integration == IntegrationType.WAREHOUSE,
        _accounts.c.source == _warehouses.c.system,
        _accounts.c.account == _warehouses.c.code,
        _accounts.c.base_url != "",
    )
    query = select(
        _warehouses.c.code,
        _warehouses.c.carrier,
        _warehouses.c.sender.is_(None).label("no_sender"),
        has_carrier.label("has_carrier"),
        _warehouses.c.system,
        has_system.label("has_system"),
    ).where(_warehouses.c.kind != LocationKind.VIRTUAL)
    query = query.where(_warehouses.c.code.in_(codes) if codes else ~_warehouses.c.closed)
    rows = (await connection.execute(query.order_by(_warehouses.c.rank, _warehouses.c.code))).all()
    return {row.code: found for row in rows if (found := _obstacles(row))}


def _obstacles(row: Any) -> list[str]:
    found = []
    if row.no_sender:
        found.append(message("location.no_sender", warehouse=row.code))
    if not row.carrier:
        found.append(message("location.no_carrier", warehouse=row.code))
    elif not row.has_carrier:
        found.append(message("location.no_carrier_account", warehouse=row.code, carrier=row.carrier))
    if row.system != WarehouseSystem.MANUAL and not row.has_system:
        found.append(message("location.no_system_account", warehouse=row.code, system=row.system))
    return found


_parents = _warehouses.alias("parents")
VIRTUAL_WAREHOUSES = (
    select(_warehouses.c.code, _warehouses.c.parent, _warehouses.c.audience)
    .join(_parents, _parents.c.code == _warehouses.c.parent)
    .where(_warehouses.c.kind == LocationKind.VIRTUAL, ~_warehouses.c.closed)
    .order_by(_warehouses.c.rank, _warehouses.c.code)
)
"""Selects the virtual warehouses in force as ``VirtualWarehouse``."""


async def list_virtual_warehouses(connection: AsyncConnection) -> list[VirtualWarehouse]:
    """Return the virtual warehouses in force."""
    return [VirtualWarehouse.model_validate(row._mapping) for row in await connection.execute(VIRTUAL_WAREHOUSES)]
