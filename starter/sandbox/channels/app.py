"""The app's twin: it speaks as the own site does.

Account: ``base_url`` ``{sandbox}/app/{shop}``; secret ``secret``.
"""

from starter.sandbox.channels.own import PATH, SECRETS, SETTINGS, playing

__all__ = ["PATH", "SECRETS", "SETTINGS", "router", "shops"]

router, shops = playing("app", "M")
