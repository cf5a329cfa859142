"""The app's twin, in the format of the own site.

Account: ``base_url`` ``{sandbox}/app/{shop}``; secret ``secret``.
"""

from starter.sandbox.channels.own import PATH, SECRETS, SETTINGS, site

__all__ = ["PATH", "SECRETS", "SETTINGS", "router", "shops"]

router, shops = site("app", "M")
