"""The search attributes of workflows, defined once. None of them holds personal data."""

from temporalio.common import SearchAttributeKey

STATUS = SearchAttributeKey.for_keyword("OrderStatus")
CHANNEL = SearchAttributeKey.for_keyword("Channel")
SHOP = SearchAttributeKey.for_keyword("Shop")
WAREHOUSES = SearchAttributeKey.for_keyword_list("Warehouses")
CARRIERS = SearchAttributeKey.for_keyword_list("Carriers")
HOLDS = SearchAttributeKey.for_keyword_list("Holds")
PRIORITY = SearchAttributeKey.for_int("OrderPriority")
PROMISED_BY = SearchAttributeKey.for_datetime("PromisedBy")

KEYS = (STATUS, CHANNEL, SHOP, WAREHOUSES, CARRIERS, HOLDS, PRIORITY, PROMISED_BY)

SEARCH_ATTRIBUTES = {key.name: key.indexed_value_type.name.title().replace("_", "") for key in KEYS}
"""Names of search attributes to their types as the Temporal server names them, such as ``KeywordList``."""
