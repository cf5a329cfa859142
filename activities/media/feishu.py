"""Feishu's group bots (飞书自定义机器人).

Source: open.feishu.cn, custom bots: ``sign`` = base64 of HMAC-SHA256 of an empty message under the key
``{timestamp}\\n{secret}``, ``timestamp`` in seconds.

Account: ``base_url`` ``https://open.feishu.cn/open-apis/bot/v2/hook/{token}``; secret ``secret`` if the bot
requires signatures.
"""

import hmac
import json
from base64 import b64encode
from time import time
from typing import Any

from activities.kit import http
from activities.media import bot_failed
from models.accounts import AccountFields, secret
from models.intake import Account
from models.notifications import Message

ACCOUNT = AccountFields(
    console="feishu",
    fields=(secret("secret", required=False, about="bot_secret"),),
    base_url="https://open.feishu.cn/open-apis/bot/v2/hook/{token}",
)


def sign(timestamp: str, secret: str) -> str:
    return b64encode(hmac.digest(f"{timestamp}\n{secret}".encode(), b"", "sha256")).decode()


async def send(account: Account, message: Message) -> None:
    text = f"{message.subject}\n{message.body}" if message.subject else message.body
    payload: dict[str, Any] = {"msg_type": "text", "content": {"text": text}}
    if secret := account.secrets.get("secret"):
        timestamp = str(int(time()))
        payload |= {"timestamp": timestamp, "sign": sign(timestamp, secret)}
    body = json.dumps(payload, ensure_ascii=False).encode()
    headers = {"content-type": "application/json"}
    response = http.json_object(await http.send("POST", account.base_url, content=body, headers=headers))
    if response.get("code", response.get("StatusCode")) != 0:
        raise bot_failed("feishu", response.get("code"))
