"""The whole stack on one machine: embeds the servers that no setting names, and restarts processes that die."""

import asyncio
import fcntl
import json
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import httpx

from activities.accounts.api_keys import create_key, find_principal
from activities.kit.database import dispose
from models.api_keys import Scope
from models.i18n import t
from models.search_attributes import SEARCH_ATTRIBUTES
from models.settings import INSTANCE_HEADER, settings
from models.vault import keyring
from workers.cluster import orders_url
from workers.embedded import AlreadyRunningError, Children, StartError, load_keys, start_postgres, start_temporal
from workers.embedded.process import BEHIND, listen, private_folder
from workers.schema import migrate

READY_SECONDS = 60
HENGDAN = (sys.executable, "-P", "-m", "starter")
"""The command; ``-P``: modules in the working directory do not shadow ours."""
OPERATOR = "operator"
"""The name of the key created on first start."""


class Stack:
    """PostgreSQL, Temporal, a worker and the API, with their state in one directory.

    ``children`` are further commands to keep running, each with the socket that it inherits as ``--fd``. Until exit,
    the environment of this process is theirs.
    """

    def __init__(
        self, state_dir: Path, *, children: Mapping[str, tuple[Sequence[str], socket.socket]] | None = None
    ) -> None:
        self.state_dir = private_folder(state_dir.absolute())
        self.new_key: str | None = None
        """The API key if this start created it: shown only once."""
        self.ui_url: str | None = None
        self.api_url = ""
        self._children = children or {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def banner(self) -> list[str]:
        """Return what serves, in lines for the person who started it."""
        lines = [t("up.serving", api=self.api_url, ui=self.ui_url or "-")]
        if self.ui_url:
            lines.append(t("up.clear", api=self.api_url, ui=orders_url(self.ui_url, "default")))
        lines.append(t("up.key", key=self.new_key) if self.new_key else t("up.kept", file=self.key_file))
        return lines

    @property
    def logs(self) -> Path:
        return self.state_dir / "logs"

    def _start(self) -> None:
        owner = self._stack.enter_context((self.state_dir / "stack.owner").open("w"))
        try:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunningError(f"{self.state_dir} is served by another process") from None
        config = settings()
        memory = self.state_dir / f"api-{config.api_port}.port"
        listener = self._stack.enter_context(listen(memory, config.api_port, config.api_host))
        port = listener.getsockname()[1]
        self.api_url = f"http://{'127.0.0.1' if config.api_host == '0.0.0.0' else config.api_host}:{port}"
        instance, codec_token = secrets.token_hex(16), secrets.token_urlsafe(24)
        env: dict[str, str | None] = {
            "HENGDAN_INSTANCE": instance,
            "HENGDAN_STATE_DIR": str(self.state_dir),
            "HENGDAN_API_PORT": str(port),
            "HENGDAN_API_URL": self.api_url,
            "HENGDAN_CODEC_TOKEN": codec_token,
        }
        if (config.keys is None) != (config.index_key is None):
            raise StartError("HENGDAN_KEYS and HENGDAN_INDEX_KEY belong together: set both, or neither")
        if config.keys is None:
            env["HENGDAN_KEYS"], env["HENGDAN_INDEX_KEY"] = load_keys(self.state_dir)
        postgres = temporal = None
        if config.database_url is None:
            postgres = self._stack.enter_context(start_postgres(self.state_dir))
            env["HENGDAN_DATABASE_URL"] = postgres.url
        if "TEMPORAL_ADDRESS" not in os.environ:
            temporal = self._stack.enter_context(
                start_temporal(
                    self.state_dir,
                    search_attributes=SEARCH_ATTRIBUTES,
                    codec_endpoint=f"{self.api_url}/codec/ui/{codec_token}",
                )
            )
            self.ui_url = temporal.ui_url
            env["HENGDAN_UI_ORIGINS"] = json.dumps([temporal.ui_url])
            env |= {name: None for name in os.environ if name.startswith("TEMPORAL_")}  # of another cluster
            env |= {"TEMPORAL_ADDRESS": temporal.address, "TEMPORAL_CONFIG_FILE": os.devnull}
        self._stack.callback(_set_environment, {name: os.environ.get(name) for name in env})
        _set_environment(env)
        database = settings().database_url
        assert database is not None  # noqa: S101
        migrate(database.get_secret_value())
        asyncio.run(self._save_key())
        children = self._stack.enter_context(Children(self.logs))
        for server in (postgres, temporal):
            if server is not None:
                children.watch(server)
        children.start("worker", [*HENGDAN, "worker"], nice=BEHIND)
        children.start("api", [*HENGDAN, "api"], listener=listener)
        for name, (command, inherited) in self._children.items():
            children.start(name, command, listener=inherited)
        self._stack.callback(listener.close)
        self._wait(instance)

    @property
    def key_file(self) -> Path:
        """The file with the API's address and a key, for the command line."""
        return self.state_dir / "api.json"

    async def _save_key(self) -> None:
        """Write the key file; create a key unless the database has the one of the last start."""
        file = self.key_file
        key = json.loads(file.read_text())["key"] if file.exists() else ""
        if await find_principal(key) is None:
            key = self.new_key = await create_key(OPERATOR, list(Scope))
        new = file.with_suffix(".new")
        new.touch(0o600)
        new.write_text(json.dumps({"url": self.api_url, "key": key}))
        new.replace(file)
        await dispose()

    def _wait(self, instance: str) -> None:
        """Wait until our own API is ready: other stacks may answer on this machine."""
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            try:
                answer = httpx.get(f"{self.api_url}/ready", timeout=2, trust_env=False)
                if answer.status_code == 200 and answer.headers.get(INSTANCE_HEADER) == instance:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.1)
        raise StartError(f"the API did not answer within {READY_SECONDS} s: see {self.logs / 'api.log'}")


def _set_environment(env: Mapping[str, str | None]) -> None:
    """Set environment variables, or remove those that are ``None``, and clear what was read from them."""
    for name, value in env.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    settings.cache_clear()
    keyring.cache_clear()


def wait_for_signal() -> None:
    """Wait for Ctrl-C or SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        signal.pause()
    except KeyboardInterrupt:
        return
