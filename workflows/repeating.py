"""Work that is done again and again in one execution, so that it does not crowd orders out of the list of workflows."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, TypeVar

from temporalio import workflow

HISTORY_LIMIT = 1000
"""Events after which the work goes on in a new history."""
HEARTBEAT_TIMEOUT = timedelta(seconds=20)
"""After which an activity whose worker was killed is given to another."""

Result = TypeVar("Result")


async def repeat(once: Callable[[], Awaitable[Result]], every: float | None, *args: Any) -> Result:
    """Run ``once`` every so many seconds, as a workflow whose arguments are ``args`` and ``every``.

    Run it a single time and return its result where ``every`` is ``None``. A failure ends the workflow: its schedule
    starts it again. Like any workflow that waits, it may have been started by an earlier release: a change of its
    commands needs ``workflow.patched``.
    """
    while True:
        result = await once()
        if every is None:
            return result
        if workflow.info().get_current_history_length() > HISTORY_LIMIT:
            workflow.continue_as_new(args=[*args, every])
        await workflow.sleep(every)
