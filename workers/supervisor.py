"""The supervisor of background tasks: a task that ends is started again, after a pause that grows with failures."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds before a task or process that ended is started again."""

_log = structlog.get_logger()


class Backoff:
    """The pauses between starts: doubled each time, short again after a life longer than the longest pause."""

    def __init__(self) -> None:
        self._pause = FIRST_PAUSE
        self._began = time.monotonic()

    def start(self) -> None:
        """Note that the task or process starts now."""
        self._began = time.monotonic()

    def next(self) -> float:
        """Return the seconds to wait before the next start."""
        if time.monotonic() - self._began > LONGEST_PAUSE:
            self._pause = FIRST_PAUSE
        pause = self._pause
        self._pause = min(2 * pause, LONGEST_PAUSE)
        return pause


async def supervise(name: str, run: Callable[[], Awaitable[object]]) -> None:
    """Keep ``run`` running until this task is cancelled, whatever ``run`` raises and also where it returns.

    A ``CancelledError`` that ``run`` raises without a request to cancel this task is a failure like any other.
    """
    task = asyncio.current_task()
    backoff = Backoff()
    while True:
        backoff.start()
        reason = "returned"
        try:
            await run()
        except asyncio.CancelledError:
            if task is not None and task.cancelling():
                raise
            reason = "CancelledError"
        except Exception as error:
            reason = type(error).__name__
        pause = backoff.next()
        _log.warning("task.ended", task=name, reason=reason, again_in_seconds=pause)
        await asyncio.sleep(pause)
