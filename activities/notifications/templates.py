"""Templates of messages, set by staff, and the people who opted out of messages."""

from collections.abc import Collection
from datetime import UTC, datetime

from sqlalchemy import Table, delete, select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from models.notifications import DEFAULTS, Medium, OptOutRow, Template, TemplateRow
from models.vault import keyring

_templates: Table = TemplateRow.__table__  # type: ignore[attr-defined]
_opt_outs: Table = OptOutRow.__table__  # type: ignore[attr-defined]


async def save_template(connection: AsyncConnection, template: Template) -> None:
    row = insert(_templates).values(template.model_dump())
    changes = {name: getattr(row.excluded, name) for name in ("subject", "body", "active")}
    await connection.execute(
        row.on_conflict_do_update(index_elements=["event", "medium", "shop", "lang"], set_=changes)
    )


async def delete_template(connection: AsyncConnection, event: str, medium: Medium, shop: str, lang: str) -> bool:
    """Return whether the template existed."""
    key = (_templates.c.event, _templates.c.medium, _templates.c.shop, _templates.c.lang)
    deleted = await connection.execute(delete(_templates).where(tuple_(*key) == (event, medium, shop, lang)))
    return bool(deleted.rowcount)


async def list_templates(connection: AsyncConnection) -> list[Template]:
    """Return the defaults, each replaced by what staff set for the same event, medium, shop and language."""
    rows = await connection.execute(select(_templates).order_by(*_templates.primary_key.columns))
    saved = [Template.model_validate(row._mapping) for row in rows]
    return list({(each.event, each.medium, each.shop, each.lang): each for each in (*DEFAULTS, *saved)}.values())


async def opt_out(connection: AsyncConnection, address: str, actor: str) -> None:
    """Stop all messages to this phone or e-mail address."""
    row = {"address_index": _blind_index(address), "at": datetime.now(UTC), "actor": actor}
    await connection.execute(insert(_opt_outs).values(row).on_conflict_do_nothing())


async def opt_in(connection: AsyncConnection, address: str) -> None:
    await connection.execute(delete(_opt_outs).where(_opt_outs.c.address_index == _blind_index(address)))


async def opted_out(connection: AsyncConnection, addresses: Collection[str]) -> set[str]:
    """Return those of ``addresses`` that want no messages."""
    indexes = {address: _blind_index(address) for address in addresses}
    query = select(_opt_outs.c.address_index).where(_opt_outs.c.address_index.in_(set(indexes.values())))
    matches = set(await connection.scalars(query))
    return {address for address, index in indexes.items() if index in matches}


def _blind_index(address: str) -> str:
    return keyring().blind_index(address.strip().lower())
