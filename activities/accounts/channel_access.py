"""Calls to a shop's channel; expired access is renewed."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

from sqlalchemy import Table, select, update
from temporalio.exceptions import ApplicationError

from activities.accounts import accounts
from activities.channels import AccessRenewer, Channel, channel
from activities.kit.database import transaction
from activities.kit.errors import EXPIRED
from activities.records import exceptions
from models.exceptions import ExceptionKind, NewException
from models.intake import Account, AccountRow, IntegrationType, Secrets
from models.vault import seal_row

MARGIN = timedelta(minutes=10)
"""Access is renewed so long before it expires."""

_accounts: Table = AccountRow.__table__  # type: ignore[attr-defined]


@asynccontextmanager
async def open_channel(source: str, shop: str) -> AsyncIterator[Channel]:
    """Yield the shop's channel. Access that expires during a call is renewed; the call's error is raised for a retry.

    Raises ``refused`` where there is no such shop, or its access must be authorised again, which opens an exception.
    """
    account = await accounts.get_account(IntegrationType.CHANNEL, source, shop)
    expires = account.secrets.get("expires_at")
    if expires and datetime.fromisoformat(expires) < datetime.now(UTC) + MARGIN:
        account = await _renew(account)
    try:
        yield channel(account)
    except ApplicationError as error:
        if error.type == EXPIRED:
            await _renew(account)
        raise


async def _renew(stale: Account) -> Account:
    """Renew access once: concurrent callers take the secrets that the first one stored."""
    same = (
        (_accounts.c.integration == stale.integration)
        & (_accounts.c.source == stale.source)
        & (_accounts.c.account == stale.account)
    )
    try:
        async with transaction() as connection:
            query = select(_accounts.c.secrets).where(same).with_for_update()
            stored: Secrets = (await connection.execute(query)).scalar_one()
            if stored.values == stale.secrets and isinstance(adapter := channel(stale), AccessRenewer):
                stored = Secrets(values=stored.values | dict(await adapter.renew()))
                key = stale.model_dump(include={"integration", "source", "account"})
                sealed = seal_row(_accounts, key | {"secrets": stored})
                await connection.execute(update(_accounts).where(same).values(sealed))
    except ApplicationError as error:
        if error.non_retryable:
            await _open_authorisation_exception(stale, error.message)
        raise
    accounts.clear_cache()
    return stale.model_copy(update={"secrets": stored.values})


async def _open_authorisation_exception(account: Account, reason: str) -> None:
    shop = f"{account.source}:{account.account}"
    exception = NewException(
        key=f"{shop}:authorise", kind=ExceptionKind.AUTHORISE, shop=shop, detail={"reason": reason}
    )
    async with transaction() as connection:
        await exceptions.open_all(connection, [exception])
