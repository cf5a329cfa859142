"""A signal sent by hand without its value, with null or with several is dropped, and the log says so.

Values of the wrong shape the SDK drops itself; these it would pass on to the handler, and the order would stand still.
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
