"""The payload codec: encryption, key rotation and tampering."""

import base64
from typing import Any

import pytest
from temporalio.api.common.v1 import Payload
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.exceptions import ApplicationError

from models import requests
from models.vault import Keyring, SealBroken
from tests.unit.orders import RECIPIENT, an_order
from workers.client import data_converter
from workers.codec import ENCODING, SealingCodec

INDEX = base64.b64encode(b"i" * 32).decode()
OLD, NEW = (f"{name}:{base64.b64encode(name.encode() * 32).decode()}" for name in "ab")


def ring(*keys: str) -> Keyring:
    return Keyring.parse(",".join(keys), INDEX)


async def test_order_is_encrypted_in_the_history_and_decrypted_after() -> None:
    converter = data_converter(ring(OLD))
    order = an_order()
    (sealed,) = await converter.encode([order])
    stored = sealed.SerializeToString()
    for clear in (RECIPIENT.name, RECIPIENT.phone, RECIPIENT.street, "A001"):
        assert clear.encode() not in stored
    assert (sealed.metadata["encoding"], sealed.metadata["encryption-key-id"]) == (ENCODING, b"a")
    assert await converter.decode([sealed], [type(order)]) == [order]


async def test_equal_payloads_have_different_ciphertexts() -> None:
    codec = SealingCodec(ring(OLD))
    one, other = await codec.encode([Payload(data=b"x"), Payload(data=b"x")])
    assert one.data != other.data


async def test_old_keys_decrypt_and_the_first_encrypts() -> None:
    (sealed,) = await SealingCodec(ring(OLD)).encode([Payload(data=b"x")])
    rotated = SealingCodec(ring(NEW, OLD))
    assert [each.data for each in await rotated.decode([sealed])] == [b"x"]
    (newer,) = await rotated.encode([Payload(data=b"x")])
    assert newer.metadata["encryption-key-id"] == b"b"
    with pytest.raises(SealBroken):
        await SealingCodec(ring(NEW)).decode([sealed])


async def test_plain_payload_is_read_and_marked() -> None:
    plain = Payload(metadata={"encoding": b"json/plain"}, data=b'{"reason": "by hand"}')
    (read,) = await SealingCodec(ring(OLD)).decode([plain])
    assert (read.data, read.metadata["encoding"], read.metadata["unsealed"]) == (plain.data, b"json/plain", b"true")
    assert await data_converter(ring(OLD)).decode([plain]) == [{"reason": "by hand"}]


REQUESTS = [kind for kind in vars(requests).values() if isinstance(kind, type) and issubclass(kind, requests.Request)]


@pytest.mark.parametrize("kind", REQUESTS)
async def test_a_request_in_clear_does_not_pass_for_its_actor(kind: type[requests.Request]) -> None:
    """Whatever the request: its claimed actor, even a channel, is marked; sealed by us it stays as it is."""
    converter, given = data_converter(ring(OLD)), kind.model_construct(request_id="1", actor="channel:own")
    (clear,) = pydantic_data_converter.payload_converter.to_payloads([given])
    (sealed,) = await converter.encode([given])
    for payload, actor in ((clear, "unsealed:channel:own"), (sealed, "channel:own")):
        (read,) = await converter.decode([payload], [requests.Request])
        assert (read.actor, read.unsealed) == (actor, payload is clear)


async def test_encrypted_payload_is_not_encrypted_again() -> None:
    codec = SealingCodec(ring(OLD))
    sealed = await codec.encode([Payload(data=b"x")])
    assert await codec.encode(sealed) == sealed


@pytest.mark.parametrize("spoil", [lambda data: data[:-1] + bytes([data[-1] ^ 1]), lambda data: data[:10]])
async def test_modified_payload_is_refused(spoil: Any) -> None:
    codec = SealingCodec(ring(OLD))
    (sealed,) = await codec.encode([Payload(data=b"x")])
    with pytest.raises(SealBroken):
        await codec.decode([Payload(metadata=sealed.metadata, data=spoil(sealed.data))])


async def test_failure_texts_are_encrypted() -> None:
    converter = data_converter(ring(OLD))
    from temporalio.api.failure.v1 import Failure

    failure = Failure()
    await converter.encode_failure(ApplicationError(f"no {RECIPIENT.phone}"), failure)
    assert RECIPIENT.phone.encode() not in failure.SerializeToString()
    assert RECIPIENT.phone in str(await converter.decode_failure(failure))
