"""Tells Temporal which failures of activities are permanent, so that it does not retry them as passing ones.

An activity that calls the outside world fails at once. A local activity, a step on our own database, is retried unless
its caller says otherwise: the order's life must go on once the fault is mended.
"""

from typing import Any

from temporalio import activity
from temporalio.exceptions import ApplicationError
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from activities.kit.database import is_permanent
from activities.kit.errors import PERMANENT
from models.i18n import message


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
