"""DingTalk's group bots (钉钉自定义机器人).

Source: open.dingtalk.com, custom robot access and its signing (加签): ``timestamp`` in milliseconds and ``sign`` =
base64 of HMAC-SHA256 over ``{timestamp}\\n{secret}``; at most twenty messages a minute.

Account: ``base_url`` ``https://oapi.dingtalk.com/robot/send``; secrets ``access_token``, and
``secret`` if the bot requires signatures.
"""

import hmac
import json
from base64 import b64encode
from time import time

from activities.kit import http
from activities.media import bot_failed
from models.accounts import AccountFields, secret
from models.intake import Account
from models.notifications import Message

ACCOUNT = AccountFields(
    console="dingtalk",
    fields=(
        secret("access_token", about="bot_token"),
        secret("secret", required=False, about="bot_secret"),
    ),
    base_url="https://oapi.dingtalk.com/robot/send",
)


def sign(timestamp: str, secret: str) -> str:
    return b64encode(hmac.digest(secret.encode(), f"{timestamp}\n{secret}".encode(), "sha256")).decode()


async def send(account: Account, message: Message) -> None:
    params = {"access_token": account.secrets["access_token"]}
    if secret := account.secrets.get("secret"):
        timestamp = str(int(time() * 1000))
        params |= {"timestamp": timestamp, "sign": sign(timestamp, secret)}
    title = message.subject or message.body[:30]
    payload = {"msgtype": "markdown", "markdown": {"title": title, "text": f"### {title}\n\n{message.body}"}}
    body = json.dumps(payload, ensure_ascii=False).encode()
    headers = {"content-type": "application/json"}
    response = http.json_object(await http.send("POST", account.base_url, content=body, params=params, headers=headers))
    if response.get("errcode") != 0:
        raise bot_failed("dingtalk", response.get("errcode"))
