"""Our accounts with channels, carriers, warehouse systems and media."""

from collections.abc import Mapping, Sequence
from typing import Any

import httpx
from sqlalchemy import Row, Select, Table, delete, select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection
from temporalio.exceptions import ApplicationError

from activities.accounts import declarations
from activities.kit import http
from activities.kit.database import transaction
from activities.kit.errors import InvalidFields, InvalidInput, refused
from activities.kit.ttl_cache import TtlCache
from models.intake import Account, AccountRow, IntegrationType, Secrets
from models.vault import seal_row

_accounts: Table = AccountRow.__table__  # type: ignore[attr-defined]

_cache: TtlCache[tuple[IntegrationType, str, str], Account | None] = TtlCache(10)


async def get_account(integration: IntegrationType, source: str, name: str) -> Account:
    """Return an account, cached for ten seconds. Raises ``refused`` where there is none."""
    query = select(AccountRow).where(
        AccountRow.integration == integration,  # type: ignore[arg-type]
        AccountRow.source == source,  # type: ignore[arg-type]
        AccountRow.account == name,  # type: ignore[arg-type]
    )
    account = await _cache.get((integration, source, name), lambda: _read(query))
    if account is None:
        raise refused("error.account_unknown", "unknown_account", integration=integration, source=source, account=name)
    return account


async def shop_name(channel: str, shop: str) -> str:
    """Return the shop's name as buyers know it: the setting ``shop_name`` of its account, or else the account."""
    try:
        account = await get_account(IntegrationType.CHANNEL, channel, shop)
    except ApplicationError:
        return shop
    return str(account.settings.get("shop_name") or shop)


async def get_carrier_account(source: str) -> Account | None:
    """Return our first account with a carrier by name, cached for ten seconds; ``None`` where there is none."""
    query = (
        select(AccountRow)
        .where(AccountRow.integration == IntegrationType.CARRIER, AccountRow.source == source)  # type: ignore[arg-type]
        .order_by(AccountRow.account)
        .limit(1)
    )
    return await _cache.get((IntegrationType.CARRIER, source, ""), lambda: _read(query))


async def _read(query: Select[Any]) -> Account | None:
    async with transaction() as connection:
        row = (await connection.execute(query)).one_or_none()
    if row is None:
        return None
    return Account(
        integration=row.integration,
        source=row.source,
        account=row.account,
        base_url=row.base_url,
        secrets=row.secrets.values,
        settings=row.settings,
        cursor=row.cursor,
    )


def clear_cache() -> None:
    """Forget the accounts that this process has cached."""
    _cache.clear()


async def list_all(connection: AsyncConnection, integration: IntegrationType | None = None) -> Sequence[Row[Any]]:
    query = select(_accounts).order_by(*_accounts.primary_key.columns)
    return (
        await connection.execute(query if integration is None else query.where(_accounts.c.integration == integration))
    ).all()


async def save(
    connection: AsyncConnection,
    integration: IntegrationType,
    source: str,
    name: str,
    base_url: str | None,
    secrets: Mapping[str, str],
    settings: Mapping[str, Any] | None,
) -> Row[Any]:
    """Create or change an account. ``None`` and secrets not given stay as they are; an empty secret is removed. An
    account without ``base_url`` takes the vendor's own.

    Raise ``InvalidFields`` where the account does not fit its adapter's declaration. Raise ``InvalidInput`` where an
    address is new, in ``base_url`` or a setting, and a stored secret is not given: it would be sent there.
    """
    default_url = declarations.declared(integration, source).default_url
    same = tuple_(_accounts.c.integration, _accounts.c.source, _accounts.c.account) == (integration, source, name)
    known = (await connection.execute(select(_accounts).where(same).with_for_update())).one_or_none()
    previous = known.secrets.values if known is not None else {}
    row: dict[str, Any] = {
        "integration": integration,
        "source": source,
        "account": name,
        "base_url": base_url or (known.base_url if known is not None else "") or default_url,
        "secrets": Secrets(values={key: value for key, value in {**previous, **secrets}.items() if value}),
        "settings": dict(settings if settings is not None else known.settings if known is not None else {}),
    }
    if known is not None and (kept := sorted(previous.keys() - secrets.keys())):
        new = _origins(row["base_url"], row["settings"]) - _origins(known.base_url, known.settings)
        if new:
            raise InvalidInput(
                "secrets", "invalid.account.new_host", hosts=", ".join(sorted(new)), names=", ".join(kept)
            )
    if faults := declarations.check(integration, source, row["base_url"], row["secrets"].values, row["settings"]):
        raise InvalidFields(faults)
    statement = insert(_accounts).values(seal_row(_accounts, row))
    values = {each: statement.excluded[each] for each in ("base_url", "secrets", "settings")}
    upsert = statement.on_conflict_do_update(index_elements=["integration", "source", "account"], set_=values)
    return (await connection.execute(upsert.returning(*_accounts.c))).one()


def _origins(base_url: str, settings: Mapping[str, Any]) -> set[str]:
    """Return the scheme, host and port of each URL of an account."""
    urls = [value for value in (base_url, *settings.values()) if isinstance(value, str) and "://" in value]
    try:
        return {http.origin(url) for url in urls}
    except httpx.InvalidURL:
        raise InvalidInput("base_url", "invalid.account.url") from None


async def remove(connection: AsyncConnection, integration: IntegrationType, source: str, name: str) -> bool:
    """Delete an account; return whether there was one."""
    same = tuple_(_accounts.c.integration, _accounts.c.source, _accounts.c.account) == (integration, source, name)
    return bool((await connection.execute(delete(_accounts).where(same))).rowcount)
