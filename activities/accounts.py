"""The accounts we hold with channels, carriers and warehouse systems."""

from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any

from sqlalchemy import Row, Select, Table, delete, select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.database import transaction
from activities.errors import refused
from models.intake import Account, AccountRow, Lane, Secrets

_accounts: Table = AccountRow.__table__  # type: ignore[attr-defined]

_CACHE_SECONDS = 10.0
_cache: dict[tuple[Lane, str, str], tuple[float, Account]] = {}


async def account(lane: Lane, source: str, name: str) -> Account:
    """One account, at most ten seconds old. Raises ``refused`` where it is not known."""
    key = (lane, source, name)
    cached = _cache.get(key)
    if cached is not None and monotonic() - cached[0] < _CACHE_SECONDS:
        return cached[1]
    query = select(AccountRow).where(
        AccountRow.lane == lane,  # type: ignore[arg-type]
        AccountRow.source == source,  # type: ignore[arg-type]
        AccountRow.account == name,  # type: ignore[arg-type]
    )
    found = await _read(query)
    if found is None:
        raise refused(f"no {lane} account {source}/{name}: add it first", "unknown_account")
    _cache[key] = (monotonic(), found)
    return found


async def carrier_account(source: str) -> Account | None:
    """Our account with a carrier, the first by name, at most ten seconds old; ``None`` where we have none."""
    key = (Lane.CARRIER, source, "")
    cached = _cache.get(key)
    if cached is not None and monotonic() - cached[0] < _CACHE_SECONDS:
        return cached[1]
    query = (
        select(AccountRow)
        .where(AccountRow.lane == Lane.CARRIER, AccountRow.source == source)  # type: ignore[arg-type]
        .order_by(AccountRow.account)
        .limit(1)
    )
    found = await _read(query)
    if found is not None:
        _cache[key] = (monotonic(), found)
    return found


async def _read(query: Select[Any]) -> Account | None:
    async with transaction() as connection:
        row = (await connection.execute(query)).one_or_none()
    if row is None:
        return None
    return Account(
        lane=row.lane,
        source=row.source,
        account=row.account,
        base_url=row.base_url,
        secrets=row.secrets.values,
        settings=row.settings,
        cursor=row.cursor,
    )


def forget() -> None:
    """What this process has read is read anew."""
    _cache.clear()


async def every(connection: AsyncConnection, lane: Lane | None = None) -> Sequence[Row[Any]]:
    query = select(_accounts).order_by(*_accounts.primary_key.columns)
    return (await connection.execute(query if lane is None else query.where(_accounts.c.lane == lane))).all()


async def keep(
    connection: AsyncConnection,
    lane: Lane,
    source: str,
    name: str,
    base_url: str | None,
    secrets: Mapping[str, str],
    settings: Mapping[str, Any] | None,
) -> Row[Any]:
    """Opens an account, or changes it: what is ``None``, and secrets that are not named, stay; an empty secret goes."""
    here = tuple_(_accounts.c.lane, _accounts.c.source, _accounts.c.account) == (lane, source, name)
    known = (await connection.execute(select(_accounts).where(here).with_for_update())).one_or_none()
    held = known.secrets.values if known is not None else {}
    row = {
        "lane": lane,
        "source": source,
        "account": name,
        "base_url": base_url if base_url is not None else known.base_url if known is not None else "",
        "secrets": Secrets(values={key: value for key, value in {**held, **secrets}.items() if value}),
        "settings": dict(settings if settings is not None else known.settings if known is not None else {}),
    }
    entered = insert(_accounts).values(row)
    renewed = {each: entered.excluded[each] for each in ("base_url", "secrets", "settings")}
    changed = entered.on_conflict_do_update(index_elements=["lane", "source", "account"], set_=renewed)
    return (await connection.execute(changed.returning(*_accounts.c))).one()


async def drop(connection: AsyncConnection, lane: Lane, source: str, name: str) -> bool:
    """Whether there was one."""
    here = tuple_(_accounts.c.lane, _accounts.c.source, _accounts.c.account) == (lane, source, name)
    return bool((await connection.execute(delete(_accounts).where(here))).rowcount)
