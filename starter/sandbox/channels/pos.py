"""A till's twin: sends sales with its API key and receives nothing."""

import json
from collections.abc import Mapping

from fastapi import APIRouter

from starter.sandbox.channels.own import sold
from starter.sandbox.shops import Delivery, Sale, Shop, Shops

SECRETS: tuple[str, ...] = ()
PATH = ""
"""The path of the account's ``base_url`` below the twin."""
SETTINGS: dict[str, str] = {}

router = APIRouter()


def _webhook(shop: Shop, sale: Sale, delivery: Delivery) -> tuple[Mapping[str, str], bytes]:
    receipt_no = sale.order_no.removeprefix(f"{sale.store}-{sale.terminal}-")
    order = {"store": sale.store, "terminal": sale.terminal, "receipt_no": receipt_no, **sold(sale)}
    if delivery.garbage:
        order["lines"] = "?"
    headers = {"Content-Type": "application/json"}
    if delivery.api_key:
        headers["Authorization"] = f"Bearer {delivery.api_key}"
    return headers, json.dumps(order, ensure_ascii=False).encode()


shops = Shops(router, number=lambda sale, n: f"{sale.store}-{sale.terminal}-{n:06}", webhook=_webhook)
