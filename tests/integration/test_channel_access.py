"""Expired access to a channel is renewed once for all callers, against the vendor's sandbox."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import insert, select
from temporalio.exceptions import ApplicationError

from activities.accounts import accounts, channel_access
from activities.channels import PulledOrder, order_reader
from activities.kit import http
from activities.kit.database import transaction
from models.exceptions import ExceptionRow
from models.intake import AccountRow, Secrets
from models.vault import seal_row
from starter.sandbox.app import create_app
from tests.serving import served
from tests.shops import World

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture(scope="module")
def sandbox() -> Iterator[str]:
    with served(create_app()) as url:
        yield url


async def save_account(world: World, **secrets: str) -> World:
    """Save the shop's account in the database; return the shop."""
    await http.close()
    accounts.clear_cache()
    account = world.account
    row = {
        "integration": account.integration,
        "source": account.source,
        "account": account.account,
        "base_url": account.base_url,
    }
    async with transaction() as connection:
        values = {**row, "secrets": Secrets(values=account.secrets | secrets), "settings": account.settings}
        await connection.execute(insert(AccountRow).values(seal_row(AccountRow, values)))
    return world


async def saved_secrets() -> dict[str, str]:
    async with transaction() as connection:
        found: Secrets = (await connection.execute(select(AccountRow.secrets))).scalar_one()
    return found.values


async def read(world: World, number: str) -> PulledOrder | None:
    async with channel_access.open_channel(world.account.source, world.account.account) as ours:
        return await order_reader(ours).read(number)


async def test_expired_access_is_renewed_for_the_retry(sandbox: str) -> None:
    world = await save_account(World(sandbox, "amazon", "access"))
    number = world.sell()
    before = await saved_secrets()
    world.ok("POST", "/access/expire")
    with pytest.raises(ApplicationError) as caught:
        await read(world, number)
    assert (caught.value.type, caught.value.non_retryable) == ("Expired", False)
    assert await read(world, number) is not None
    after = await saved_secrets()
    assert after["access_token"] != before["access_token"]
    assert datetime.fromisoformat(after["expires_at"]) > datetime.now(UTC)


async def test_access_is_renewed_before_it_expires(sandbox: str) -> None:
    world = await save_account(World(sandbox, "amazon", "soon"), expires_at=datetime.now(UTC).isoformat())
    number = world.sell()
    assert await read(world, number) is not None
    assert (await saved_secrets())["access_token"] != world.account.secrets["access_token"]


async def test_withdrawn_authorisation_opens_an_exception(sandbox: str) -> None:
    world = await save_account(World(sandbox, "amazon", "withdrawn"), refresh_token="revoked")
    world.ok("POST", "/withdrawn/expire")
    with pytest.raises(ApplicationError) as caught:
        await read(world, "902-0000000-0000001")
    assert (caught.value.type, caught.value.non_retryable) == ("Refused", True)
    async with transaction() as connection:
        rows: list[Any] = list((await connection.execute(select(ExceptionRow))).all())
    assert [(row.kind, row.detail["reason"]) for row in rows] == [
        ("authorise", "error.authorisation?vendor=amazon&code=invalid_grant")
    ]
