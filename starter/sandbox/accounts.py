"""The accounts of the merchant with the sandbox: shops, carriers and warehouse systems."""

import secrets
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import httpx

from activities.accounts import accounts
from activities.carriers import Carrier, tracker
from activities.kit.database import Connection
from models.base import Value
from models.intake import Account, IntegrationType
from starter.sandbox import carriers, merchant, warehouse

CARRIERS = tuple(each.name for each in iter_modules(carriers.__path__))
BOOKING = tuple(
    name
    for name in CARRIERS
    if isinstance(tracker(Account(integration=IntegrationType.CARRIER, source=name, account="")), Carrier)
)
"""The carriers that book; the others only track."""


class Shop(Value):
    """A shop to open; ``settings`` may hold its ``policy`` and ``poll_seconds``."""

    channel: str
    name: str
    settings: dict[str, Any] = {}


async def open_accounts(connection: Connection, sandbox_url: str, shops: list[Shop]) -> None:
    """Open the shops at their twins, and save our accounts with every system of the sandbox."""
    async with httpx.AsyncClient(base_url=sandbox_url) as client:
        for shop in shops:
            twin = import_module(f"starter.sandbox.channels.{shop.channel}")
            shop_secrets = {name: secrets.token_hex(12) for name in twin.SECRETS}
            body = {"shop": shop.name, "secrets": shop_secrets}
            (await client.post(f"/{shop.channel}/_control/shops", json=body)).raise_for_status()
            url = f"{sandbox_url}/{shop.channel}{twin.PATH.format(shop=shop.name)}"
            settings = {
                key: value.format(url=url, shop=shop.name) if isinstance(value, str) else value
                for key, value in twin.SETTINGS.items()
            }
            await accounts.save(
                connection,
                IntegrationType.CHANNEL,
                shop.channel,
                shop.name,
                url,
                shop_secrets,
                settings | shop.settings,
            )
    for name in CARRIERS:
        twin = import_module(f"{carriers.__name__}.{name}")
        carrier_secrets = {**twin.SECRETS, "push_secret": secrets.token_urlsafe(24)}
        url = f"{sandbox_url}/{name}{twin.PATH}"
        await accounts.save(
            connection, IntegrationType.CARRIER, name, "default", url, carrier_secrets, dict(twin.SETTINGS)
        )
    for code in (each.code for each in (*merchant.WAREHOUSES, merchant.SUPPLIER)):
        url = f"{sandbox_url}/warehouse/{code}"
        await accounts.save(connection, IntegrationType.WAREHOUSE, "wms", code, url, {"secret": warehouse.SECRET}, {})
