"""The accounts that adapters declare, and what an account lacks or has too much of by its adapter's declaration."""

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, create_model

from activities.kit.errors import InvalidInput, validation_message
from activities.kit.strict import describe_unknown, unknown_fields
from models.accounts import AccountField, AccountFields, setting
from models.i18n import message
from models.intake import IntegrationType
from models.listings import StockRule
from models.policy import Policy

PACKAGES = {
    IntegrationType.CHANNEL: "activities.channels",
    IntegrationType.CARRIER: "activities.carriers",
    IntegrationType.WAREHOUSE: "activities.warehouses",
    IntegrationType.MEDIA: "activities.media",
}

_Clock = Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]
_Quiet = create_model("Quiet", since=(_Clock, ...), until=(_Clock, ...))

COMMON: Mapping[IntegrationType, tuple[AccountField, ...]] = {
    IntegrationType.CHANNEL: (
        setting("shop_name", Annotated[str, Field(min_length=1, max_length=100)]),
        setting("policy", Policy),
        setting("stock", StockRule),
        setting("poll_seconds", Annotated[float, Field(gt=0)] | Literal[False]),
        setting("overlap_seconds", Annotated[float, Field(ge=0)]),
        setting("reconcile_days", Annotated[int, Field(ge=1, le=90)]),
    ),
    IntegrationType.CARRIER: (),
    IntegrationType.WAREHOUSE: (),
    IntegrationType.MEDIA: (
        setting("to"),
        setting("lang", Literal["zh-CN", "en"]),
        setting("shops", list[str]),
        setting("quiet", _Quiet),
    ),
}
"""The settings that every account of a kind may have."""


def declared(integration: IntegrationType, source: str) -> AccountFields:
    """Return an adapter's declaration. Raise ``InvalidInput`` where there is no such adapter."""
    if integration not in PACKAGES:
        raise InvalidInput("integration", "invalid.choice", choices=", ".join(PACKAGES))
    package = PACKAGES[integration]
    found = import_module(f"{package}.{source}") if find_spec(f"{package}.{source}") else None
    if not isinstance(declaration := getattr(found, "ACCOUNT", None), AccountFields):
        known = ", ".join(each for kind, each in adapters() if kind is integration)
        raise InvalidInput("source", "invalid.source.unknown", source=source, known=known)
    return declaration


def fields(integration: IntegrationType, source: str) -> tuple[AccountField, ...]:
    """Return all fields of an adapter's accounts, its own before those that every account of the kind may have."""
    return (*declared(integration, source).fields, *COMMON[integration])


@cache
def adapters() -> tuple[tuple[IntegrationType, str], ...]:
    """Return the integration and the source of every adapter."""
    return tuple(_adapters())


def _adapters() -> Iterator[tuple[IntegrationType, str]]:
    for integration, package in PACKAGES.items():
        for module in iter_modules(import_module(package).__path__):
            if isinstance(getattr(import_module(f"{package}.{module.name}"), "ACCOUNT", None), AccountFields):
                yield integration, module.name


def check(
    integration: IntegrationType, source: str, base_url: str, secrets: Mapping[str, str], settings: Mapping[str, Any]
) -> list[InvalidInput]:
    """Return what keeps an account from working by its adapter's declaration: each unknown, missing or odd field."""
    declaration, known = declared(integration, source), fields(integration, source)
    found: list[InvalidInput] = []
    for part, given in (("secrets", secrets), ("settings", settings)):
        names = {each.name for each in known if each.secret is (part == "secrets")}
        for name in sorted(given.keys() - names):
            found.append(InvalidInput(f"{part}.{name}", _text(describe_unknown(name, names))))
    for each in known:
        part, values = ("secrets", secrets) if each.secret else ("settings", settings)
        if each.name not in values:
            if each.required:
                about = message(f"account.field.{each.about}")
                found.append(InvalidInput(f"{part}.{each.name}", "invalid.account.missing", about=about))
        elif not each.secret:
            found += _odd(each, values[each.name])
    if settings.get("follow") and not settings.get("push_url"):
        about = message("account.field.push_url")
        found.append(InvalidInput("settings.push_url", "invalid.account.missing", about=about))
    return found + _unreachable(declaration, base_url, settings)


def _odd(field: AccountField, value: Any) -> list[InvalidInput]:
    adapter = TypeAdapter(field.type)
    errors: list[Any] = unknown_fields(adapter, value)
    if not errors:
        try:
            adapter.validate_python(value)
        except ValueError as error:
            errors = error.errors()  # type: ignore[attr-defined]
    paths = {".".join(map(str, ("settings", field.name, *each["loc"]))): each for each in errors}
    return [InvalidInput(path, _text(each)) for path, each in paths.items()]


def _unreachable(declaration: AccountFields, base_url: str, settings: Mapping[str, Any]) -> list[InvalidInput]:
    """Return the fault of an account whose adapter has nowhere to call. A site that is never notified says so."""
    if base_url or not declaration.base_url or settings.get("notify") is False:
        return [] if base_url or "stock" not in settings else [InvalidInput("base_url", "invalid.account.no_stock_url")]
    if declaration.base_url_required:
        return [InvalidInput("base_url", "invalid.account.no_url", example=declaration.base_url)]
    return [InvalidInput("base_url", "invalid.account.no_notice_url", example=declaration.base_url)]


def _text(error: Any) -> str:
    return validation_message(error)
