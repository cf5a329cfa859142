"""The merchant's own mobile app: it speaks as the own site does (``activities.channels.own``)."""

from activities.channels.own import Own
from models.intake import Account
from models.origins import ChannelKind


class App(Own):
    kind = ChannelKind.APP


def adapter(account: Account) -> App:
    return App(account)
