"""Pulling a shop's orders into the inbox: what a channel without webhooks sells, and what a lost webhook left out."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import Update, func, select, update
from temporalio import activity

from activities.accounts import channel_access
from activities.channels import PulledOrder, order_reader
from activities.intake import inbox
from activities.kit.database import transaction
from models.base import Moment, Value
from models.intake import AccountRow, IntegrationType

OVERLAP = timedelta(minutes=5)
"""Each pull goes back so far behind the last one, unless the shop's ``overlap_seconds`` say otherwise: the channel's
clock and its lists may lag."""
FIRST = timedelta(days=1)
"""How far a shop's first pull goes back."""
SLICE = timedelta(hours=1)
"""A longer window is read in parts of this, each of which stays done whatever befalls the next."""
_BATCH = 100


class PollReport(Value):
    """What a pull brought: orders ``seen`` in the window, and facts ``new`` to the inbox."""

    since: Moment
    until: Moment
    seen: int
    new: int


@activity.defn(name="intake.pull_orders")
async def pull_orders(source: str, shop: str) -> PollReport:
    """Everything changed since the shop's cursor, into the inbox; the cursor follows, slice by slice.

    A repeat changes nothing. Raises ``refused`` and ``unavailable`` as the channel does.
    """
    until = datetime.now(UTC)
    seen = new = 0
    async with channel_access.open_channel(source, shop) as ours:
        cursor, overlap = await _cursor(source, shop)
        since = start = until - FIRST if cursor is None else cursor - overlap
        while start < until:
            end = min(start + SLICE, until)
            batch: list[PulledOrder] = []
            async for pulled in ours.pull(start, end):
                seen += 1
                batch.append(pulled)
                activity.heartbeat(seen)
                if len(batch) == _BATCH:
                    new += await save_pulled(source, shop, batch)
                    batch.clear()
            new += await save_pulled(source, shop, batch)
            async with transaction() as connection:
                await connection.execute(_of(source, shop).values(cursor=func.greatest(AccountRow.cursor, end)))
            activity.heartbeat(seen)
            start = end
    return PollReport(since=since, until=until, seen=seen, new=new)


@activity.defn(name="intake.read_orders")
async def read_orders(source: str, shop: str, order_nos: list[str]) -> list[str]:
    """Orders as they stand, into the inbox; answers the numbers of those the channel will not tell of.

    Raises ``refused`` and ``unavailable`` as the channel does.
    """
    found: list[PulledOrder] = []
    missing: list[str] = []
    async with channel_access.open_channel(source, shop) as ours:
        asked = order_reader(ours)
        for order_no in order_nos:
            pulled = await asked.read(order_no)
            if pulled is None:
                missing.append(order_no)
            else:
                found.append(pulled)
            activity.heartbeat(order_no)
    await save_pulled(source, shop, found)
    return missing


async def _cursor(source: str, shop: str) -> tuple[datetime | None, timedelta]:
    """The cursor and its overlap as they stand: an account out of the cache may hold older ones."""
    query = select(AccountRow.cursor, AccountRow.settings).where(  # type: ignore[call-overload]
        AccountRow.integration == IntegrationType.CHANNEL, AccountRow.source == source, AccountRow.account == shop
    )
    async with transaction() as connection:
        found = (await connection.execute(query)).one()
    told = found.settings.get("overlap_seconds")
    return found.cursor, OVERLAP if told is None else timedelta(seconds=float(told))


def _of(source: str, shop: str) -> Update:
    return update(AccountRow).where(
        AccountRow.integration == IntegrationType.CHANNEL,  # type: ignore[arg-type]
        AccountRow.source == source,  # type: ignore[arg-type]
        AccountRow.account == shop,  # type: ignore[arg-type]
    )


async def save_pulled(source: str, shop: str, batch: Sequence[PulledOrder]) -> int:
    """Commits a batch to the inbox; returns how many of its facts are new."""
    async with transaction() as connection:
        return await inbox.accept_pulled(connection, source, shop, [(each.receipt, each.body) for each in batch])
