"""Send commands to workflows, which need a worker, and compare what a command names twice."""

import asyncio
from time import monotonic

from temporalio.client import Client, WorkflowUpdateFailedError, WorkflowUpdateRPCTimeoutOrCancelledError
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError

from activities.kit.errors import InvalidInput
from models.requests import Answer, Request
from starter import dispatcher
from starter.api.problems import SOON, Problem
from workers.client import execute_request
from workers.cluster import count_workers

START_SECONDS = 3.0
"""A worker that starts, or one after another, is waited for."""
LOOK_SECONDS = 3.0
"""Between two looks at the workers, while a workflow has not answered."""


async def require_worker(client: Client) -> None:
    """Raise a 503 where no worker runs, nor starts within ``START_SECONDS``: nothing would carry out a request."""
    deadline = monotonic() + START_SECONDS
    try:
        while not await count_workers(client):
            if monotonic() > deadline:
                raise Problem(503, "problem.no_worker")
            await asyncio.sleep(0.2)
    except (RPCError, RuntimeError):
        raise Problem(503, "problem.engine_down", headers=SOON) from None


async def send_command(client: Client, workflow_id: str, verb: str, command: Request, seconds: float) -> Answer | None:
    """Send a command to a workflow and return its answer, ``None`` where no such workflow runs.

    Raises a 503 where no worker runs, or where the workflow does not answer within ``seconds``: the command counts once
    for its id when repeated.
    """
    await require_worker(client)
    answering = asyncio.create_task(execute_request(client.get_workflow_handle(workflow_id), verb, command))
    try:
        async with asyncio.timeout(seconds):
            while not (await asyncio.wait((answering,), timeout=LOOK_SECONDS))[0]:
                if not await count_workers(client):
                    raise TimeoutError
            return await answering
    except WorkflowUpdateFailedError as error:
        if not isinstance(error.cause, ApplicationError) or not error.cause.details:
            raise Problem(409, "problem.conflict") from None
        return Answer.model_validate(error.cause.details[0])
    except (TimeoutError, WorkflowUpdateRPCTimeoutOrCancelledError):
        raise Problem(503, "problem.engine_slow", headers=SOON, request_id=command.request_id) from None
    except (RPCError, RuntimeError) as error:
        if not dispatcher.ended(error):
            raise Problem(503, "problem.engine_down", headers=SOON, request_id=command.request_id) from None
        return None
    finally:
        answering.cancel()
        await asyncio.gather(answering, return_exceptions=True)


def must_match_path(field: str, in_body: str | int, in_path: str | int) -> None:
    """Raise ``InvalidInput`` where a body names another record than its path."""
    if in_body != in_path:
        raise InvalidInput(field, "invalid.differs", given=in_body, expected=in_path)
