"""Drops signals sent by hand without an argument, with null, or with several arguments, and logs a warning.

The SDK itself drops arguments of the wrong shape. It would pass these on to the handler, whose failure would block
the workflow.
"""

from pydantic import BaseModel
from temporalio import workflow
from temporalio.worker import (
    HandleSignalInput,
    Interceptor,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
)


class DropMalformedSignals(Interceptor):
    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:
        return _DropMalformedSignals


class _DropMalformedSignals(WorkflowInboundInterceptor):
    async def handle_signal(self, input: HandleSignalInput) -> None:
        if [isinstance(value, BaseModel | list) for value in input.args] == [True]:
            await super().handle_signal(input)
        else:
            workflow.logger.warning("signal %s dropped: it needs one JSON object", input.signal)
