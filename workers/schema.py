"""Migrations of the database schema, run by Alembic."""

from pathlib import Path

from alembic import command
from alembic.config import Config

import models
from activities.kit.database import sqlalchemy_url

_MIGRATIONS = Path(models.__file__).parent / "migrations"


def config(url: str) -> Config:
    settings = Config()
    settings.set_main_option("script_location", str(_MIGRATIONS))
    settings.attributes["url"] = sqlalchemy_url(url)
    return settings


def migrate(url: str, revision: str = "head") -> None:
    """Upgrade the database at ``url`` to a revision."""
    command.upgrade(config(url), revision)


def downgrade(url: str, revision: str = "base") -> None:
    """Downgrade the database at ``url`` to a revision, dropping the data that only later revisions hold."""
    command.downgrade(config(url), revision)
