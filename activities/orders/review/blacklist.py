"""The blacklist: phones, buyer accounts and addresses, stored as blind indexes with a masked hint."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Table, delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.cleansing.people import phone
from activities.kit.errors import InvalidInput
from activities.orders.review.facts import buyer_index, phone_index, place_text_index
from models.address import Recipient, is_phone
from models.intake import ChannelOrderRow
from models.order import ChannelOrder, OrderRow
from models.review import BlacklistEntry, BlacklistKind, BlacklistRow

_blacklist: Table = BlacklistRow.__table__  # type: ignore[attr-defined]
_orders: Table = OrderRow.__table__  # type: ignore[attr-defined]
_channel_orders: Table = ChannelOrderRow.__table__  # type: ignore[attr-defined]


async def list_entries(connection: AsyncConnection, kind: str | None, limit: int) -> list[BlacklistEntry]:
    query = select(_blacklist).order_by(_blacklist.c.added_at.desc(), _blacklist.c.id).limit(limit)
    if kind is not None:
        query = query.where(_blacklist.c.kind == kind)
    return [BlacklistEntry.model_validate(row._mapping) for row in await connection.execute(query)]


async def add(
    connection: AsyncConnection,
    kind: BlacklistKind,
    value: str,
    channel: str = "",
    country: str = "CN",
    **details: Any,
) -> BlacklistEntry:
    """Add an entry by its full value; a phone may be a national number of ``country``. Raises ``InvalidInput``."""
    value = value.strip()
    if kind == "phone":
        if value and not is_phone(value):
            raise InvalidInput("value", "invalid.phone")
        number = phone(value, country)
        entry_id, hint = phone_index(number), Recipient(phone=number).masked().phone
    elif kind == "buyer":
        if value and not channel:
            raise InvalidInput("channel", "invalid.account.channel")
        entry_id, hint = buyer_index(channel, value) if value else "", f"{channel}: {value[:2]}**"
    else:
        entry_id, hint = place_text_index(value) if value else "", f"{value[:6]}****"
    return await _save(connection, kind, entry_id, hint, "value", **details)


async def add_of(
    connection: AsyncConnection, kind: BlacklistKind, order_id: str, **details: Any
) -> BlacklistEntry | None:
    """Add the buyer or recipient of an order; ``None`` where the order is unknown. Raises ``InvalidInput``."""
    row = (await connection.execute(select(_orders).where(_orders.c.id == order_id))).one_or_none()
    if row is None:
        return None
    person: Recipient = row.recipient or Recipient()
    if kind == "phone":
        entry_id, hint = phone_index(person.phone), person.masked().phone
    elif kind == "buyer":
        entry_id = row.buyer_index
        document = await connection.scalar(
            select(_channel_orders.c.document).where(_channel_orders.c.order_id == order_id)
        )
        account = document.buyer if isinstance(document, ChannelOrder) else ""
        hint = f"{row.channel}: {account[:2]}**"
    else:
        entry_id, hint = row.place_index, f"{person.province}{person.city}{person.district}****"
    return await _save(connection, kind, entry_id, hint, "order_id", **details)


async def remove(connection: AsyncConnection, kind: str, entry_id: str) -> bool:
    """Return whether the entry existed."""
    key = (_blacklist.c.kind == kind, _blacklist.c.id == entry_id)
    return bool((await connection.execute(delete(_blacklist).where(*key))).rowcount)


async def _save(
    connection: AsyncConnection,
    kind: BlacklistKind,
    entry_id: str,
    hint: str,
    field: str,
    *,
    reason: str,
    until: datetime | None,
    by: str,
) -> BlacklistEntry:
    if not entry_id:
        raise InvalidInput(field, f"invalid.blacklist.{kind}")
    entry = BlacklistEntry(
        kind=kind, id=entry_id, hint=hint, reason=reason, until=until, added_by=by, added_at=datetime.now(UTC)
    )
    row = insert(_blacklist).values(entry.model_dump())
    changes = {name: row.excluded[name] for name in ("hint", "reason", "until", "added_by", "added_at")}
    await connection.execute(row.on_conflict_do_update(index_elements=["kind", "id"], set_=changes))
    return entry
