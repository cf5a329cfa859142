"""Where an order was born, and how it came to us."""

from enum import StrEnum

from models.base import Value


class ChannelKind(StrEnum):
    MARKETPLACE = "marketplace"
    OWN_SITE = "own_site"
    APP = "app"
    STORE = "store"


class IntakePath(StrEnum):
    WEBHOOK = "webhook"
    POLL = "poll"
    IMPORT = "import"
    MANUAL = "manual"
    REISSUE = "reissue"


class Origin(Value):
    """The source of an order; ``region`` is the buyer's as told by the channel."""

    kind: ChannelKind
    platform: str
    shop: str
    region: str = ""
    campaign: str = ""
    intake: IntakePath
