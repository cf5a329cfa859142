"""The supervisor and the logs: a background task goes on, whatever it or its log raises."""

import asyncio
import errno
import sys
from contextlib import suppress

import pytest
import structlog

from starter import logs
from workers import supervisor
from workers.supervisor import supervise


class FullDisk:
    """A stream on a disk without room."""

    def isatty(self) -> bool:
        return False

    def write(self, _: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    flush = close = lambda self: self.write("")


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "FIRST_PAUSE", 0.0)


async def test_task_goes_on_after_any_end_also_without_room_for_its_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", FullDisk())
    logs.configure()
    ends = [
        ValueError("v"),
        OSError(errno.ENOSPC, "full"),
        asyncio.CancelledError(),
        None,
        ExceptionGroup("g", [OSError()]),
    ]
    recovered = asyncio.Event()

    async def run() -> None:
        structlog.get_logger().warning("task.round", left=len(ends))
        if not ends:
            recovered.set()
            await asyncio.Event().wait()
        if (error := ends.pop(0)) is not None:
            raise error

    task = asyncio.create_task(supervise("test", run))
    async with asyncio.timeout(60):
        await recovered.wait()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert task.cancelled()


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error", "critical", "exception"])
@pytest.mark.parametrize("log_format", ["console", "json"])
def test_logging_never_raises(level: str, log_format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HENGDAN_LOG_FORMAT", log_format)
    logs.settings.cache_clear()
    monkeypatch.setattr(sys, "stderr", FullDisk())
    logs.configure()
    getattr(structlog.get_logger(), level)("event", text="\ud800", value=object())
    logs.settings.cache_clear()


def test_pauses_grow_to_their_limit() -> None:
    backoff = supervisor.Backoff()
    backoff._pause = 0.5
    pauses = [backoff.next() for _ in range(9)]
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
