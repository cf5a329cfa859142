"""The accounts' door: shops, carriers, warehouse systems and media, as we hold accounts with them. Secrets go in, and
never out."""

from importlib.util import find_spec
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, Field
from temporalio.service import RPCError

from activities import accounts
from activities.database import transaction
from activities.inventory import NotAllowed
from models.intake import Lane
from starter.api.access import Staff
from starter.api.problems import Problem
from workers.schedules import schedule_shops

router = APIRouter(prefix="/accounts", tags=["accounts"])
log = structlog.get_logger()

_ROOMS = {Lane.CHANNEL: "activities.channels", Lane.CARRIER: "activities.carriers", Lane.MEDIA: "activities.media"}

Source = Annotated[str, Path(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
Name = Annotated[str, Path(pattern=r"^[A-Za-z0-9_.\-]{1,64}$")]


class Held(BaseModel):
    lane: Lane
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
async def listed(visitor: Staff, lane: Lane | None = None) -> list[Held]:
    async with transaction() as connection:
        return [_view(row) for row in await accounts.every(connection, lane)]


@router.put("/{lane}/{source}/{account}", summary="Open an account, or change it")
async def keep(lane: Lane, source: Source, account: Name, body: Wish, request: Request, visitor: Staff) -> Held:
    if lane not in _ROOMS and lane is not Lane.WAREHOUSE:
        raise NotAllowed("lane", f"one of {', '.join([*_ROOMS, Lane.WAREHOUSE])}")
    if lane is Lane.WAREHOUSE and source != "wms":
        raise NotAllowed("source", "of a warehouse is wms")
    if (room := _ROOMS.get(lane)) is not None and find_spec(f"{room}.{source}") is None:
        raise NotAllowed("source", f"there is no adapter for {source}")
    async with transaction() as connection:
        row = await accounts.keep(connection, lane, source, account, body.base_url, body.secrets, body.settings)
    accounts.forget()
    if lane is Lane.CHANNEL:
        try:
            await schedule_shops(request.app.state.temporal)
        except (RPCError, RuntimeError) as error:
            log.info("accounts.not_scheduled", error=type(error).__name__)
    return _view(row)


@router.delete("/{lane}/{source}/{account}", status_code=204, summary="Close an account")
async def drop(lane: Lane, source: Source, account: Name, visitor: Staff) -> None:
    async with transaction() as connection:
        if not await accounts.drop(connection, lane, source, account):
            raise Problem(404, "problem.no_account", {"source": source, "account": account})
    accounts.forget()


def _view(row: Any) -> Held:
    told = {name: row._mapping[name] for name in ("lane", "source", "account", "base_url", "settings")}
    return Held(**told, secrets=sorted(row.secrets.values))
