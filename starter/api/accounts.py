"""The accounts' door: shops, carriers, warehouse systems and media, as we hold accounts with them. Secrets go in, and
never out."""

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

_ROOMS = {
    IntegrationType.CHANNEL: "activities.channels",
    IntegrationType.CARRIER: "activities.carriers",
    IntegrationType.MEDIA: "activities.media",
}

Source = Annotated[str, Path(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
Name = Annotated[str, Path(pattern=r"^[A-Za-z0-9_.\-]{1,64}$")]


class Held(BaseModel):
    integration: IntegrationType
    source: str
    account: str
    base_url: str
    settings: dict[str, Any]
    secrets: list[str]
    """The names of those that are set."""


class Wish(BaseModel):
    """The secrets and settings that its adapter's module describes. What is not told stays as it is; an empty secret
    is taken away."""

    base_url: Annotated[str | None, Field(pattern=r"^(https?|smtps?)://\S+$", max_length=500)] = None
    secrets: dict[str, Annotated[str, Field(max_length=10_000)]] = {}
    settings: dict[str, Any] | None = None


@router.get("", summary="The accounts we hold")
async def listed(principal: Staff, integration: IntegrationType | None = None) -> list[Held]:
    async with transaction() as connection:
        return [_view(row) for row in await accounts.list_all(connection, integration)]


@router.put("/{integration}/{source}/{account}", summary="Open an account, or change it")
async def keep(
    integration: IntegrationType, source: Source, account: Name, body: Wish, request: Request, principal: Staff
) -> Held:
    if integration not in _ROOMS and integration is not IntegrationType.WAREHOUSE:
        raise InvalidInput("integration", "invalid.choice", choices=", ".join([*_ROOMS, IntegrationType.WAREHOUSE]))
    if integration is IntegrationType.WAREHOUSE and source != "wms":
        raise InvalidInput("source", "invalid.choice", choices="wms")
    if (room := _ROOMS.get(integration)) is not None and find_spec(f"{room}.{source}") is None:
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


@router.delete("/{integration}/{source}/{account}", status_code=204, summary="Close an account")
async def drop(integration: IntegrationType, source: Source, account: Name, principal: Staff) -> None:
    async with transaction() as connection:
        if not await accounts.remove(connection, integration, source, account):
            raise Problem(404, "problem.no_account", {"source": source, "account": account})
    accounts.clear_cache()


def _view(row: Any) -> Held:
    told = {name: row._mapping[name] for name in ("integration", "source", "account", "base_url", "settings")}
    return Held(**told, secrets=sorted(row.secrets.values))
