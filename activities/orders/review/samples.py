"""Sample facts of orders: they define what conditions may name and with which types, and conditions are tried on them.

Amounts and rates are doubles, counts are integers. No text is personal, except remarks.
"""

from collections.abc import Mapping
from typing import Any

from activities.kit.expressions import Vocabulary

_ORDINARY: Mapping[str, Any] = {
    "order": {
        "channel": "taobao",
        "shop": "taobao:flagship",
        "platform": "taobao",
        "kind": "marketplace",
        "campaign": "",
        "total": 100.0,
        "freight": 0.0,
        "tax": 0.0,
        "discount": 0.0,
        "currency": "CNY",
        "quantity": 1,
        "line_count": 1,
        "placed_hour": 10,
        "paid": True,
        "cash_on_delivery": False,
        "priority": 3,
        "carrier": "",
        "custom": {},
    },
    "lines": [
        {
            "sku": "A001",
            "title": "",
            "quantity": 1,
            "unit_price": 100.0,
            "discount": 0.0,
            "list_price": 0.0,
            "net": 100.0,
        }
    ],
    "recipient": {
        "country": "CN",
        "province": "上海",
        "city": "上海市",
        "district": "浦东新区",
        "town": "",
        "division": "",
        "confidence": 1.0,
    },
    "remarks": {"buyer_message": "", "seller_memo": ""},
    "amounts": {"mismatch": 0.0, "discount_rate": 0.0, "below_list": 0.0},
    "buyer": {
        "known": False,
        "first_order": True,
        "orders_30d": 0,
        "orders_24h": 0,
        "spent_30d": 0.0,
        "cancelled_30d": 0,
        "accounts_at_recipient": 1,
        "recipients_of_buyer": 1,
    },
    "risk": {"blacklisted": False, "blacklist": []},
    "stock": {"all_available": True, "short_skus": []},
}

_UNUSUAL: Mapping[str, Any] = {
    "order": {
        "channel": "own",
        "shop": "own:web",
        "platform": "own",
        "kind": "own_site",
        "campaign": "double-eleven",
        "total": 99999.99,
        "freight": 30.5,
        "tax": 0.0,
        "discount": 5000.0,
        "currency": "USD",
        "quantity": 1000,
        "line_count": 2,
        "placed_hour": 3,
        "paid": False,
        "cash_on_delivery": True,
        "priority": 1,
        "carrier": "sf",
        "custom": {},
    },
    "lines": [
        {
            "sku": sku,
            "title": "恒单",
            "quantity": 500,
            "unit_price": 99.5,
            "discount": 30000.0,
            "list_price": 199.0,
            "net": 19750.0,
        }
        for sku in ("B006", "C001")
    ],
    "recipient": {
        "country": "CN",
        "province": "西藏",
        "city": "那曲市",
        "district": "申扎县",
        "town": "买巴乡",
        "division": "540625",
        "confidence": 0.25,
    },
    "remarks": {"buyer_message": "请先别发货", "seller_memo": "vip"},
    "amounts": {"mismatch": -12.5, "discount_rate": 0.75, "below_list": 0.8},
    "buyer": {
        "known": True,
        "first_order": False,
        "orders_30d": 50,
        "orders_24h": 20,
        "spent_30d": 123456.5,
        "cancelled_30d": 9,
        "accounts_at_recipient": 12,
        "recipients_of_buyer": 30,
    },
    "risk": {"blacklisted": True, "blacklist": ["phone"]},
    "stock": {"all_available": False, "short_skus": ["B006"]},
}

ORDER_VOCABULARY = Vocabulary((_ORDINARY, _UNUSUAL))
"""The facts that conditions may name, with their types."""
