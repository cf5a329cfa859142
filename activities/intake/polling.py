"""Pull a shop's orders into the inbox: for channels without webhooks, and in case a webhook was lost."""

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
"""How far a pull overlaps the previous one, unless the shop has ``overlap_seconds``: the channel's clock and lists may
lag."""
FIRST_WINDOW = timedelta(days=1)
"""Of a shop's first pull."""
SLICE = timedelta(hours=1)
"""Longer windows are read in slices, each of which is saved before the next."""
_BATCH = 100


class PollReport(Value):
    """The result of a pull: orders ``seen`` in the window, and facts ``new`` to the inbox."""

    since: Moment
    until: Moment
    seen: int
    new: int


@activity.defn(name="intake.pull_orders")
async def pull_orders(source: str, shop: str) -> PollReport:
    """Save all orders changed since the shop's cursor in the inbox, and advance the cursor slice by slice.

    A repeat changes nothing. Raises ``refused`` and ``unavailable`` as the channel does.
    """
    until = datetime.now(UTC)
    seen = new = 0
    async with channel_access.open_channel(source, shop) as adapter:
        cursor, overlap = await _cursor(source, shop)
        since = start = until - FIRST_WINDOW if cursor is None else cursor - overlap
        while start < until:
            end = min(start + SLICE, until)
            batch: list[PulledOrder] = []
            async for pulled in adapter.pull(start, end):
                seen += 1
                batch.append(pulled)
                activity.heartbeat(seen)
                if len(batch) == _BATCH:
                    new += await save_pulled(source, shop, batch)
                    batch.clear()
            new += await save_pulled(source, shop, batch)
            async with transaction() as connection:
                await connection.execute(
                    _update_account(source, shop).values(cursor=func.greatest(AccountRow.cursor, end))
                )
            activity.heartbeat(seen)
            start = end
    return PollReport(since=since, until=until, seen=seen, new=new)


@activity.defn(name="intake.read_orders")
async def read_orders(source: str, shop: str, order_nos: list[str]) -> list[str]:
    """Save the current state of orders in the inbox; return the numbers that the channel does not know.

    Raises ``refused`` and ``unavailable`` as the channel does.
    """
    orders: list[PulledOrder] = []
    missing: list[str] = []
    async with channel_access.open_channel(source, shop) as adapter:
        reader = order_reader(adapter)
        for order_no in order_nos:
            pulled = await reader.read(order_no)
            if pulled is None:
                missing.append(order_no)
            else:
                orders.append(pulled)
            activity.heartbeat(order_no)
    await save_pulled(source, shop, orders)
    return missing


async def _cursor(source: str, shop: str) -> tuple[datetime | None, timedelta]:
    """Read the cursor and its overlap from the database: a cached account may hold older ones."""
    query = select(AccountRow.cursor, AccountRow.settings).where(  # type: ignore[call-overload]
        AccountRow.integration == IntegrationType.CHANNEL, AccountRow.source == source, AccountRow.account == shop
    )
    async with transaction() as connection:
        account = (await connection.execute(query)).one()
    seconds = account.settings.get("overlap_seconds")
    return account.cursor, OVERLAP if seconds is None else timedelta(seconds=float(seconds))


def _update_account(source: str, shop: str) -> Update:
    return update(AccountRow).where(
        AccountRow.integration == IntegrationType.CHANNEL,  # type: ignore[arg-type]
        AccountRow.source == source,  # type: ignore[arg-type]
        AccountRow.account == shop,  # type: ignore[arg-type]
    )


async def save_pulled(source: str, shop: str, batch: Sequence[PulledOrder]) -> int:
    """Commit a batch to the inbox; return how many of its facts are new."""
    async with transaction() as connection:
        return await inbox.accept_pulled(connection, source, shop, [(each.receipt, each.body) for each in batch])
