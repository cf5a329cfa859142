"""Sealed columns: a value opens in its own row and column only, and a row that does not open harms no other."""

from datetime import UTC, datetime
from functools import cache
from typing import Any

import httpx
import psycopg
import pytest
from psycopg import sql
from sqlalchemy import ARRAY, Boolean, DateTime, Table, insert, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import SQLModel
from sqlmodel.sql.sqltypes import AutoString

from activities.intake import inbox
from activities.kit.database import is_permanent, transaction
from models.address import ContactChange, Recipient
from models.api_keys import Scope
from models.intake import IntegrationType, Raw, Secrets
from models.notifications import Message
from models.order import OrderRow
from models.vault import BrokenSeal, SealBroken, Sealed, keyring, seal_row
from tests.api import bearer
from tests.conftest import new_database
from tests.unit.orders import an_order
from workers.embedded import Postgres
from workers.schema import downgrade, migrate

SEALED = sorted(
    (table.name, column.name)
    for table in SQLModel.metadata.tables.values()
    for column in table.columns
    if isinstance(column.type, Sealed)
)
VALUES = {
    "channel_orders.document": cache(an_order),
    "accounts.secrets": lambda name: Secrets(values={"secret": name}),
    "notifications.message": lambda name: Message(id=name, event="shipped", to=name, subject="", body="", facts={}),
    "orders.recipient": lambda name: Recipient(name=name),
    "timeline.contact": lambda name: ContactChange(before=Recipient(), after=Recipient(name=name)),
    "warehouses.sender": lambda name: Recipient(name=name),
    "inbox.raw": lambda name: Raw.model_construct(body=name.encode()),
    "inbox_handlings.raw": lambda name: Raw.model_construct(body=name.encode()),
}


def filler(column: Any, name: str, number: int) -> Any:
    """Return a value for a column that must have one."""
    if isinstance(kind := column.type, Sealed):
        return VALUES[kind.column](name)
    if isinstance(kind, AutoString):
        return name
    if isinstance(kind, DateTime):
        return datetime(2026, 11, number, tzinfo=UTC)
    if isinstance(kind, Boolean):
        return False
    return [] if isinstance(kind, JSONB | ARRAY) else number


def row(table: Table, name: str, number: int) -> dict[str, Any]:
    needed = [each for each in table.columns if not each.nullable or each.primary_key or isinstance(each.type, Sealed)]
    always = {each.name for each in needed if each.identity is not None and each.identity.always}
    return seal_row(table, {each.name: filler(each, name, number) for each in needed if each.name not in always})


async def names(table: Table, column: str) -> list[Any]:
    async with transaction() as connection:
        return list(await connection.scalars(select(table.c[column]).order_by(*table.primary_key.columns)))


@pytest.mark.parametrize(("table", "column"), SEALED)
async def test_a_value_moved_to_another_row_does_not_open(database: str, table: str, column: str) -> None:
    rows = SQLModel.metadata.tables[table]
    async with transaction() as connection:
        await connection.execute(insert(rows), [row(rows, name, n) for n, name in enumerate(("Li", "Wang", "Zhao"), 1)])
    of = VALUES[f"{table}.{column}"]
    assert await names(rows, column) == [of("Li"), of("Wang"), of("Zhao")]
    swap = """WITH ranked AS (
            SELECT ctid AS place, {column} AS sealed, row_number() OVER (ORDER BY {key}) AS n FROM {table}
        )
        UPDATE {table} SET {column} = other.sealed FROM ranked here JOIN ranked other ON here.n + other.n = 3
        WHERE {table}.ctid = here.place"""
    parts = {"table": sql.Identifier(table), "column": sql.Identifier(column)}
    key = sql.SQL(", ").join(sql.Identifier(each.name) for each in rows.primary_key.columns)
    with psycopg.connect(database, autocommit=True) as connection:
        assert connection.execute(sql.SQL(swap).format(**parts, key=key)).rowcount == 2
    first, second, third = await names(rows, column)
    assert third == of("Zhao")
    for broken in (first, second):
        assert isinstance(broken, BrokenSeal)
        with pytest.raises(SealBroken, match=f"{table}.{column}") as error:
            broken.model_dump()
        assert is_permanent(error.value)


