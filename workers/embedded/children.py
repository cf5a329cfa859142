"""Our own processes beside the embedded servers: kept running, and never left behind."""

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import structlog

from workers.embedded.process import Server, StartError, private_folder, spawn
from workers.supervisor import Backoff

_log = structlog.get_logger()

MAX_LOG = 32 * 1024 * 1024
"""The size at which a log is moved to ``NAME.log.1``, in bytes."""
_ROTATE_SECONDS = 30.0


def rotate(logs: Iterable[Path]) -> None:
    """Move each large log aside, over the one moved before. Its writers append: they go on in the emptied file."""
    for log in logs:
        with suppress(OSError):
            if log.stat().st_size > MAX_LOG:
                shutil.copyfile(log, log.with_name(f"{log.name}.1"))
                os.truncate(log, 0)


class Children:
    """Keeps named commands running until ``stop``, each with its log ``NAME.log`` in one folder.

    On Linux they die with us, also by ``kill -9``.
    """

    def __init__(self, log_dir: Path, *, grace: float = 5.0) -> None:
        """``grace``: seconds from SIGTERM to ``kill -9``."""
        self._log_dir = private_folder(log_dir)
        self._grace = grace
        self._stopping = threading.Event()
        self._launching = threading.Lock()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._server_logs: list[Path] = []
        threading.Thread(target=self._rotate, name="rotate logs", daemon=True).start()

    def start(
        self,
        name: str,
        command: Sequence[str],
        env: Mapping[str, str] = {},
        *,
        nice: int = 0,
        listener: socket.socket | None = None,
    ) -> None:
        """Start a command and keep it running. ``env`` comes over our own environment.

        The command inherits ``listener``, whose number its option ``--fd`` says.
        """
        fds = [] if listener is None else [listener.fileno()]
        command = [*command, *(f"--fd={fd}" for fd in fds)]

        def launch() -> subprocess.Popen[bytes]:
            with self._launching:
                if not self._stopping.is_set():
                    log, variables = self._log_dir / f"{name}.log", {**os.environ, **env}
                    self._processes[name] = spawn(
                        command, log=log, parting=signal.SIGKILL, nice=nice, env=variables, pass_fds=fds
                    )
                return self._processes[name]

        self._keep(name, launch(), launch)

    def watch(self, server: Server) -> None:
        """Starts a server again, where it was, when it dies; stopping it stays with its owner."""
        self._server_logs.append(server.log)
        self._keep(server.name, server.process, lambda: server.start().process)

    def pids(self) -> dict[str, int]:
        """The commands that run now."""
        return {name: process.pid for name, process in self._processes.items() if process.poll() is None}

    def stop(self) -> None:
        """Asks all commands to end, and kills what has not within the grace."""
        with self._launching:
            self._stopping.set()
        for process in self._processes.values():
            process.terminate()
        deadline = time.monotonic() + self._grace
        for process in self._processes.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _rotate(self) -> None:
        while not self._stopping.wait(_ROTATE_SECONDS):
            rotate([*self._log_dir.glob("*.log"), *self._server_logs])

    def _keep(self, name: str, process: subprocess.Popen[bytes], again: Callable[[], subprocess.Popen[bytes]]) -> None:
        def keep() -> None:
            current, backoff = process, Backoff()
            while True:
                backoff.start()
                code = current.wait()
                if self._stopping.is_set():
                    return
                pause = backoff.next()
                _log.warning("process_ended", process=name, code=code, again_in_seconds=pause)
                if self._stopping.wait(pause):
                    return
                try:
                    current = again()
                except (StartError, OSError) as error:
                    _log.error("process_not_started", process=name, reason=str(error))

        threading.Thread(target=keep, name=f"keep {name}", daemon=True).start()
