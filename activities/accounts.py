"""The accounts we hold with channels, carriers and warehouse systems."""

from time import monotonic
from typing import Any

from sqlalchemy import Select, select

from activities.database import transaction
from activities.errors import refused
from models.intake import Account, AccountRow, Lane

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
