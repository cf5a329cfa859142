"""Signatures of messages: our own where no vendor's format applies, and the one of plain webhook bodies.

Our own: headers ``Hengdan-Timestamp`` (Unix seconds) and ``Hengdan-Signature: v1=<hex>``, the hex HMAC-SHA256 under the
shared secret over ``{timestamp}.{raw body}``. Stripe and Standard Webhooks use the same scheme: the time is signed with
the body, so that a captured message cannot be replayed later; ``v1`` leaves room for another algorithm; several
signatures separated by spaces let a sender rotate its secret.
"""

import hmac
from base64 import b64encode
from collections.abc import Iterable, Mapping
from time import time

from activities.kit.errors import Unauthentic

WINDOW_SECONDS = 300
"""The largest difference allowed between the sender's clock and ours."""


def sign(secret: str, timestamp: str, body: bytes) -> str:
    """Return the value of ``Hengdan-Signature``."""
    return "v1=" + hmac.digest(secret.encode(), timestamp.encode() + b"." + body, "sha256").hex()


def signed_headers(secret: str, body: bytes) -> dict[str, str]:
    """Return the headers of a JSON message signed now."""
    timestamp = str(int(time()))
    return {
        "Content-Type": "application/json",
        "Hengdan-Timestamp": timestamp,
        "Hengdan-Signature": sign(secret, timestamp, body),
    }


def verify(secrets: Iterable[str], headers: Mapping[str, str], body: bytes) -> None:
    """Check a message against each secret; header names in lower case. Raises ``Unauthentic``."""
    timestamp = headers.get("hengdan-timestamp", "")
    if not (timestamp.isascii() and timestamp.isdecimal() and abs(time() - int(timestamp[:20])) <= WINDOW_SECONDS):
        raise Unauthentic(f"hengdan-timestamp: expected Unix seconds within {WINDOW_SECONDS} s of now")
    signatures = headers.get("hengdan-signature", "").encode().split()
    expected = [sign(secret, timestamp, body).encode() for secret in secrets if secret]
    if not any(hmac.compare_digest(one, other) for one in signatures for other in expected):
        raise Unauthentic("hengdan-signature: does not match")


def sign_body(secret: str, body: bytes) -> str:
    """Return the base64 HMAC-SHA256 of a body, the webhook signature of Shopify and WooCommerce."""
    return b64encode(hmac.digest(secret.encode(), body, "sha256")).decode()


def verify_body(secrets: Iterable[str | None], header: str, signature: str, body: bytes) -> None:
    """Check ``sign_body`` of a body that is not empty against each secret. Raises ``Unauthentic``."""
    expected = [sign_body(secret, body).encode() for secret in secrets if secret]
    if not (body and any(hmac.compare_digest(each, signature.encode()) for each in expected)):
        raise Unauthentic(f"{header}: does not match")
