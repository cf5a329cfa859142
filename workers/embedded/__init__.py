"""The embedded default: PostgreSQL, Temporal, keys and our own processes, their state in one directory."""

from workers.embedded.children import Children
from workers.embedded.keys import Keys, load_keys
from workers.embedded.postgres import Postgres, start_postgres
from workers.embedded.process import AlreadyRunningError, Server, StartError
from workers.embedded.temporal import Temporal, start_temporal

__all__ = [
    "AlreadyRunningError",
    "Children",
    "Keys",
    "Postgres",
    "Server",
    "StartError",
    "Temporal",
    "load_keys",
    "start_postgres",
    "start_temporal",
]
