"""Any payload is parsed, skipped, or refused with the name of a field."""

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from activities.channels import Hint, channel
from activities.kit.errors import Unintelligible
from models.intake import Account, IntegrationType
from models.order import ChannelOrder
from tests.unit.payloads import (
    amazon_notification,
    amazon_order,
    own_order,
    pos_order,
    shopify_order,
    taobao_fullinfo,
    woocommerce_order,
    woocommerce_read,
)

ODDITIES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=300),
    st.sampled_from(
        ["", "0", "-1", "1e999", "NaN", "99999999999999999999", "0001-01-01 00:00:00", "9999-12-31T23:59:59-12:00"]
    ),
    st.sampled_from([2**63, -(2**63), 10**30, 0.1, 1e17, [], {}, [None], {"": None}, [[]], "\x00", "\ud83d\ude00"]),
)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every (container, key) of a document."""
    keys: Any = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in list(keys):
        yield value, key
        yield from places(value[key])


@st.composite
def mutated(draw: st.DrawFn, payload: Callable[[], dict[str, Any]]) -> bytes:
    document = deepcopy(payload())
    for _ in range(draw(st.integers(1, 4))):
        spots = list(places(document))
        if not spots:
            break
        container, key = spots[draw(st.integers(0, len(spots) - 1))]
        change = draw(st.sampled_from(["replace", "remove", "double"]))
        if change == "replace":
            container[key] = deepcopy(draw(ODDITIES))
        elif change == "remove":
            del container[key]
        elif isinstance(container, list):
            container.append(deepcopy(container[key]))
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("source", "topic", "payload"),
    [
        ("taobao", "", taobao_fullinfo),
        ("shopify", "orders/updated", shopify_order),
        ("own", "order", own_order),
        ("pos", "sale", pos_order),
        ("amazon", "orders/v0", amazon_order),
        ("amazon", "ORDER_CHANGE", amazon_notification),
        ("woocommerce", "order.updated", woocommerce_order),
        ("woocommerce", "orders", woocommerce_read),
    ],
)
@given(data=st.data())
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_any_payload_is_parsed_or_refused_with_a_field(
    source: str, topic: str, payload: Callable[[], dict[str, Any]], data: st.DataObject
) -> None:
    body = data.draw(mutated(payload))
    adapter = channel(Account(integration=IntegrationType.CHANNEL, source=source, account="shop"))
    try:
        order = adapter.parse(body, topic)
    except Unintelligible as raised:
        fault = raised
    else:
        if isinstance(order, Hint):
            return
        assert order is None or ChannelOrder.model_validate_json(order.model_dump_json()) == order
        assert order is None or "\\u0000" not in order.model_dump_json()
        return
    assert fault.field
    assert fault.reason


@pytest.mark.parametrize(
    ("source", "topic"),
    [
        ("taobao", ""),
        ("shopify", "orders/create"),
        ("own", ""),
        ("pos", ""),
        ("amazon", ""),
        ("woocommerce", "order.created"),
    ],
)
@given(body=st.binary(max_size=200))
@settings(max_examples=50, deadline=None)
def test_arbitrary_bytes_are_refused(source: str, topic: str, body: bytes) -> None:
    adapter = channel(Account(integration=IntegrationType.CHANNEL, source=source, account="shop"))
    with pytest.raises(Unintelligible):
        adapter.parse(body, topic)
