"""The migrations on a real database: they can be reverted and repeated, and match the models."""

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from psycopg import errors
from sqlalchemy import create_engine, inspect
from sqlmodel import SQLModel

from activities.kit.database import sqlalchemy_url
from tests.conftest import new_database
from workers.embedded import Postgres
from workers.schema import downgrade, migrate


def test_migrations_are_reverted_and_repeated(postgres_server: Postgres) -> None:
    url = new_database(postgres_server, "up_and_down")
    engine = create_engine(sqlalchemy_url(url))
    try:
        migrate(url)
        migrate(url)
        tables = set(inspect(engine).get_table_names())
        assert tables == {*SQLModel.metadata.tables, "alembic_version"}
        downgrade(url)
        assert inspect(engine).get_table_names() == ["alembic_version"]
        with engine.connect() as connection:
            ours = "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
            assert connection.exec_driver_sql(ours).all() == []
        migrate(url)
        assert set(inspect(engine).get_table_names()) == tables
    finally:
        engine.dispose()


def test_migrations_match_the_models(database: str) -> None:
    """Alembic compares columns, types and indexes. Partial indexes and checks, which it ignores, compare by name."""
    engine = create_engine(sqlalchemy_url(database))
    try:
        with engine.connect() as connection:
            assert compare_metadata(MigrationContext.configure(connection), SQLModel.metadata) == []
        seen = inspect(engine)
        for table in SQLModel.metadata.tables.values():
            checks = {each["name"]: each["sqltext"] for each in seen.get_check_constraints(table.name)}
            assert set(checks) == {each.name for each in table.constraints if hasattr(each, "sqltext")}
            partial = {
                each["name"] for each in seen.get_indexes(table.name) if each["dialect_options"].get("postgresql_where")
            }
            assert partial == {
                each.name for each in table.indexes if each.dialect_options["postgresql"]["where"] is not None
            }
    finally:
        engine.dispose()


ORDER = "order:own:web:1"
ROWS_BEFORE = f"""
    INSERT INTO orders (id, channel, shop, channel_order_no, status, lines, origin, custom, currency, total, placed_at,
                        holds, tags, next_step, priority, revision, updated_at, phone_index, region)
    VALUES ('{ORDER}', 'own', 'web', '1', 'shipped', '[]', '{{}}', '{{}}', 'CNY', 1, now(),
            '[]', '[]', '', 3, 1, now(), '', '');
    INSERT INTO fulfillments (id, order_id, warehouse, status, request_status, lines, carrier, waybill_no, updated_at,
                              channel_notified)
    VALUES ('{ORDER}:F1', '{ORDER}', 'SH', 'shipped', 'accepted', '[]', 'sf', 'SF1', now(), false);
    INSERT INTO exceptions (fulfillment_id, kind, order_id, shop, warehouse, severity, owner, cause_at, opened_at,
                            due_at, note)
    VALUES ('{ORDER}:F1', 'lost', '{ORDER}', 'own:web', 'SH', 'critical', 'mei', now(), now(), now(), '');
    INSERT INTO alerts (key, kind, order_id, detail, raised_at, closed_at)
    VALUES ('{ORDER}:lost:F1', 'alert.lost', '{ORDER}', '{{"waybill_no": "SF1"}}', now(), NULL),
           ('{ORDER}:ship_overdue:F1', 'alert.ship_overdue', '{ORDER}', '{{"fulfillment": "F1"}}', now(), now()),
           ('{ORDER}:refund_after_shipping:R1', 'alert.refund_after_shipping', '{ORDER}', '{{}}', now(), NULL),
           ('low_stock:GZ:A001', 'alert.low_stock', '', '{{"sku": "A001", "warehouse": "GZ"}}', now(), NULL);
"""


def test_alerts_and_exceptions_become_one_table_and_two_again(postgres_server: Postgres) -> None:
    url = new_database(postgres_server, "exceptions")
    migrate(url, "0012")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(ROWS_BEFORE)  # type: ignore[arg-type]
    migrate(url)
    with psycopg.connect(url, autocommit=True) as connection:
        query = "SELECT key, owner, fulfillment_id, shop, warehouse, waybill_no, closed_at IS NULL FROM exceptions"
        assert set(connection.execute(query)) == {
            (f"{ORDER}:F1:lost", "mei", f"{ORDER}:F1", "own:web", "SH", None, True),
            (f"{ORDER}:F1:ship_overdue", "warehouse", f"{ORDER}:F1", "own:web", "SH", "SF1", False),
            (f"{ORDER}:refund_after_shipping:R1", "service", "", "own:web", "", None, True),
            ("low_stock:GZ:A001", "purchasing", "", "", "GZ", None, True),
        }
        overdue = connection.execute("SELECT count(*) FROM exceptions WHERE due_at <= opened_at AND owner <> 'mei'")
        assert overdue.fetchall() == [(0,)]
    downgrade(url, "0012")
    with psycopg.connect(url, autocommit=True) as connection:
        assert connection.execute("SELECT fulfillment_id, kind, owner FROM exceptions").fetchall() == [
            (f"{ORDER}:F1", "lost", "mei")
        ]
        assert set(connection.execute("SELECT key, kind FROM alerts")) == {
            (f"{ORDER}:ship_overdue:F1", "alert.ship_overdue"),
            (f"{ORDER}:refund_after_shipping:R1", "alert.refund_after_shipping"),
            ("low_stock:GZ:A001", "alert.low_stock"),
        }
    migrate(url)


@pytest.mark.parametrize(
    "statement", ["UPDATE movements SET quantity = 2", "DELETE FROM movements", "TRUNCATE movements"]
)
def test_ledger_is_append_only(database: str, statement: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO movements"
            " (key, warehouse, sku, kind, quantity, on_hand, allocated, reserved, unavailable, reason, actor, at)"
            " VALUES ('k', 'SH', 'A001', 'received', 1, 1, 0, 0, 0, '', 'someone', now())"
        )
        with pytest.raises(errors.RaiseException, match="append-only"):
            connection.execute(statement)
        assert connection.execute("SELECT quantity FROM movements").fetchall() == [(1,)]
