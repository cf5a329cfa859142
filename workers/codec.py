"""The payload codec: every payload in a Temporal history is encrypted, with the key's id in its metadata."""

from collections.abc import Sequence

from temporalio.api.common.v1 import Payload
from temporalio.converter import PayloadCodec

from models.vault import Keyring

ENCODING = b"binary/encrypted"
CONTEXT = "temporal.payload"


class SealingCodec(PayloadCodec):
    """Authenticated encryption (AES-256-GCM) of whole payloads.

    The key id in the metadata lets old keys open old histories. A payload that was never sealed, such as a signal
    sent by hand, is passed through.
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
            else payload
            for payload in payloads
        ]
