"""WeCom's group bots (企业微信群机器人).

Source: developer.work.weixin.qq.com, group robots: markdown of at most 4,096 bytes, twenty messages a minute.

Account: ``base_url`` ``https://qyapi.weixin.qq.com/cgi-bin/webhook/send``; secret ``key``.
"""

import json

from activities.kit import http
from activities.media import bot_failed
from models.accounts import AccountFields, secret
from models.intake import Account
from models.notifications import Message

ACCOUNT = AccountFields(
    console="wecom",
    fields=(secret("key", about="bot_token"),),
    base_url="https://qyapi.weixin.qq.com/cgi-bin/webhook/send",
)

_MAX_BYTES = 4096


async def send(account: Account, message: Message) -> None:
    text = f"**{message.subject}**\n{message.body}" if message.subject else message.body
    content = text.encode()[:_MAX_BYTES].decode(errors="ignore")
    body = json.dumps({"msgtype": "markdown", "markdown": {"content": content}}, ensure_ascii=False).encode()
    params, headers = {"key": account.secrets["key"]}, {"content-type": "application/json"}
    response = http.json_object(await http.send("POST", account.base_url, content=body, params=params, headers=headers))
    if response.get("errcode") != 0:
        raise bot_failed("wecom", response.get("errcode"))
