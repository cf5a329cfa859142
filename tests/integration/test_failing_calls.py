"""Every activity that workflows do not run locally opens an exception once it keeps failing, whichever it is."""

from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select
from temporalio import activity
from temporalio.common import RetryPolicy
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput

from activities.kit.database import transaction
from activities.kit.errors import refused, unavailable
from activities.records import exceptions
from activities.records.failing_calls import ALERT_AFTER
from models.exceptions import ExceptionRow
from models.i18n import LANGUAGES
from tests.repository.test_i18n import outside_calls
from workers.failures import ReportFailing
from workers.main import ACTIVITIES

ARGS = {"fulfillment": ("order:own:web:1:F1",), "intake": ("own", "web"), "stock": ("own", "web")}


class Outcome(ActivityInboundInterceptor):
    def __init__(self, error: Exception | None) -> None:
        self._error = error

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        if self._error is not None:
            raise self._error


async def execute(call: str, error: Exception | None, *, after: timedelta, workflow: str = "OrderWorkflow") -> None:
    """Execute one attempt of an activity, that long after its first one."""
    environment = ActivityEnvironment()
    began = environment.info.scheduled_time
    environment.info = replace(
        environment.info,
        activity_type=call,
        attempt=2,
        workflow_type=workflow,
        current_attempt_scheduled_time=began + after,
        retry_policy=RetryPolicy(),
    )
    given = ExecuteActivityInput(fn=print, args=ARGS.get(call.split(".")[0], ()), executor=None, headers={})

    async def attempt() -> None:
        await ReportFailing().intercept_activity(Outcome(error)).execute_activity(given)

    with suppress(ApplicationError):
        await environment.run(attempt)


async def opened() -> list[Any]:
    async with transaction() as connection:
        return list(await connection.execute(select(ExceptionRow).where(ExceptionRow.closed_at.is_(None))))  # type: ignore[union-attr]


def test_every_activity_is_walked() -> None:
    types = {str(activity._Definition.must_from_callable(each).name) for each in ACTIVITIES}
    assert outside_calls() <= types
    assert len(outside_calls()) >= 20


@pytest.mark.parametrize("call", sorted(outside_calls()))
async def test_call_that_keeps_failing_has_one_exception_until_it_succeeds(database: str, call: str) -> None:
    down = unavailable("error.http", status=500)
    await execute(call, down, after=ALERT_AFTER - timedelta(seconds=1))
    assert await opened() == []
    for minutes in (0, 5):
        await execute(call, down, after=ALERT_AFTER + timedelta(minutes=minutes))
    (row,) = await opened()
    for lang in LANGUAGES:
        text = exceptions.describe(row, lang)
        assert "500" in text
        assert "{" not in text
        assert "call." not in text
    await execute(call, None, after=ALERT_AFTER + timedelta(minutes=6))
    assert await opened() == []


@pytest.mark.parametrize("workflow", ["OrderWorkflow", "ChannelPollWorkflow"])
async def test_refusal_has_an_exception_at_once_where_no_order_answers_it(database: str, workflow: str) -> None:
    await execute("intake.pull_orders", refused("error.http", "403", status=403), after=timedelta(0), workflow=workflow)
    assert len(await opened()) == (workflow != "OrderWorkflow")
