"""Text messages by Aliyun SMS (阿里云短信服务).

Source: help.aliyun.com, SendSms (dysmsapi, version 2017-05-25) and RPC signatures (HMAC-SHA1 over the percent-encoded
query, version 1.0). A text message is a template approved by Aliyun: ``subject`` is the template's code, ``body`` the
JSON of its variables. A repeated message keeps its nonce, which Aliyun refuses without sending again.

Account: ``base_url`` ``https://dysmsapi.aliyuncs.com``; secrets ``access_key_id``, ``access_key_secret``; setting
``sign_name``.
"""

import hmac
from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import quote

from activities.kit import http
from activities.kit.errors import refused, unavailable
from models.accounts import AccountFields, secret, setting
from models.intake import Account
from models.notifications import Message

ACCOUNT = AccountFields(
    console="sms",
    fields=(
        secret("access_key_id"),
        secret("access_key_secret"),
        setting("sign_name", required=True),
    ),
    base_url="https://dysmsapi.aliyuncs.com",
)

_ALREADY_SENT = "SignatureNonceUsed"
_TRANSIENT = {"isv.BUSINESS_LIMIT_CONTROL", "isp.SYSTEM_ERROR", "Throttling.User", "isp.GATEWAY_ERROR"}


def sign(params: Mapping[str, str], secret: str, method: str = "POST") -> str:
    """Return the ``Signature`` of an RPC call."""
    query = "&".join(f"{_percent_encode(name)}={_percent_encode(value)}" for name, value in sorted(params.items()))
    text = f"{method}&{_percent_encode('/')}&{_percent_encode(query)}"
    return b64encode(hmac.digest(f"{secret}&".encode(), text.encode(), "sha1")).decode()


def _percent_encode(text: str) -> str:
    return quote(text, safe="-_.~")


async def send(account: Account, message: Message) -> None:
    params = {
        "Action": "SendSms",
        "Version": "2017-05-25",
        "Format": "JSON",
        "AccessKeyId": account.secrets["access_key_id"],
        "SignatureMethod": "HMAC-SHA1",
        "SignatureVersion": "1.0",
        "SignatureNonce": message.id,
        "Timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "PhoneNumbers": message.to,
        "SignName": str(account.settings.get("sign_name", "")),
        "TemplateCode": message.subject,
        "TemplateParam": message.body,
        "OutId": message.id[:256],
    }
    params["Signature"] = sign(params, account.secrets["access_key_secret"])
    response = http.json_object(
        await http.send("POST", account.base_url, data=params, allowed_statuses={400, 403, 404})
    )
    code = str(response.get("Code"))
    if code not in ("OK", _ALREADY_SENT):
        if code in _TRANSIENT:
            raise unavailable("error.unavailable", 60, vendor="sms", code=code)
        raise refused("error.refused", code, vendor="sms", code=code)
