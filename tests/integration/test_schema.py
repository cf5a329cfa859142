"""The schema on a real database: up, down, up, and the same as the tables of the language."""

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


def test_up_down_and_up_again(postgres_server: Postgres) -> None:
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


def test_the_migrations_make_the_tables_of_the_language(database: str) -> None:
    """Columns, types and indexes by Alembic; partial indexes and check constraints, which it does not see, by name."""
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


@pytest.mark.parametrize(
    "statement", ["UPDATE movements SET quantity = 2", "DELETE FROM movements", "TRUNCATE movements"]
)
def test_the_ledger_is_append_only(database: str, statement: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO movements"
            " (key, warehouse, sku, kind, quantity, on_hand, allocated, reserved, unavailable, reason, actor, at)"
            " VALUES ('k', 'SH', 'A001', 'received', 1, 1, 0, 0, 0, '', 'someone', now())"
        )
        with pytest.raises(errors.RaiseException, match="append-only"):
            connection.execute(statement)
        assert connection.execute("SELECT quantity FROM movements").fetchall() == [(1,)]
