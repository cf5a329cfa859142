"""The payload codec: every payload in a Temporal history is encrypted, with the key's id in its metadata."""

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError
from temporalio.api.common.v1 import Payload
from temporalio.contrib.pydantic import PydanticJSONPlainPayloadConverter
from temporalio.converter import (
    CompositePayloadConverter,
    DefaultPayloadConverter,
    JSONPlainPayloadConverter,
    PayloadCodec,
)

from activities.kit.payloads import unintelligible
from models.i18n import message
from models.requests import NotUnderstood, Request
from models.vault import Keyring

ENCODING = b"binary/encrypted"
UNSEALED = "unsealed"
"""The metadata that ``decode`` adds to a payload that was not sealed."""
CONTEXT = "temporal.payload"


class SealingCodec(PayloadCodec):
    """Authenticated encryption (AES-256-GCM) of whole payloads.

    The key id in the metadata lets old keys open old histories. A payload that was never sealed, such as a signal
    sent by hand, is passed through and marked.
    """

    def __init__(self, ring: Keyring) -> None:
        self._ring = ring

    async def encode(self, payloads: Sequence[Payload]) -> list[Payload]:
        metadata = {"encoding": ENCODING, "encryption-key-id": self._ring.active.encode()}
        return [
            payload
            if payload.metadata.get("encoding") == ENCODING
            else Payload(metadata=metadata, data=self._ring.seal(payload.SerializeToString(), CONTEXT))
            for payload in payloads
        ]

    async def decode(self, payloads: Sequence[Payload]) -> list[Payload]:
        """Raise ``SealBroken`` for a sealed payload that cannot be opened."""
        return [
            Payload.FromString(self._ring.open(payload.data, CONTEXT))
            if payload.metadata.get("encoding") == ENCODING
            else Payload(metadata={**payload.metadata, UNSEALED: b"true"}, data=payload.data)
            for payload in payloads
        ]


class MarkingJSONConverter(PydanticJSONPlainPayloadConverter):
    """Reads JSON; a request that was not sealed names its actor as unsealed, whoever it claims to be from.

    One that cannot be read becomes ``NotUnderstood``: the SDK would drop a signal, and only log that.
    """

    def from_payload(self, payload: Payload, type_hint: type | None = None) -> Any:
        if UNSEALED not in payload.metadata:
            return super().from_payload(payload, type_hint)
        try:
            value = super().from_payload(payload, type_hint)
        except ValidationError as error:
            if not (isinstance(type_hint, type) and issubclass(type_hint, Request)):
                raise
            fault = unintelligible(error)
            return NotUnderstood(why=message("not_understood.field", field=fault.field, why=fault.reason))
        return value.from_unsealed() if isinstance(value, Request) else value


class MarkingPayloadConverter(CompositePayloadConverter):
    """The converters of the SDK, with ``MarkingJSONConverter`` for JSON."""

    def __init__(self) -> None:
        super().__init__(
            *(
                MarkingJSONConverter() if isinstance(each, JSONPlainPayloadConverter) else each
                for each in DefaultPayloadConverter.default_encoding_payload_converters
            )
        )
