"""The conventions that the API gateways of Chinese platforms share: how parameters are signed, how JSON is written, and
how a response outside of the documented format is reported."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import md5
from typing import Any

from activities.kit.errors import Unintelligible, unavailable


def joined_params(params: Mapping[str, str]) -> str:
    """Return keys and values without separators, sorted by key; ``sign`` itself is left out."""
    return "".join(f"{key}{value}" for key, value in sorted(params.items()) if key != "sign")


def md5_sign(params: Mapping[str, str], secret: str) -> str:
    """Sign sorted parameters by the MD5 digest of ``secret + parameters + secret``, in upper-case hex."""
    return md5(f"{secret}{joined_params(params)}{secret}".encode(), usedforsecurity=False).hexdigest().upper()


def compact_json(value: Any) -> str:
    """Return JSON without spaces and with sorted keys, as gateways sign it."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


@contextmanager
def documented_format(method: str) -> Iterator[None]:
    """Raise ``unavailable`` where the response to ``method`` is not in the documented format."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError, Unintelligible):
        raise unavailable("error.malformed.method", method=method) from None
