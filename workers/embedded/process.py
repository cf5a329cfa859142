"""Processes that must neither be lost nor be doubled, whatever kills them or us."""

import ctypes
import fcntl
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from random import SystemRandom
from typing import IO, Any, Self

BEHIND = 10
"""The niceness of what can wait: on one machine the doors and the database go first."""

_PR_SET_PDEATHSIG = 1
_SESSION = Path("/proc/self/autogroup")
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


class AlreadyRunningError(RuntimeError):
    """Another living process serves this state directory."""


class StartError(RuntimeError):
    """A server did not come up; the text names its log."""


class PortTakenError(StartError):
    """Another process took a port between our choice and the server's start."""


def private_folder(path: Path) -> Path:
    """The folder, absolute, made readable by its owner only where it did not exist."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path.resolve()


def kept(path: Path, fresh: str) -> str:
    """Return the text of a file, at first ``fresh``: on disk before anyone can read it, one for all who race."""
    if not path.exists():
        with tempfile.NamedTemporaryFile("w", dir=path.parent) as draft:
            draft.write(fresh)
            draft.flush()
            os.fsync(draft.fileno())
            with suppress(FileExistsError):
                os.link(draft.name, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    return path.read_text().strip()


_BELOW_OUTGOING = range(10_000, 32_000)
_BACKLOG = 2048
"""Connections that wait while the process that answers them starts."""
_TRIES = 20
"""Of the port of last time, within a second."""


def listen(memory: Path, default: int = 0, host: str = "127.0.0.1") -> socket.socket:
    """Return a socket that listens on a free port: that of last time, else ``default``, else any.

    The port is kept in the file ``memory``. The socket is for a child to inherit: nobody else can take the port.
    Any: below those that the system gives to connections that go out. A server that was just killed may hold its
    port for a moment after its locks are free, so the port of last time is tried for a second.
    """
    family = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
    last = 0
    with suppress(FileNotFoundError, ValueError):
        last = int(memory.read_text())
    for wanted in filter(None, (*[last] * _TRIES, default, *SystemRandom().sample(_BELOW_OUTGOING, 50))):
        try:
            listener = socket.create_server((host, wanted), family=family, backlog=_BACKLOG)
        except (OSError, OverflowError):
            if wanted == last:
                time.sleep(1 / _TRIES)
            continue
        memory.write_text(str(wanted))
        return listener
    raise StartError(f"no free port on {host}")


def free_port(memory: Path, default: int = 0) -> int:
    """Return a loopback port as ``listen`` does, for a server that can only open it itself.

    Another process may take it before the server does: whoever uses the port must know the server by what it says.
    """
    with listen(memory, default) as listener:
        return int(listener.getsockname()[1])


def spawn(
    command: Sequence[str], *, log: Path, parting: signal.Signals, nice: int = 0, **options: Any
) -> subprocess.Popen[bytes]:
    """A process in a session of its own that, on Linux, is sent ``parting`` when we die, even by ``kill -9``.

    The kernel tells a child of the death of the *thread* that made it: that thread stays until the child ends. Where
    it shares the processor between sessions, as Linux mostly does, ``nice`` is to be said of the session too.
    """
    born: Future[subprocess.Popen[bytes]] = Future()
    parent = os.getpid()

    def follow_parent() -> None:
        os.nice(nice)
        with suppress(OSError):
            _SESSION.write_text(str(nice))
        if _libc is not None:
            _libc.prctl(_PR_SET_PDEATHSIG, int(parting))
            if os.getppid() != parent:
                os._exit(1)

    def attend() -> None:
        try:
            with log.open("ab") as output:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=follow_parent,
                    **options,
                )
        except BaseException as error:
            born.set_exception(error)
        else:
            born.set_result(process)
            process.wait()

    threading.Thread(target=attend, name=f"attend {log.stem}", daemon=True).start()
    return born.result()


def _lock(file: IO[str] | int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holders(path: Path) -> set[int]:
    """PIDs of the other processes that have the file open."""
    if not Path("/proc/self/fd").exists():
        found = subprocess.run(["lsof", "-t", "--", path], capture_output=True, check=False)
        return {int(pid) for pid in found.stdout.split()} - {os.getpid()}
    file = path.stat()
    holders = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended, or is not ours to look at
            for descriptor in (process / "fd").iterdir():
                with suppress(OSError):
                    if os.path.samestat(descriptor.stat(), file):
                        holders.add(int(process.name))
    return holders - {os.getpid()}


class Server(ABC):
    """A server process of one state directory.

    Two file locks say who lives, so that no PID file is ever believed. ``NAME.owner`` is ours alone: a second owner
    is refused with ``AlreadyRunningError``. ``NAME.lock`` is inherited by the server and whatever it forks: the kernel
    frees it when the last of them is gone, and until then those who have it open are exactly what is left over.
    """

    name: str
    stop_signal: signal.Signals
    grace = 15.0
    """Seconds from the stop signal to ``kill -9``."""
    patience = 60.0
    """Seconds from start to readiness; recovery after a crash included."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = private_folder(state_dir)
        self.log = self.state_dir / f"{self.name}.log"
        self._life = self.state_dir / f"{self.name}.lock"
        self._owner: int | None = os.open(self.state_dir / f"{self.name}.owner", os.O_RDWR | os.O_CREAT, 0o600)
        if not _lock(self._owner):
            os.close(self._owner)
            raise AlreadyRunningError(f"{self.name} of {self.state_dir} is served by another process")
        self._turn = threading.Lock()
        self._end()

    @abstractmethod
    def prepare(self) -> None:
        """What must be done before each start, with no server running."""

    @abstractmethod
    def command(self) -> tuple[list[str], dict[str, Any]]:
        """The command that serves, and its ``subprocess.Popen`` options."""

    @abstractmethod
    def ready(self) -> bool:
        """Whether it answers."""

    @classmethod
    def create(cls, state_dir: Path, **options: Any) -> Self:
        """Start the server of a state directory, on other ports where another process takes one meanwhile."""
        attempts = 3
        while True:
            server = cls(state_dir, **options)
            try:
                return server.start()
            except BaseException as error:
                server.stop()
                attempts -= 1
                if attempts == 0 or not isinstance(error, PortTakenError):
                    raise

    def start(self) -> Self:
        """Starts it, or starts it again after it died, and waits until it answers. Raises ``StartError``."""
        with self._turn:
            if self._owner is None:
                raise StartError(f"{self.name} was stopped")
            try:
                self._end()
                self.prepare()
                self._launch()
                self._wait()
            except BaseException:
                self._end()
                raise
        return self

    def stop(self) -> None:
        """Stops it in order, or by force after ``grace``, and gives the state directory free."""
        with self._turn:
            if self._owner is not None:
                self._end()
                os.close(self._owner)
                self._owner = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _launch(self) -> None:
        command, options = self.command()
        self._logged = self.log.stat().st_size if self.log.exists() else 0
        with self._life.open("w") as life:
            _lock(life)
            self.process = spawn(command, log=self.log, parting=self.stop_signal, pass_fds=(life.fileno(),), **options)
            life.write(str(self.process.pid))

    def _wait(self) -> None:
        deadline = time.monotonic() + self.patience
        while not self.ready():
            code = self.process.poll()
            if code is not None or time.monotonic() > deadline:
                fate = f"ended with {code}" if code is not None else f"did not answer within {self.patience:.0f} s"
                said = self.log.read_bytes()[self._logged :].decode(errors="replace")
                error = PortTakenError if "address already in use" in said.lower() else StartError
                raise error("\n".join((f"{self.name} {fate}; its log is {self.log}", *said.splitlines()[-3:])))
            time.sleep(0.02)

    def _end(self) -> None:
        """Ends what holds the lock: asks the server to stop, and kills every holder that does not."""
        with self._life.open("a+") as life:
            if _lock(life):
                return
            life.seek(0)
            told = life.read()
            server = int(told) if told.isdigit() else 0
            patience = 1.0
            if server in _holders(self._life):
                patience = self.grace
                with suppress(ProcessLookupError):
                    os.kill(server, self.stop_signal)
            deadline = time.monotonic() + patience
            while not _lock(life):
                if time.monotonic() > deadline:
                    for pid in _holders(self._life):
                        with suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
                    deadline += 1.0
                time.sleep(0.01)
