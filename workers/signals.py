"""Notes signals that a workflow does not understand, and refuses updates that it does not.

People send signals by hand, in the Temporal UI or CLI. The SDK would drop an argument of the wrong shape, and pass a
missing one on to the handler, whose failure would block the workflow.
"""

from typing import Protocol, runtime_checkable

from pydantic import BaseModel
from temporalio import workflow
from temporalio.exceptions import ApplicationError
from temporalio.worker import (
    HandleSignalInput,
    HandleUpdateInput,
    Interceptor,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
)

from models.i18n import LANGUAGES, t
from models.requests import NotUnderstood


@runtime_checkable
class Notes(Protocol):
    """A workflow with a timeline. The sandbox imports its class again, so it is recognised by its method."""

    def note_not_understood(self, name: str, why: str) -> None: ...


class NoteMalformedMessages(Interceptor):
    def workflow_interceptor_class(self, input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:
        return _NoteMalformedMessages


class _NoteMalformedMessages(WorkflowInboundInterceptor):
    async def handle_signal(self, input: HandleSignalInput) -> None:
        unknown = workflow.get_signal_handler(input.signal) is None
        why = "" if unknown else _fault(input.args)
        if not why:
            await super().handle_signal(input)
        elif isinstance(noting := workflow.instance(), Notes):
            noting.note_not_understood(input.signal, why)
        else:
            workflow.logger.warning("signal %s dropped: %s", input.signal, t(why, "en"))

    def handle_update_validator(self, input: HandleUpdateInput) -> None:
        if why := _fault(input.args):
            text = " / ".join(t(why, lang) for lang in LANGUAGES)
            raise ApplicationError(text, type="NotUnderstood", non_retryable=True)
        super().handle_update_validator(input)


def _fault(args: object) -> str:
    """Return what is wrong with the arguments of a message, as a message of the catalogue; empty if nothing is."""
    match args:
        case [NotUnderstood(why=why)]:
            return why
        case [BaseModel() | list()]:
            return ""
    return "not_understood.arguments"
