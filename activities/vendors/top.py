"""TOP, the Taobao Open Platform: signed calls and their errors, for Taobao and Cainiao.

Sources: open.taobao.com (signing, docId 101617; error codes of the gateway and of services).

Account: ``base_url`` up to ``/router/rest``; secrets ``app_key``, ``app_secret``, ``session``, ``refresh_token`` where
the session can be renewed; setting ``sign_method`` (``md5``, ``hmac``, ``hmac-sha256``).
"""

import hmac
import json
import re
from collections.abc import Mapping
from datetime import datetime
from hashlib import md5
from typing import Any

from temporalio.exceptions import ApplicationError

from activities.kit import http
from activities.kit.errors import expired, refused, unavailable
from activities.kit.payloads import CHINA, format_china_time
from models.intake import Account

_TRANSIENT = ("B150", "S01")
_BUSY = re.compile(r"(稍后再试|超时|服务不可用)[！!。]?$")
"""How a ``sub_msg`` ends where an ``isv.*`` is theirs all the same."""
_SERVICES = {15, 50}
"""The codes of what the service behind the gateway refused, and not the gateway."""


def sign(params: Mapping[str, str], secret: str, method: str = "md5") -> str:
    """TOP's signature: keys and values in the order of the keys, digested with the secret; capital hex."""
    text = "".join(f"{key}{value}" for key, value in sorted(params.items()) if key != "sign").encode()
    key = secret.encode()
    if method == "md5":
        return md5(key + text + key, usedforsecurity=False).hexdigest().upper()
    return hmac.digest(key, text, "sha256" if method == "hmac-sha256" else "md5").hex().upper()


class Top:
    """Calls to TOP, and what its answers mean."""

    def __init__(self, account: Account) -> None:
        self._url = f"{account.base_url.rstrip('/')}/router/rest"
        self._secrets = account.secrets
        self._sign_method = str(account.settings.get("sign_method", "hmac-sha256"))

    async def call(self, method: str, **business: str) -> tuple[dict[str, Any], bytes]:
        """The decoded answer and its bytes. Raises ``ApplicationError``: TOP reports faults with status 200."""
        params = {
            "method": method,
            "app_key": self._secrets["app_key"],
            "timestamp": format_china_time(datetime.now(CHINA)),
            "format": "json",
            "v": "2.0",
            "sign_method": self._sign_method,
            **business,
        }
        if method != "taobao.top.auth.token.refresh":
            params["session"] = self._secrets["session"]
        params["sign"] = sign(params, self._secrets["app_secret"], self._sign_method)
        response = await http.send("POST", self._url, data=params)
        try:
            answer = json.loads(response.content)
            if "error_response" in answer:
                if answer["error_response"].get("code") == 27 and self._secrets.get("refresh_token"):
                    raise expired(f"{method}: 27")
                raise fault(method, answer["error_response"])
            return answer[f"{method.removeprefix('taobao.').replace('.', '_')}_response"], response.content
        except (ValueError, TypeError, KeyError, AttributeError):
            raise unavailable(f"{method}: answered with what is no TOP response") from None


def fault(method: str, error: Mapping[str, Any]) -> ApplicationError:
    """What an ``error_response`` means: ``isv.*`` is our fault and final, ``isp.*`` theirs and passing.

    Refused by a service, its detail is the sub code; by the gateway, which does not know us, the gateway's own number.
    """
    code, sub_code, sub_msg = error.get("code"), str(error.get("sub_code") or ""), str(error.get("sub_msg") or "")
    said = f"{method}: {code} {sub_code}".rstrip()
    if code == 7:
        ban = re.search(r"last for (\d{1,6}) more second", sub_msg)
        return unavailable(said, float(ban[1]) if ban else None)
    if sub_code.startswith("isp.") or sub_code.endswith(_TRANSIENT) or _BUSY.search(sub_msg):
        return unavailable(said)
    if code in _SERVICES | {10} and not sub_code.startswith("isv."):
        return unavailable(said)
    return refused(said, sub_code if code in _SERVICES else str(code))
