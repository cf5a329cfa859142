"""Locations: own warehouses, stores, suppliers, and virtual warehouses within them."""

from datetime import time
from decimal import Decimal
from typing import Annotated, Any

from pydantic import Field, field_validator
from sqlalchemy import Table, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.kit.errors import InvalidInput
from models.base import Value
from models.i18n import InvalidValue
from models.stock import Audience, LevelRow, LocationKind, VirtualWarehouse, WarehouseRow

_warehouses: Table = WarehouseRow.__table__  # type: ignore[attr-defined]
_levels: Table = LevelRow.__table__  # type: ignore[attr-defined]

Code = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.@\-]{1,64}$", examples=["SH"])]


class Location(Value):
    """A location as configured by staff, without ``sender``, the address on its labels."""

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
    new = insert(_warehouses).values(row)
    changes = {name: new.excluded[name] for name in row if name != "code"}
    await connection.execute(new.on_conflict_do_update(index_elements=["code"], set_=changes))
    return location


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
