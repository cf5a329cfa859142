"""Accounts with shops, carriers, warehouse systems and media. Secrets are written, never returned."""

from importlib.util import find_spec
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, Field
from temporalio.service import RPCError

from activities.accounts import accounts
from activities.kit.database import transaction
from activities.kit.errors import InvalidInput
from models.intake import IntegrationType
from starter.api.authentication import Staff
from starter.api.problems import Problem
from workers.schedules import schedule_shops

router = APIRouter(prefix="/accounts", tags=["accounts"])
log = structlog.get_logger()

_PACKAGES = {
    IntegrationType.CHANNEL: "activities.channels",
    IntegrationType.CARRIER: "activities.carriers",
    IntegrationType.MEDIA: "activities.media",
}

Source = Annotated[str, Path(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
Name = Annotated[str, Path(pattern=r"^[A-Za-z0-9_.\-]{1,64}$")]


class AccountView(BaseModel):
    integration: IntegrationType
    source: str
    account: str
    base_url: str
    settings: dict[str, Any]
    secrets: list[str]
    """The names of the secrets that are set."""


class AccountUpdate(BaseModel):
    """Secrets and settings as the adapter's module describes. Fields that are left out stay; an empty secret is
    removed. A new host, of ``base_url`` or of a URL in the settings, needs all secrets again."""

    base_url: Annotated[str | None, Field(pattern=r"^(https?|smtp(\+tls|\+starttls)?)://\S+$", max_length=500)] = None
    secrets: dict[str, Annotated[str, Field(max_length=10_000)]] = {}
    settings: dict[str, Any] | None = None


@router.get("", summary="Accounts")
async def list_accounts(principal: Staff, integration: IntegrationType | None = None) -> list[AccountView]:
    async with transaction() as connection:
        return [_view(row) for row in await accounts.list_all(connection, integration)]


@router.put("/{integration}/{source}/{account}", summary="Create or change an account")
async def save_account(
    integration: IntegrationType, source: Source, account: Name, body: AccountUpdate, request: Request, principal: Staff
) -> AccountView:
    if integration not in _PACKAGES and integration is not IntegrationType.WAREHOUSE:
        raise InvalidInput("integration", "invalid.choice", choices=", ".join([*_PACKAGES, IntegrationType.WAREHOUSE]))
    if integration is IntegrationType.WAREHOUSE and source != "wms":
        raise InvalidInput("source", "invalid.choice", choices="wms")
    if (package := _PACKAGES.get(integration)) is not None and find_spec(f"{package}.{source}") is None:
        raise InvalidInput("source", "invalid.source.unknown", source=source)
    async with transaction() as connection:
        row = await accounts.save(connection, integration, source, account, body.base_url, body.secrets, body.settings)
    accounts.clear_cache()
    if integration is IntegrationType.CHANNEL:
        try:
            await schedule_shops(request.app.state.temporal)
        except (RPCError, RuntimeError) as error:
            log.info("accounts.not_scheduled", error=type(error).__name__)
    return _view(row)


@router.delete("/{integration}/{source}/{account}", status_code=204, summary="Delete an account")
async def delete_account(integration: IntegrationType, source: Source, account: Name, principal: Staff) -> None:
    async with transaction() as connection:
        if not await accounts.remove(connection, integration, source, account):
            raise Problem(404, "problem.no_account", {"source": source, "account": account})
    accounts.clear_cache()


def _view(row: Any) -> AccountView:
    fields = {name: row._mapping[name] for name in ("integration", "source", "account", "base_url", "settings")}
    return AccountView(**fields, secrets=sorted(row.secrets.values))
