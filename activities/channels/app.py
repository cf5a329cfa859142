"""The merchant's own mobile app, in the format of the own site (``activities.channels.own``)."""

from activities.channels.own import ACCOUNT, Own
from models.intake import Account
from models.origins import ChannelKind

__all__ = ["ACCOUNT", "adapter"]


class App(Own):
    kind = ChannelKind.APP


def adapter(account: Account) -> App:
    return App(account)
