"""TOP, the Taobao Open Platform, for Taobao and Cainiao: signed calls and their errors.

Sources: open.taobao.com (signing, docId 101617; error codes of the gateway and of services).

Account: ``base_url`` up to ``/router/rest``; secrets ``app_key``, ``app_secret``, ``session``, ``refresh_token`` where
the session can be renewed; setting ``sign_method`` (``md5``, ``hmac``, ``hmac-sha256``).
"""

import hmac
import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from temporalio.exceptions import ApplicationError

from activities.kit import http
from activities.kit.errors import expired, refused, unavailable
from activities.kit.payloads import CHINA, format_china_time
from activities.vendors.gateway import documented_format, joined_params, md5_sign
from models.intake import Account

_TRANSIENT = ("B150", "S01")
_BUSY = re.compile(r"(稍后再试|超时|服务不可用)[！!。]?$")
"""How a ``sub_msg`` ends where the error is temporary despite its ``isv.*`` code."""
_SERVICES = {15, 50}
"""Codes of refusals by the service behind the gateway, not by the gateway."""


def sign(params: Mapping[str, str], secret: str, method: str = "md5") -> str:
    """Return TOP's signature of the sorted parameters, in upper-case hex."""
    if method == "md5":
        return md5_sign(params, secret)
    digest = "sha256" if method == "hmac-sha256" else "md5"
    return hmac.digest(secret.encode(), joined_params(params).encode(), digest).hex().upper()


class Top:
    """A client of TOP."""

    def __init__(self, account: Account) -> None:
        self._url = f"{account.base_url.rstrip('/')}/router/rest"
        self._secrets = account.secrets
        self._sign_method = str(account.settings.get("sign_method", "hmac-sha256"))

    async def call(self, method: str, **business: str) -> tuple[dict[str, Any], bytes]:
        """Return the decoded response and its bytes. Raises ``ApplicationError``: errors come with status 200."""
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
        with documented_format(method):
            document = json.loads(response.content)
            if "error_response" in document:
                if document["error_response"].get("code") == 27 and self._secrets.get("refresh_token"):
                    raise expired("top")
                raise fault(method, document["error_response"])
            answer: dict[str, Any] = document[f"{method.removeprefix('taobao.').replace('.', '_')}_response"]
        return answer, response.content


def fault(method: str, error: Mapping[str, Any]) -> ApplicationError:
    """Return the error for an ``error_response``: ``isv.*`` is our fault and final, ``isp.*`` is TOP's and temporary.

    The detail of a refusal is the sub code of the service, or the gateway's own code where the gateway refused.
    """
    code, sub_code, sub_msg = error.get("code"), str(error.get("sub_code") or ""), str(error.get("sub_msg") or "")
    reason = f"{method}: {code} {sub_code}".rstrip()
    if code == 7:
        ban = re.search(r"last for (\d{1,6}) more second", sub_msg)
        return unavailable("error.unavailable", float(ban[1]) if ban else None, vendor="top", code=reason)
    if sub_code.startswith("isp.") or sub_code.endswith(_TRANSIENT) or _BUSY.search(sub_msg):
        return unavailable("error.unavailable", vendor="top", code=reason)
    if code in _SERVICES | {10} and not sub_code.startswith("isv."):
        return unavailable("error.unavailable", vendor="top", code=reason)
    return refused("error.refused", sub_code if code in _SERVICES else str(code), vendor="top", code=reason)
