"""The connection to Temporal, configured by Temporal's own environment variables; every payload is sealed."""

import asyncio
import dataclasses
from typing import Any

from temporalio.client import Client, WorkflowHandle
from temporalio.converter import DataConverter, DefaultFailureConverterWithEncodedAttributes
from temporalio.envconfig import ClientConfig
from temporalio.service import RetryConfig, RPCError, RPCStatusCode

from models.requests import Answer, Request
from models.vault import Keyring, keyring
from workers import telemetry
from workers.codec import MarkingPayloadConverter, SealingCodec

DEFAULT_ADDRESS = "127.0.0.1:7233"

FAIL_FAST = RetryConfig(max_elapsed_time_millis=1500, max_retries=3)
"""Retries for API requests: report soon that the engine is down."""


def data_converter(ring: Keyring | None = None) -> DataConverter:
    """Return the converter: Pydantic values as JSON, sealed, and failure messages sealed with them."""
    return dataclasses.replace(
        DataConverter.default,
        payload_converter_class=MarkingPayloadConverter,
        payload_codec=SealingCodec(ring or keyring()),
        failure_converter_class=DefaultFailureConverterWithEncodedAttributes,
    )


async def connect(*, lazy: bool = False, retry: RetryConfig | None = None, **options: Any) -> Client:
    """Connect as ``TEMPORAL_ADDRESS``, ``_NAMESPACE``, ``_API_KEY``, ``_TLS_*`` or a profile specify.

    A lazy client connects, and fails if the engine is down, on its first call.
    """
    configured: dict[str, Any] = dict(ClientConfig.load_client_connect_config())
    configured.setdefault("target_host", DEFAULT_ADDRESS)
    configured |= {"runtime": telemetry.runtime(), **options}
    return await Client.connect(**configured, data_converter=data_converter(), lazy=lazy, retry_config=retry)


async def execute_request(handle: WorkflowHandle[Any, Any], action: str, request: Request) -> Answer:
    """Send a request to a workflow as an update and return its answer. Raise as ``execute_update`` does.

    The engine repeats a workflow task that would have ended the workflow when a message arrives meanwhile, and fails
    the updates in it with ``FAILED_PRECONDITION``: those are sent again under the same id.
    """
    while True:
        try:
            answer: Answer = await handle.execute_update(action, request, id=request.request_id, result_type=Answer)
            return answer
        except RPCError as error:
            if error.status is not RPCStatusCode.FAILED_PRECONDITION:
                raise
        await asyncio.sleep(0.1)
