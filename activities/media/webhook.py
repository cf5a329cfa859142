"""Our own subscribers: signed as Standard Webhooks say, so that any of their libraries verifies it.

Source: standardwebhooks.com (headers ``webhook-id``, ``webhook-timestamp``, ``webhook-signature``; the id stays the
same however often a message is sent, so that its receiver knows a repetition).

Account: ``base_url`` the subscriber's address; secret ``secret`` (``whsec_…``).
"""

import json
from datetime import UTC, datetime

from standardwebhooks import Webhook

from activities.kit import http
from models.intake import Account
from models.notifications import Message


async def send(account: Account, message: Message) -> None:
    now = datetime.now(UTC)
    told = {"type": message.event, "timestamp": now.isoformat(), "data": message.facts | {"text": message.body}}
    body = json.dumps(told, ensure_ascii=False, separators=(",", ":"))
    headers = {
        "content-type": "application/json",
        "webhook-id": message.id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(account.secrets["secret"]).sign(message.id, now, body),
    }
    await http.send("POST", account.base_url, content=body.encode(), headers=headers)
