"""The whole stack on one machine: what is not set to be elsewhere is embedded, what dies is started again."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import httpx

from activities.access import any_key, create_key
from activities.database import dispose
from models.access import Scope
from models.order import SEARCH_ATTRIBUTES
from models.settings import settings
from models.vault import keyring
from workers.embedded import Children, load_keys, start_postgres, start_temporal
from workers.embedded.process import free_port, private_folder
from workers.schema import migrate

READY_SECONDS = 60
OPERATOR = "operator"
"""The name of the key made on first start."""


class Stack:
    """PostgreSQL, Temporal, a worker and the API, with their state in one directory.

    ``children`` are further commands to keep running beside them; ``$port`` in one stands for a free port of its own.
    """

    def __init__(self, state_dir: Path, *, lang: str = "", children: Mapping[str, Sequence[str]] | None = None) -> None:
        self.state_dir = private_folder(state_dir.absolute())
        self.new_key: str | None = None
        """The API key, where this start made it: shown this once."""
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

    @property
    def logs(self) -> Path:
        return self.state_dir / "logs"

    def _start(self) -> None:
        chosen = settings()
        port = free_port(self.state_dir / "api-port", chosen.api_port)
        self.api_url = f"http://{chosen.api_host}:{port}"
        env = {"HENGDAN_STATE_DIR": str(self.state_dir), "HENGDAN_API_PORT": str(port), "HENGDAN_API_URL": self.api_url}
        if chosen.keys is None or chosen.index_key is None:
            env["HENGDAN_KEYS"], env["HENGDAN_INDEX_KEY"] = load_keys(self.state_dir)
        postgres = temporal = None
        if chosen.database_url is None:
            postgres = self._stack.enter_context(start_postgres(self.state_dir))
            env["HENGDAN_DATABASE_URL"] = postgres.url
        if "TEMPORAL_ADDRESS" not in os.environ:
            temporal = self._stack.enter_context(
                start_temporal(
                    self.state_dir, search_attributes=SEARCH_ATTRIBUTES, codec_endpoint=f"{self.api_url}/codec"
                )
            )
            env["TEMPORAL_ADDRESS"], self.ui_url = temporal.address, temporal.ui_url
            env["HENGDAN_UI_ORIGINS"] = json.dumps([temporal.ui_url])
        os.environ.update(env)
        settings.cache_clear()
        keyring.cache_clear()
        database = settings().database_url
        assert database is not None  # noqa: S101
        migrate(database.get_secret_value())
        asyncio.run(self._first_key())
        children = self._stack.enter_context(Children(self.logs))
        for server in (postgres, temporal):
            if server is not None:
                children.watch(server)
        children.start("worker", [sys.executable, "-m", "starter", "worker"])
        children.start("api", [sys.executable, "-m", "starter", "api"])
        for name, command in self._children.items():
            children.start(name, command)
        self._wait()

    async def _first_key(self) -> None:
        kept = self.state_dir / "api.json"
        if not await any_key() or not kept.exists():
            self.new_key = await create_key(OPERATOR, list(Scope))
            kept.touch(0o600)
            kept.write_text(json.dumps({"url": self.api_url, "key": self.new_key}))
        else:
            kept.write_text(json.dumps(json.loads(kept.read_text()) | {"url": self.api_url}))
        await dispose()

    def _wait(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{self.api_url}/ready", timeout=2).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.1)
        raise TimeoutError(f"the API did not answer within {READY_SECONDS} s: see {self.logs / 'api.log'}")


def wait_for_signal() -> None:
    """Until Ctrl-C or SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        signal.pause()
    except KeyboardInterrupt:
        return
