"""Webhooks to our own subscribers, signed by Standard Webhooks: any of its libraries can verify them.

Source: standardwebhooks.com (headers ``webhook-id``, ``webhook-timestamp``, ``webhook-signature``; a repeated
message has the same id, so that its receiver can recognise it).

Account: ``base_url`` the subscriber's URL; secret ``secret`` (``whsec_…``).
"""

import json
from datetime import UTC, datetime

from standardwebhooks import Webhook

from activities.kit import http
from models.accounts import AccountFields, secret
from models.intake import Account
from models.notifications import Message

ACCOUNT = AccountFields(
    console="webhook",
    fields=(secret("secret", about="webhook_signing"),),
    base_url="https://{subscriber}",
)


async def send(account: Account, message: Message) -> None:
    now = datetime.now(UTC)
    payload = {"type": message.event, "timestamp": now.isoformat(), "data": message.facts | {"text": message.body}}
    body = json.dumps(payload, ensure_ascii=False, separators=(",", ":"))
    headers = {
        "content-type": "application/json",
        "webhook-id": message.id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(account.secrets["secret"]).sign(message.id, now, body),
    }
    await http.send("POST", account.base_url, content=body.encode(), headers=headers)
