"""One harmless call to each account's other side: whether its address and its secrets are right."""

from datetime import UTC, datetime, timedelta
from importlib import import_module

from temporalio.exceptions import ApplicationError

from activities import media
from activities.accounts import declarations
from activities.accounts.channel_access import open_channel
from activities.carriers import Aggregator, Carrier, tracker
from activities.channels import OrderReader
from activities.kit import http
from activities.kit.errors import EXPIRED, InvalidFields
from models.i18n import t
from models.intake import Account, IntegrationType
from models.notifications import Message

_UNKNOWN = "HENGDAN0000000"
"""A waybill and fulfillment order that nobody has."""


async def try_access(account: Account) -> str:
    """Make one harmless call with an account; return the message key of what it did.

    Raise ``InvalidFields`` where the account does not fit its declaration, ``ApplicationError`` where the call failed.
    """
    if faults := declarations.check(
        account.integration, account.source, account.base_url, account.secrets, account.settings
    ):
        raise InvalidFields(faults)
    match account.integration:
        case IntegrationType.CHANNEL:
            return await _try_channel(account)
        case IntegrationType.CARRIER:
            return await _try_carrier(account)
        case IntegrationType.MEDIA:
            return await _try_medium(account)
        case _:
            module = import_module(f"{declarations.PACKAGES[account.integration]}.{account.source}")
            await module.recall(account, _UNKNOWN, "test")
            return "account.test.recalled"


async def _try_channel(account: Account) -> str:
    now = datetime.now(UTC)
    for last in (False, True):
        try:
            async with open_channel(account.source, account.account) as adapter:
                if isinstance(adapter, OrderReader):
                    async for _ in adapter.numbers(now - timedelta(minutes=1), now):
                        break
                    return "account.test.listed"
            break
        except ApplicationError as error:
            if error.type != EXPIRED or last:
                raise
    return await _reach(account)


async def _try_carrier(account: Account) -> str:
    adapter = tracker(account)
    if isinstance(adapter, Aggregator) and not isinstance(adapter, Carrier):
        await adapter.candidate_carriers(_UNKNOWN)
    else:
        await adapter.track(_UNKNOWN, "0000")
    return "account.test.tracked"


async def _try_medium(account: Account) -> str:
    """Send a test message, but to nobody who did not ask for it: without a recipient only the address is tried."""
    to = str(account.settings.get("to", ""))
    if account.source == "sms" or (account.source == "email" and not to):
        return await _reach(account)
    text = t("account.test.message", account.settings.get("lang"))
    await media.send(
        account, Message(id=f"test:{datetime.now(UTC).timestamp()}", event="test", to=to, subject=text, body=text)
    )
    return "account.test.sent"


async def _reach(account: Account) -> str:
    """Connect to the account's address; any answer shows that somebody is there."""
    if not account.base_url:
        return "account.test.nobody"
    try:
        await http.send("GET", account.base_url)
    except ApplicationError as error:
        if not error.message.startswith("error.http"):
            raise
    return "account.test.reached"
