"""Calls to a shop's channel, with access that is renewed as it runs out."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from sqlalchemy import Table, select, update
from temporalio.exceptions import ApplicationError

from activities.accounts import accounts
from activities.channels import AccessRenewer, Channel, channel
from activities.kit.database import transaction
from activities.kit.errors import EXPIRED
from activities.records import alerts
from models.intake import Account, AccountRow, IntegrationType, Secrets
from models.order import Alert

MARGIN = timedelta(minutes=10)
"""Access is renewed so long before it runs out."""

_accounts: Table = AccountRow.__table__  # type: ignore[attr-defined]


@asynccontextmanager
async def open_channel(source: str, shop: str) -> AsyncIterator[Channel]:
    """The shop's channel. Access that has run out is renewed; the error of the call it stopped is for a retry.

    Raises ``refused`` where there is no such shop, or its access must be authorised anew: then a person is called.
    """
    account = await accounts.get_account(IntegrationType.CHANNEL, source, shop)
    ends = account.secrets.get("expires_at")
    if ends and datetime.fromisoformat(ends) < datetime.now(UTC) + MARGIN:
        account = await _renew(account)
    try:
        yield channel(account)
    except ApplicationError as error:
        if error.type == EXPIRED:
            await _renew(account)
        raise


async def _renew(stale: Account) -> Account:
    """Access anew, once for everybody: whoever comes second takes what the first was given."""
    mine = (
        (_accounts.c.integration == stale.integration)
        & (_accounts.c.source == stale.source)
        & (_accounts.c.account == stale.account)
    )
    try:
        async with transaction() as connection:
            query = select(_accounts.c.secrets).where(mine).with_for_update()
            known: Secrets = (await connection.execute(query)).scalar_one()
            if known.values == stale.secrets and isinstance(adapter := channel(stale), AccessRenewer):
                known = Secrets(values=known.values | dict(await adapter.renew()))
                await connection.execute(update(_accounts).where(mine).values(secrets=known))
    except ApplicationError as error:
        if error.non_retryable:
            await _call_for_authorisation(stale, error.message)
        raise
    accounts.clear_cache()
    return stale.model_copy(update={"secrets": known.values})


async def _call_for_authorisation(account: Account, reason: str) -> None:
    shop = f"{account.source}:{account.account}"
    alert = Alert(key=f"{shop}:authorise", kind="alert.authorise", detail={"shop": shop, "reason": reason})
    async with transaction() as connection:
        await alerts.raise_alerts(connection, [alert])
