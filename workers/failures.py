"""What becomes of failures of activities, whichever they are.

``FailPermanently`` tells Temporal which are permanent, so that it does not retry them as passing ones. An activity that
calls the outside world fails at once. A local activity, a step on our own database, is retried unless its caller says
otherwise: the order's life must go on once the fault is mended.

``ReportFailing`` opens an exception for an activity that keeps failing, and closes it once the activity succeeds.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

from temporalio import activity
from temporalio.exceptions import ApplicationError
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from activities.kit.database import is_permanent
from activities.kit.errors import PERMANENT
from activities.records import failing_calls
from models.exceptions import NewException
from models.i18n import message

ANSWERING = frozenset({"OrderWorkflow", "ReconciliationWorkflow"})
"""Workflows that answer a refusal themselves, with a hold or an exception."""


class FailPermanently(Interceptor):
    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _FailPermanently(next)


class _FailPermanently(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        try:
            return await super().execute_activity(input)
        except Exception as error:
            if not is_permanent(error):
                raise
            activity.logger.error("activity %s: permanent %s", activity.info().activity_type, type(error).__name__)
            text = message("error.not_storable", error=type(error).__name__)
            raise ApplicationError(text, type=PERMANENT, non_retryable=not activity.info().is_local) from None


class ReportFailing(Interceptor):
    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _ReportFailing(next)


class _ReportFailing(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        if activity.info().is_local:
            return await super().execute_activity(input)
        try:
            result = await super().execute_activity(input)
        except asyncio.CancelledError:
            details = activity.cancellation_details()
            if details is not None and details.timed_out:
                await _report(input, TimeoutError())
            raise
        except Exception as error:
            await _report(input, error)
            raise
        info = activity.info()
        if info.attempt > 1 or info.workflow_type not in ANSWERING:
            await _unless_down(failing_calls.settle(_call(input)))
        return result


async def _report(input: ExecuteActivityInput, error: Exception) -> None:
    """Open an exception for a call that has failed for long, or was refused while no workflow answers refusals."""
    info = activity.info()
    assert info.current_attempt_scheduled_time is not None  # noqa: S101
    failed_for = info.current_attempt_scheduled_time - info.scheduled_time
    most = info.retry_policy.maximum_attempts if info.retry_policy else 0
    last = 0 < most <= info.attempt or (isinstance(error, ApplicationError) and error.non_retryable)
    if failed_for < failing_calls.ALERT_AFTER and not (last and info.workflow_type not in ANSWERING):
        return
    reason = failing_calls.reason(error)
    await _unless_down(failing_calls.report(_call(input), info.activity_type, reason, info.scheduled_time))


def _call(input: ExecuteActivityInput) -> NewException:
    """Return the exception of this activity, whose subject is what it was given beside its workflow's id."""
    info = activity.info()
    subject = [each for each in input.args if isinstance(each, str) and each != info.workflow_id]
    return failing_calls.failing_call(info.activity_type, subject)


async def _unless_down(work: Coroutine[Any, Any, None]) -> None:
    """Do the work, unless the database is down: the outcome of the activity must not depend on it."""
    try:
        await work
    except Exception as error:
        activity.logger.warning("exception of a failing call not written: %s", type(error).__name__)
