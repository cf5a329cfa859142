"""Accounts with shops, carriers, warehouse systems and media. Secrets are written, never returned."""

from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, Field
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError

from activities.accounts import access, accounts, declarations
from activities.kit.database import transaction
from models.i18n import t
from models.intake import IntegrationType
from starter.api.authentication import Staff
from starter.api.problems import Problem, lang
from starter.api.webhooks import find_account
from workers.schedules import schedule_shops

router = APIRouter(prefix="/accounts", tags=["accounts"])
log = structlog.get_logger()

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


class FieldView(BaseModel):
    """A secret or setting that an adapter's accounts have: what it is, and where to find it."""

    name: str
    secret: bool
    required: bool
    type: dict[str, Any]
    text: str


class AdapterView(BaseModel):
    """What an adapter needs of its accounts. ``base_url``: the vendor's, or an example of the merchant's own."""

    integration: IntegrationType
    source: str
    console: str
    base_url: str
    fields: list[FieldView]


@router.get("/adapters", summary="The secrets and settings of accounts, by adapter")
async def describe_adapters(request: Request, principal: Staff, source: str | None = None) -> list[AdapterView]:
    speak = lang(request)
    return [
        describe(integration, name, speak) for integration, name in declarations.adapters() if source in (None, name)
    ]


def describe(integration: IntegrationType, source: str, speak: str) -> AdapterView:
    declaration = declarations.declared(integration, source)
    return AdapterView(
        integration=integration,
        source=source,
        console=t(f"account.console.{declaration.console}", speak),
        base_url=declaration.base_url,
        fields=[
            FieldView(
                name=each.name,
                secret=each.secret,
                required=each.required,
                type=each.schema,
                text=t(f"account.field.{each.about}", speak),
            )
            for each in declarations.fields(integration, source)
        ],
    )


@router.put("/{integration}/{source}/{account}", summary="Create or change an account")
async def save_account(
    integration: IntegrationType, source: Source, account: Name, body: AccountUpdate, request: Request, principal: Staff
) -> AccountView:
    async with transaction() as connection:
        row = await accounts.save(connection, integration, source, account, body.base_url, body.secrets, body.settings)
    accounts.clear_cache()
    if integration is IntegrationType.CHANNEL:
        try:
            await schedule_shops(request.app.state.temporal)
        except (RPCError, RuntimeError) as error:
            log.info("accounts.not_scheduled", error=type(error).__name__)
    return _view(row)


class Tried(BaseModel):
    text: str
    """What was done, in the reader's language."""


@router.post("/{integration}/{source}/{account}/test", summary="Make one harmless call with an account")
async def try_account(
    integration: IntegrationType, source: Source, account: Name, request: Request, principal: Staff
) -> Tried:
    """A 409 says why the other side refused, a 502 that it did not answer."""
    accounts.clear_cache()
    found = await find_account(integration, source, account)
    try:
        return Tried(text=t(await access.try_access(found), lang(request)))
    except ApplicationError as error:
        status = 409 if error.non_retryable else 502
        why = t(error.message, lang(request))
        raise Problem(status, "account.test.failed", {"source": source, "account": account, "why": why}) from None


@router.delete("/{integration}/{source}/{account}", status_code=204, summary="Delete an account")
async def delete_account(integration: IntegrationType, source: Source, account: Name, principal: Staff) -> None:
    async with transaction() as connection:
        if not await accounts.remove(connection, integration, source, account):
            raise Problem(404, "problem.no_account", {"source": source, "account": account})
    accounts.clear_cache()


def _view(row: Any) -> AccountView:
    fields = {name: row._mapping[name] for name in ("integration", "source", "account", "base_url", "settings")}
    return AccountView(**fields, secrets=sorted(row.secrets.values))