async def test_a_value_is_written_bound_to_its_row_only() -> None:
    kind = SQLModel.metadata.tables["orders"].c.recipient.type
    with pytest.raises(TypeError, match="seal_row"):
        kind.process_bind_param(Recipient(name="Li"), None)
    with pytest.raises(KeyError):
        seal_row(OrderRow, {"recipient": Recipient(name="Li")})


async def test_a_swapped_recipient_is_not_shown_and_hides_no_other_order(database: str, api: httpx.AsyncClient) -> None:
    rows = SQLModel.metadata.tables["orders"]
    async with transaction() as connection:
        for number, name in enumerate(("Li", "Wang", "Zhao"), 1):
            values = row(rows, name, number) | {"status": "shipped", "next_step": "", "currency": "CNY"}
            await connection.execute(insert(rows).values(values))
    with psycopg.connect(database, autocommit=True) as connection:
        stolen = "(SELECT recipient FROM orders WHERE id = 'Li')"
        connection.execute(f"UPDATE orders SET recipient = {stolen} WHERE id = 'Wang'")
    answer = await api.get("/orders", headers=await bearer(Scope.READ))
    shown = {each["id"]: each["recipient"] for each in answer.json()["items"]}
    assert shown["Wang"] is None
    assert shown["Li"] is not None
    assert shown["Zhao"] is not None


def sealed_before(context: str) -> bytes:
    return keyring().seal(VALUES[context]("Li").model_dump_json().encode(), context)


async def test_the_migration_binds_what_was_sealed_and_reverts(
    database: str, postgres_server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = new_database(postgres_server, "seals")
    migrate(url, "0023")
    given = """
        INSERT INTO inbox (integration, source, account, fact_key, topic, path, priority, raw, state, reason, field,
                           attempts, actor, received_at)
        VALUES ('channel', 'own', 'web', %s, '', 'webhook', 3, %s, 'pending', '', '', 0, '', now())"""
    with psycopg.connect(url, autocommit=True) as connection:
        for number in range(1500):
            connection.execute(given, (f"F{number}", sealed_before("inbox.raw")))
    kind = SQLModel.metadata.tables["inbox"].c.raw.type
    assert isinstance(kind, Sealed)

    def bound() -> int:
        with psycopg.connect(url) as connection:
            found = connection.execute("SELECT integration, source, account, fact_key, raw FROM inbox").fetchall()
        count = 0
        for *key, raw in found:
            try:
                keyring().open(raw, kind.context(key))
            except SealBroken:
                assert keyring().open(raw, kind.column)
            else:
                count += 1
        return count

    held = keyring()
    with monkeypatch.context() as without:
        without.setattr(held, "_ciphers", {})
        with pytest.raises(SealBroken, match="HENGDAN_KEYS"):
            migrate(url, "0025")
    assert bound() == 0
    with psycopg.connect(url, autocommit=True) as connection:  # as a stopped run left it
        sealed = kind.seal(VALUES["inbox.raw"]("Li"), dict(zip(kind.key, ("channel", "own", "web", "F7"), strict=True)))
        connection.execute("UPDATE inbox SET raw = %s WHERE fact_key = 'F7'", (sealed,))
    migrate(url, "0025")
    assert bound() == 1500
    downgrade(url, "0023")
    assert bound() == 0
    migrate(url, "0025")
    assert bound() == 1500


async def test_a_message_that_does_not_open_waits_alone(database: str) -> None:
    rows = SQLModel.metadata.tables["inbox"]
    async with transaction() as connection:
        for number, name in enumerate(("Li", "Wang"), 1):
            values = row(rows, name, number) | {"integration": "internal", "state": "pending"}
            values = seal_row(rows, values | {"raw": Raw.model_construct(body=name.encode())})
            await connection.execute(insert(rows).values(values))
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("UPDATE inbox SET fact_key = 'moved' WHERE fact_key = 'Li'")
    async with transaction() as connection:
        found = await inbox.next_messages(connection, [IntegrationType.INTERNAL], 10)
    assert [isinstance(each.raw, BrokenSeal) for each in found] == [True, False]
