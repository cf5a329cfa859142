"""Heartbeats of activities: sent for as long as the process lives, so that the work of a killed worker soon goes on."""

import asyncio
from typing import Any

from temporalio import activity
from temporalio.worker import ActivityInboundInterceptor, ActivityOutboundInterceptor, ExecuteActivityInput, Interceptor

from workers.telemetry import HEARTBEAT


class KeepBeating(Interceptor):
    """Heartbeats for each activity that has a heartbeat timeout, with the progress that it last reported."""

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        return _KeepBeating(next)


class _KeepBeating(ActivityInboundInterceptor):
    def init(self, outbound: ActivityOutboundInterceptor) -> None:
        self._progress = _NoteProgress(outbound)
        super().init(self._progress)

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        if not activity.info().heartbeat_timeout:
            return await super().execute_activity(input)
        beating = asyncio.create_task(self._beat())
        try:
            return await super().execute_activity(input)
        finally:
            beating.cancel()

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT.total_seconds())
            activity.heartbeat(*self._progress.last)


class _NoteProgress(ActivityOutboundInterceptor):
    last: tuple[Any, ...] = ()

    def heartbeat(self, *details: Any) -> None:
        self.last = details
        super().heartbeat(*details)
