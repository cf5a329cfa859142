"""Alembic's environment: the tables of the language, against the database it is given."""

from typing import Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from sqlalchemy import create_engine, pool
from sqlmodel import SQLModel
from sqlmodel.sql.sqltypes import AutoString

from models import exchange_rates as _exchange_rates  # noqa: F401
from models import fulfillment as _fulfillment  # noqa: F401
from models.vault import Sealed


def render_item(kind: str, item: object, autogen_context: AutogenContext) -> str | Literal[False]:
    """To the database a sealed column is bytes, and text is text."""
    if kind == "type" and isinstance(item, Sealed):
        return "sa.LargeBinary()"
    return "sa.String()" if kind == "type" and isinstance(item, AutoString) else False


engine = create_engine(context.config.attributes["url"], poolclass=pool.NullPool)
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=SQLModel.metadata, render_item=render_item)
    with context.begin_transaction():
        context.run_migrations()
