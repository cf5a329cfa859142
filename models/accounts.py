"""What an adapter needs of an account: its secrets and settings, as the adapter's module declares them."""

from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter


@dataclass(frozen=True)
class AccountField:
    """A secret or a setting. The text of the key ``account.field.{about}`` says what it is and where to find it."""

    name: str
    type: Any
    required: bool
    secret: bool
    about: str

    @property
    def schema(self) -> dict[str, Any]:
        return TypeAdapter(self.type).json_schema()


@dataclass(frozen=True)
class AccountFields:
    """The declaration ``ACCOUNT`` of an adapter's module. The text ``account.console.{console}`` says where to look."""

    console: str
    fields: tuple[AccountField, ...] = ()
    base_url: str = ""
    """The vendor's address, or an example of the merchant's own in braces; empty: the adapter calls nobody."""
    base_url_required: bool = True

    @property
    def default_url(self) -> str:
        """The address that an account without ``base_url`` takes; empty where each account has its own."""
        return "" if "{" in self.base_url else self.base_url


def secret(name: str, *, required: bool = True, about: str = "") -> AccountField:
    return AccountField(name, str, required, True, about or name)


def setting(name: str, type: Any = str, *, required: bool = False, about: str = "") -> AccountField:
    return AccountField(name, type, required, False, about or name)


PUSH_SECRET = secret("push_secret", required=False)
CODES_OF_CARRIERS = setting("carrier_codes", dict[str, str])
RENEWED = (secret("refresh_token", required=False), secret("expires_at", required=False))
"""What the owner's authorisation also brings, where access expires."""
