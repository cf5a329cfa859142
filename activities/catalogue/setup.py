"""What keeps shops, locations and carriers from working, each with the command that mends it."""

from sqlalchemy import Table, select
from sqlalchemy.ext.asyncio import AsyncConnection

from activities.accounts import accounts, declarations
from activities.catalogue import locations
from activities.kit.errors import InvalidInput
from models.i18n import message
from models.intake import IntegrationType
from models.stock import SkuRow

_skus: Table = SkuRow.__table__  # type: ignore[attr-defined]


async def obstacles(connection: AsyncConnection) -> list[str]:
    """Return messages: what is missing altogether first, then faults of accounts, then of locations."""
    rows = await accounts.list_all(connection)
    found = []
    if not any(row.integration == IntegrationType.CHANNEL for row in rows):
        found.append(message("setup.no_shop"))
    if await connection.scalar(select(_skus.c.sku).limit(1)) is None:
        found.append(message("setup.no_sku"))
    if not await locations.list_all(connection):
        found.append(message("setup.no_location"))
    for row in rows:
        integration = IntegrationType(row.integration)
        about = {"integration": integration, "source": row.source, "account": row.account}
        try:
            faults = declarations.check(integration, row.source, row.base_url, row.secrets.values, row.settings)
        except InvalidInput as error:
            faults = [error]
        found += [message("setup.account", **about, field=each.field, why=each.message) for each in faults]
    for reasons in (await locations.what_keeps_from_shipping(connection)).values():
        found += reasons
    return found
