"""Webhooks of every channel under mutated messages: no internal error, and no acknowledged message is lost.

``HENGDAN_FUZZ`` sets how many messages each webhook is sent.
"""

import asyncio
import json
import os
import random
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from activities.channels import channel, douyin
from activities.intake.inbox import Outcome
from activities.kit import signing
from activities.kit.database import transaction
from models.api_keys import Scope
from models.intake import Account, InboxRow, InboxState, IntegrationType
from starter import dispatcher
from starter.api import create_app
from starter.sandbox import channels
from starter.sandbox.shops import Delivery, Sale, SaleLine, Shop
from tests.api import bearer, open_account
from tests.shops import PERSON

MESSAGES = int(os.environ.get("HENGDAN_FUZZ", "1000"))
AT_ONCE = 16
EVERY = [each.name for each in iter_modules(channels.__path__)]

Sign = Callable[[Mapping[str, str], bytes], dict[str, str]]
SIGNS: dict[str, Sign] = {
    "own": lambda secrets, body: signing.signed_headers(secrets["secret"], body),
    "app": lambda secrets, body: signing.signed_headers(secrets["secret"], body),
    "shopify": lambda secrets, body: {"X-Shopify-Hmac-Sha256": signing.sign_body(secrets["client_secret"], body)},
    "woocommerce": lambda secrets, body: {"X-WC-Webhook-Signature": signing.sign_body(secrets["webhook_secret"], body)},
    "douyin": lambda secrets, body: {"event-sign": douyin.event_sign(secrets["app_key"], secrets["app_secret"], body)},
    "amazon": lambda secrets, body: {"x-api-key": secrets["notification_key"]},
}
"""How to sign a mutated message; other channels sign nothing, or have no webhooks."""
ODDITIES: list[Any] = [
    None, True, False, 0, -1, 2**63, -(2**63), 10**30, 0.1, 1e308, 1e17, "", " ", "0", "-1", "1e999", "NaN", "\x00",
    "\ud83d\ude00", "😀" * 300, "x" * 5000, "9999-12-31T23:59:59-12:00", "0001-01-01 00:00:00", [], {}, [None],
    {"": None}, [[]], [{}] * 300, "' OR 1=1 --", "<script>", "../../etc/passwd", "${jndi:ldap://x}", "％００",
]  # fmt: skip


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every (container, key) of a document."""
    keys: Any = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in list(keys):
        yield value, key
        yield from places(value[key])


def mutate_document(dice: random.Random, body: bytes) -> bytes:
    """Replace, remove or duplicate some values."""
    document = json.loads(body)
    for _ in range(dice.randint(1, 4)):
        spots = list(places(document))
        if not spots:
            break
        container, key = dice.choice(spots)
        match dice.randrange(3):
            case 0:
                container[key] = deepcopy(dice.choice(ODDITIES))
            case 1:
                del container[key]
            case _ if isinstance(container, list):
                container.append(deepcopy(container[key]))
            case _:
                container[f"{key}_"] = container[key]
    return json.dumps(document, ensure_ascii=dice.random() < 0.5).encode("utf-8", "surrogatepass")


def mutate_bytes(dice: random.Random, body: bytes) -> bytes:
    at = dice.randrange(len(body))
    match dice.randrange(8):
        case 0:
            return body[:at]
        case 1:
            return body[:at] + bytes([dice.randrange(256)]) + body[at + 1 :]
        case 2:
            return body[:at] + b"\xff\xfe\x00" + body[at:]
        case 3:
            return b"[" * 20_000
        case 4:
            return b'{"a":' * 5_000 + b"1" + b"}" * 5_000
        case 5:
            return body + body
        case 6:
            return b"1" * 400
        case _:
            return dice.randbytes(dice.randrange(200))


@pytest.mark.parametrize("source", EVERY)
async def test_mutated_messages_cause_no_internal_error_and_none_is_lost(database: str, source: str) -> None:
    twin = import_module(f"starter.sandbox.channels.{source}")
    secrets = {name: f"{name}-of-fuzz" for name in twin.SECRETS}
    await open_account(IntegrationType.CHANNEL, source, "fuzz", **secrets)
    adapter = channel(Account(integration=IntegrationType.CHANNEL, source=source, account="fuzz", secrets=secrets))
    till = await bearer(Scope.POS) if source == "pos" else {}
    shop = Shop(name="fuzz", secrets=secrets)
    dice = random.Random(source)
    sale = Sale(order_no="4100000000000000100", lines=[SaleLine(sku="A001"), SaleLine(sku="B001")], recipient=PERSON)
    if source == "pos":
        sale.order_no = "S001-T1-000001"
    elif source in ("own", "app"):
        sale.order_no = "W1"
    acknowledged: set[str] = set()

    def message() -> tuple[dict[str, str], bytes]:
        try:
            signed, body = twin.shops._webhook(shop, sale, Delivery(url=""))
        except Exception:
            return {}, mutate_bytes(dice, b'{"orders": []}')
        body = mutate_document(dice, body) if dice.random() < 0.7 else mutate_bytes(dice, body)
        headers = dict(signed) | till
        if dice.random() < 0.9 and source in SIGNS:
            headers |= SIGNS[source](secrets, body)
        if dice.random() < 0.05 and headers:
            headers[dice.choice(list(headers))] = dice.choice(["", "x" * 9000, "\xff", "0"])
        return headers, body

    async def send(client: httpx.AsyncClient) -> None:
        headers, body = message()
        raw = {key: value.encode("latin-1") for key, value in headers.items()}
        answer = await client.post(f"/channels/{source}/fuzz/webhook", content=body, headers=raw)
        assert answer.status_code < 500, (answer.status_code, answer.text, body[:300])
        if answer.is_success:
            lower = {key.lower(): value for key, value in headers.items()}
            acknowledged.add(adapter.receive(lower, body).fact_key)

    async def many(client: httpx.AsyncClient) -> None:
        for _ in range(MESSAGES // AT_ONCE):
            await send(client)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(create_app()), base_url="http://test") as client:
        await asyncio.gather(*(many(client) for _ in range(AT_ONCE)))
    async with transaction() as connection:
        kept = (await connection.execute(select(InboxRow).where(InboxRow.source == source))).all()  # type: ignore[arg-type]
    assert {row.fact_key for row in kept} == acknowledged
    for at in range(0, len(kept), 500):
        await _read(kept[at : at + 500])


async def _read(rows: Any) -> None:
    """Parse as the dispatcher does: each message is an order, a hint, or fails with a reason."""
    outcomes, orders, hints = await dispatcher._read(rows)
    by_row: dict[int, Outcome] = {outcome.row: outcome for outcome in outcomes}
    for outcome in by_row.values():
        if outcome.state is InboxState.FAILED:
            assert outcome.field, outcome
            assert "internal error" not in outcome.reason, outcome
        assert outcome.reason
    understood = {fact.row for facts in orders.values() for fact in facts}
    named = {row for hinted in hints.values() for row in hinted}
    assert {row.id for row in rows} == set(by_row) | understood | named
    assert len(rows) == len(by_row) + len(understood) + len(named)
