"""The schema of the database, moved up and down by Alembic."""

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
    """Moves the database at ``url`` up to a revision."""
    command.upgrade(config(url), revision)


def downgrade(url: str, revision: str = "base") -> None:
    """Moves it down again, losing what the later revisions held."""
    command.downgrade(config(url), revision)
