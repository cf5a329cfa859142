"""The connection to Temporal: its own environment configuration says where, and every payload is sealed."""

import asyncio
import dataclasses
from typing import Any

from temporalio.client import Client, WorkflowHandle
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.converter import DataConverter, DefaultFailureConverterWithEncodedAttributes
from temporalio.envconfig import ClientConfig
from temporalio.service import RetryConfig, RPCError, RPCStatusCode

from models.requests import Answer, Request
from models.vault import Keyring, keyring
from workers.codec import SealingCodec

DEFAULT_ADDRESS = "127.0.0.1:7233"

HASTY = RetryConfig(max_elapsed_time_millis=1500, max_retries=3)
"""For a door: says soon that the engine is down."""


def data_converter(ring: Keyring | None = None) -> DataConverter:
    """Pydantic values as JSON, sealed; failure texts sealed with them."""
    return dataclasses.replace(
        pydantic_data_converter,
        payload_codec=SealingCodec(ring or keyring()),
        failure_converter_class=DefaultFailureConverterWithEncodedAttributes,
    )


async def connect(*, lazy: bool = False, retry: RetryConfig | None = None, **options: Any) -> Client:
    """Connects as ``TEMPORAL_ADDRESS``, ``_NAMESPACE``, ``_API_KEY``, ``_TLS_*`` or a profile say.

    A lazy client raises on its first call instead where the engine is down.
    """
    configured: dict[str, Any] = dict(ClientConfig.load_client_connect_config())
    configured.setdefault("target_host", DEFAULT_ADDRESS)
    return await Client.connect(**configured, data_converter=data_converter(), lazy=lazy, retry_config=retry, **options)


async def ask_workflow(handle: WorkflowHandle[Any, Any], verb: str, request: Request) -> Answer:
    """Asks an order by update. Raises as ``execute_update`` does.

    A step that would end the order is done over where a message comes just then, and the engine gives up the updates
    that were in it: they are asked again, under their id.
    """
    while True:
        try:
            answer: Answer = await handle.execute_update(verb, request, id=request.request_id, result_type=Answer)
            return answer
        except RPCError as error:
            if error.status is not RPCStatusCode.FAILED_PRECONDITION:
                raise
        await asyncio.sleep(0.1)
