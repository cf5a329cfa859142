"""The client of a warehouse system, in a protocol of our own.

JSON over HTTP, each request signed as ``activities.kit.signing`` says, under the account's ``secret``:

- ``POST {base_url}/fulfillments`` with a ``Submission``. Its ``fulfillment_id`` is the idempotency key: a repeat
  answers as the first did. Answer: ``{"status": "submitted" | "accepted" | "rejected", "reason": ""}``; accepted or
  rejected may come later, as an event.
- ``POST {base_url}/recalls`` with ``{"fulfillment_id": "", "reason": ""}``. Answer: ``{"accepted": true, "reason":
  ""}``. A recall of an unknown fulfillment order is accepted, and its submission is rejected if it arrives later.

The warehouse reports to our API with events, ``POST /warehouses/{warehouse}/events``. Published in docs/warehouses.md.

Account: ``base_url``; secret ``secret``.
"""

import json
from typing import Literal

from pydantic import ValidationError

from activities.kit import http, signing
from activities.kit.errors import refused, unavailable
from models.accounts import AccountFields, secret
from models.address import Addressee
from models.base import Moment, Value
from models.fulfillment import FulfillmentLine, Label, Recall, RequestStatus
from models.intake import Account

ACCOUNT = AccountFields(
    console="wms",
    fields=(secret("secret", about="own_secret"),),
    base_url="https://{your warehouse system}",
)


class Submission(Value):
    """A fulfillment order as sent to a warehouse. The label has the address: the recipient is masked."""

    fulfillment_id: str
    order_no: str
    carrier: str
    waybill_no: str
    label: Label
    lines: tuple[FulfillmentLine, ...]
    recipient: Addressee
    priority: int
    promised_by: Moment | None = None
    queue: str | None = None
    """The warehouse's work queue, where the merchant's rules name one."""


class _Answer(Value):
    status: Literal["submitted", "accepted", "rejected"]
    reason: str = ""


async def submit(account: Account, submission: Submission) -> RequestStatus:
    """Submit a fulfillment order; return submitted or accepted. Raises ``refused`` where it is rejected."""
    content = await _post(account, "fulfillments", submission.model_dump_json().encode())
    try:
        answer = _Answer.model_validate_json(content)
    except ValidationError:
        raise unavailable("error.malformed", vendor="wms") from None
    if answer.status == "rejected":
        raise refused(answer.reason or "hold.warehouse.rejected", "rejected")
    return RequestStatus(answer.status)


async def recall(account: Account, fulfillment_id: str, reason: str) -> Recall:
    """Request the recall of a fulfillment order."""
    body = json.dumps({"fulfillment_id": fulfillment_id, "reason": reason}, ensure_ascii=False)
    content = await _post(account, "recalls", body.encode())
    try:
        return Recall.model_validate_json(content)
    except ValidationError:
        raise unavailable("error.malformed", vendor="wms") from None


async def _post(account: Account, path: str, body: bytes) -> bytes:
    headers = signing.signed_headers(account.secrets["secret"], body)
    response = await http.send("POST", f"{account.base_url.rstrip('/')}/{path}", content=body, headers=headers)
    return response.content
